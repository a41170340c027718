//! Log lines.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Starts logging to standard error. Fails on a malformed filter.
pub fn start(filter: &str, json: bool) -> Result<(), String> {
    let colours = io::stderr().is_terminal();
    let log = log_to(filter, json, colours, io::stderr)?;
    log.try_init().map_err(|error| error.to_string())
}

/// A log that `filter` lets lines into. Whatever it says, libraries say nothing below the level `info`: their
/// details are addresses, HTTP headers and frames.
pub fn log_to<W>(
    filter: &str,
    json: bool,
    colours: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let parsed =
        EnvFilter::try_new(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let lines = fmt::layer::<Registry>().with_ansi(colours).with_writer(writer);
    let lines = if json { lines.json().boxed() } else { lines.boxed() };
    // Without a hint the other's is lost too, and every line of a library is made and handed over before it is refused.
    let known = filter_fn(may_be_logged).with_max_level_hint(LevelFilter::TRACE);
    let allowed = parsed.and(known);
    Ok(tracing_subscriber::registry().with(lines.with_filter(allowed)))
}

fn may_be_logged(line: &Metadata<'_>) -> bool {
    *line.level() <= Level::INFO || line.target().starts_with("chappe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_wants_are_refused_where_they_are_said() {
        for (filter, most) in [
            ("error", LevelFilter::ERROR),
            ("info", LevelFilter::INFO),
            ("warn,chappe_sfu=debug", LevelFilter::DEBUG),
        ] {
            let log = log_to(filter, false, false, io::sink).unwrap();
            assert_eq!(log.max_level_hint(), Some(most), "{filter}");
        }
    }
}
