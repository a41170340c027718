//! Runs the cases of RFC 8867 in virtual time and prints a table, or JSON with `--json`; plots go to `target/rmcat/`.

use std::{error::Error, fs, path::PathBuf};

use chappe_benches::rmcat::{
    cases::{self, Stack},
    figures::{self, Figures, LayerFigures},
    media::Source,
    plot,
};
use clap::Parser;
use comfy_table::{Table, presets::ASCII_MARKDOWN};

/// RFC 8867 in virtual time.
#[derive(Parser)]
struct Args {
    /// An object with one entry per case instead of a table.
    #[arg(long)]
    json: bool,
    /// Repeats itself for a seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only cases whose name starts so.
    #[arg(long, default_value = "")]
    only: String,
    /// Where plots go.
    #[arg(long, default_value = "target/rmcat")]
    plots: PathBuf,
}

/// Cases that are run with layers in the place of an encoder that follows.
const LAYER_CASES: [&str; 2] = ["5.1", "5.2"];
/// 180p, 360p and 720p.
const LAYERS: [u64; 3] = [150_000, 450_000, 1_300_000];

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    fs::create_dir_all(&args.plots)?;
    let mut rows = Vec::new();
    for case in cases::all().iter().filter(|case| case.name.starts_with(&args.only)) {
        let records = case.run(Stack::Chappe, &Source::Encoder, args.seed);
        plot::draw(case, &records, &args.plots.join(format!("{}.svg", case.name)))?;
        rows.push(figures::measure(case, &records));
    }
    let mut layer_rows = Vec::new();
    for case in cases::all().iter().filter(|case| LAYER_CASES.contains(&case.name)) {
        let records = case.run(Stack::Chappe, &Source::Layers(LAYERS.to_vec()), args.seed);
        plot::draw(case, &records, &args.plots.join(format!("{}-layers.svg", case.name)))?;
        layer_rows.push(figures::measure_layers(case, &records, &LAYERS));
    }
    if args.json {
        let object: serde_json::Map<_, _> = rows
            .iter()
            .map(|row| {
                let mut entry = serde_json::to_value(row)?;
                if let Some(layers) = layer_rows.iter().find(|layers| layers.case == row.case) {
                    entry["layers"] = serde_json::to_value(layers)?;
                }
                Ok((row.case.clone(), entry))
            })
            .collect::<Result<_, serde_json::Error>>()?;
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        println!("{}", table(&rows));
        println!("\nOne of three simulcast layers a flow: {LAYERS:?} bit/s\n");
        println!("{}", layer_table(&layer_rows));
    }
    Ok(())
}

fn table(rows: &[Figures]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "case",
        "utilisation",
        "p95 queue ms",
        "loss %",
        "fairness",
        "converge s",
        "fall s",
        "least kb/s",
        "probing %",
        "pass",
    ]);
    let seconds = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.1}"));
    for row in rows {
        table.add_row([
            row.case.clone(),
            format!("{:.3}", row.utilisation),
            format!("{:.0}", row.p95_queue_ms),
            format!("{:.2}", row.loss * 100.0),
            format!("{:.3}", row.fairness),
            seconds(row.converge_s),
            seconds(row.fall_s),
            format!("{:.0}", row.lowest_kbps),
            format!("{:.1}", row.probing * 100.0),
            if row.pass { "yes" } else { "no" }.to_string(),
        ]);
    }
    table
}

fn layer_table(rows: &[LayerFigures]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "case",
        "chosen / best",
        "switches a minute",
        "p95 queue ms",
        "loss %",
        "pass",
    ]);
    for row in rows {
        table.add_row([
            row.case.clone(),
            format!("{:.3}", row.chosen),
            format!("{:.1}", row.switches),
            format!("{:.0}", row.p95_queue_ms),
            format!("{:.2}", row.loss * 100.0),
            if row.pass { "yes" } else { "no" }.to_string(),
        ]);
    }
    table
}
