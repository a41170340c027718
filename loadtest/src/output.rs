//! Where a report goes, and what it decides.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use serde::Serialize;

use crate::{
    cli::OutputArgs,
    report::{self, Condition, Report},
    usage::Usage,
};

/// Mistakes in what comes after a run, told before it.
pub(crate) fn conditions(out: &OutputArgs) -> Result<Vec<Condition>, Usage> {
    for (option, path) in [("--output", &out.output), ("--html", &out.html)] {
        let Some(path) = path else { continue };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if path.is_dir() || folder.is_some_and(|folder| !folder.is_dir()) {
            let text = format!("{option} {}: no file can be there", path.display());
            return Err(Usage(text));
        }
    }
    let conditions = out.fail_if.iter().map(|text| text.parse());
    known(conditions.collect::<Result<_, String>>()?)
}

/// Conditions that speak of figures that there are.
pub(crate) fn known(conditions: Vec<Condition>) -> Result<Vec<Condition>, Usage> {
    let names = report::figure_names();
    match conditions.iter().find(|condition| !names.contains(condition.figure())) {
        Some(condition) => {
            let text = "there is no such figure: a report (--json) names them in its figures";
            Err(Usage(format!("{condition}: {text}")))
        }
        None => Ok(conditions),
    }
}

/// Shows a report, and judges it.
pub(crate) fn conclude(
    (report, refused): (Report, Option<String>),
    out: &OutputArgs,
    conditions: &[Condition],
) -> Result<ExitCode, Usage> {
    publish(&report, out)?;
    if let Some(refusal) = refused {
        return Err(Usage(refusal));
    }
    let mut code = ExitCode::SUCCESS;
    for condition in conditions {
        match condition.check(&report.figures) {
            Some((_, false)) => {}
            Some((value, true)) => {
                eprintln!("chappe-loadtest: failed: {condition} ({value})");
                code = ExitCode::FAILURE;
            }
            None => {
                let figure = condition.figure();
                return Err(Usage(format!(
                    "--fail-if {condition}: this run has no figure {figure}"
                )));
            }
        }
    }
    Ok(code)
}

/// The report, wherever it was asked for: one place that cannot have it takes it from none of the others.
fn publish(report: &Report, out: &OutputArgs) -> Result<(), Usage> {
    let mut done = Ok(());
    let json = json(report)?;
    for (path, text) in [(&out.output, &json), (&out.html, &report::html(report))] {
        let Some(path) = path else { continue };
        if let Err(error) = std::fs::write(path, text) {
            done = Err(Usage(format!("{}: {error}", path.display())));
        }
    }
    print(&if out.json { json } else { report::table(report) })?;
    done
}

pub(crate) fn json(value: &impl Serialize) -> Result<String, Usage> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Usage(error.to_string()))?;
    Ok(text + "\n")
}

/// Prints to standard output. Who reads no further (`| head`) has seen what they wanted.
pub(crate) fn print(text: &str) -> Result<(), Usage> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Usage(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
