//! Runs the cases of RFC 8867 in virtual time and prints a table, or JSON with `--json`; plots go to `target/rmcat/`.

use std::{error::Error, fs, path::PathBuf};

use chappe_benches::rmcat::{
    cases::{self, Case, Stack},
    figures::{self, Figures, LayerFigures},
    media::Source,
    plot,
};
use clap::Parser;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde_json::{Map, Value};

/// RFC 8867 in virtual time.
#[derive(Parser)]
struct Args {
    /// An object with one entry per case, instead of tables.
    #[arg(long)]
    json: bool,
    /// The axes of RFC 8868, one at a time, instead of the cases.
    #[arg(long)]
    sweep: bool,
    /// The first seed; a run repeats itself for a seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many seeds from the first on; of each figure the worst is told.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Only cases whose name starts so.
    #[arg(long, default_value = "")]
    only: String,
    /// Where plots go, of the first seed.
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
    let mut cases = if args.sweep { cases::sweep() } else { cases::all() };
    cases.retain(|case| case.name.starts_with(&args.only));
    let stacks = [Stack::Chappe, Stack::Str0m];
    let (mut rows, mut layer_rows) = (Vec::new(), Vec::new());
    for case in &cases {
        for stack in &stacks {
            rows.push((*stack, args.worst(case, *stack)?));
            if !args.sweep && LAYER_CASES.contains(&case.name) {
                layer_rows.push((*stack, args.worst_layers(case, *stack)?));
            }
        }
    }
    if args.json {
        let flows = rows.iter().map(|(stack, row)| (*stack, &row.case, serde_json::to_value(row)));
        let layers = layer_rows
            .iter()
            .map(|(stack, row)| (*stack, &row.flows.case, serde_json::to_value(row)));
        println!("{}", serde_json::to_string_pretty(&object(flows.chain(layers))?)?);
    } else {
        println!("{}", table(&rows));
        if !layer_rows.is_empty() {
            println!("\nOne of three simulcast layers a flow: {LAYERS:?} bit/s\n");
            println!("{}", layer_table(&layer_rows));
        }
    }
    Ok(())
}

/// One entry per case of ours; what str0m's estimator reaches is within, under its name.
fn object<'a>(
    rows: impl Iterator<Item = (Stack, &'a String, serde_json::Result<Value>)>,
) -> serde_json::Result<Map<String, Value>> {
    let mut object = Map::new();
    for (stack, case, row) in rows {
        let row = row?;
        match object.get_mut(case) {
            None => object.insert(case.clone(), row),
            Some(ours) => {
                ours.as_object_mut().and_then(|ours| ours.insert(stack.name().into(), row))
            }
        };
    }
    Ok(object)
}

impl Args {
    fn seeds(&self) -> std::ops::Range<u64> {
        self.seed..self.seed + self.seeds.max(1)
    }

    fn worst(&self, case: &Case, stack: Stack) -> Result<Figures, Box<dyn Error>> {
        let mut worst: Option<Figures> = None;
        for seed in self.seeds() {
            let records = case.run(stack, &Source::Encoder, seed);
            if seed == self.seed {
                plot::draw(case, &records, &self.plot(case, stack, ""))?;
            }
            let figures = figures::measure(case, &records);
            worst = Some(worst.map_or_else(|| figures.clone(), |worst| worst.worst(&figures)));
        }
        worst.ok_or_else(|| "no seed".into())
    }

    fn worst_layers(&self, case: &Case, stack: Stack) -> Result<LayerFigures, Box<dyn Error>> {
        let mut worst: Option<LayerFigures> = None;
        for seed in self.seeds() {
            let records = case.run(stack, &Source::Layers(LAYERS.to_vec()), seed);
            if seed == self.seed {
                plot::draw(case, &records, &self.plot(case, stack, "-layers"))?;
            }
            let figures = figures::measure_layers(case, &records, &LAYERS);
            worst = Some(worst.map_or_else(|| figures.clone(), |worst| worst.worst(&figures)));
        }
        worst.ok_or_else(|| "no seed".into())
    }

    fn plot(&self, case: &Case, stack: Stack, kind: &str) -> PathBuf {
        let stack = match stack {
            Stack::Chappe => "",
            Stack::Str0m => "-str0m",
        };
        let name = case.name.replace([' ', '%', ','], "_");
        self.plots.join(format!("{name}{kind}{stack}.svg"))
    }
}

fn table(rows: &[(Stack, Figures)]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "case",
        "estimator",
        "utilisation",
        "of fair share",
        "p95 queue ms",
        "loss %",
        "fairness",
        "converge s",
        "fall s",
        "least kb/s",
        "probing %",
        "pass",
    ]);
    let seconds = |value: Option<f64>| match value {
        Some(value) if value.is_finite() => format!("{value:.1}"),
        Some(_) => "never".to_owned(),
        None => "-".to_owned(),
    };
    for (stack, row) in rows {
        table.add_row([
            row.case.clone(),
            stack.name().to_owned(),
            format!("{:.3}", row.utilisation),
            format!("{:.2}", row.of_fair_share),
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

fn layer_table(rows: &[(Stack, LayerFigures)]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "case",
        "estimator",
        "chosen / best",
        "switches a minute",
        "p95 queue ms",
        "loss %",
        "pass",
    ]);
    for (stack, row) in rows {
        table.add_row([
            row.flows.case.clone(),
            stack.name().to_owned(),
            format!("{:.3}", row.chosen),
            format!("{:.1}", row.switches),
            format!("{:.0}", row.flows.p95_queue_ms),
            format!("{:.2}", row.flows.loss * 100.0),
            if row.flows.pass { "yes" } else { "no" }.to_string(),
        ]);
    }
    table
}
