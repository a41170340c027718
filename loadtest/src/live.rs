//! What a terminal shows while a run goes on.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    report::LATE_MS,
    swarm::{Phase, Progress},
};

/// Progress on a terminal; silence elsewhere.
pub(crate) struct LiveView(Option<ProgressBar>);

impl LiveView {
    pub(crate) fn new(quiet: bool, name: &str) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(1_000);
        let template = "{prefix:.bold}  {bar:30.cyan/dim} {percent:>3} %  {elapsed}\n{msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(name.to_owned());
        bar.set_message("  starting");
        // A run is told of once a second; its clock goes on meanwhile.
        bar.enable_steady_tick(std::time::Duration::from_millis(250));
        Self(Some(bar))
    }

    pub(crate) fn show(&mut self, progress: &Progress<'_>) {
        let Some(bar) = &self.0 else { return };
        bar.set_message(lines(progress).join("\n"));
        bar.set_position((progress.done * 1_000.0) as u64);
    }

    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// The lines below the bar: clients, media, and what the reader must know.
fn lines(progress: &Progress<'_>) -> Vec<String> {
    let phase = match progress.phase {
        Phase::Joining => "joining",
        Phase::WarmingUp => "warming up",
        Phase::Measuring => "measuring",
        Phase::Leaving => "leaving",
    };
    let mut lines = vec![format!(
        "  {phase:<10}  {} of {} joined · {} failed · {} lost",
        progress.joined, progress.planned, progress.failed, progress.lost
    )];
    let Some(point) = progress.last else { return lines };
    let count = &point.count;
    let mut media = format!("  received    {:.1} Mb/s", count.bytes_received as f64 * 8.0 / 1e6);
    if count.expected > 0 {
        let share = |part: u64| part as f64 * 100.0 / count.expected as f64;
        media.push_str(&format!(
            " · loss {:.2} % ({:.2} % before repair)",
            share(count.lost_after_repair),
            share(count.lost_before_repair)
        ));
    }
    if progress.phase == Phase::Measuring {
        lines.push(media);
        if let Some((p50, p99)) = point.latency_ms {
            lines.push(format!("  latency     p50 {p50:.1} ms, p99 {p99:.1} ms"));
        }
    }
    if let Some(delay) = point.tester_delay_ms.filter(|ms| *ms > LATE_MS) {
        lines.push(format!(
            "  \u{1b}[1;31mthe tester itself is the bottleneck: it came to datagrams {delay:.0} ms late (p99)\u{1b}[0m"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{measure::Stats, swarm::Point};

    #[test]
    fn a_late_tester_says_so() {
        let mut stats = Stats::default();
        stats.count.bytes_received = 1_250_000;
        stats.count.expected = 1_000;
        stats.count.lost_before_repair = 20;
        stats.latency_video.record(Duration::from_millis(7));
        let show = |stats: &Stats| {
            let point = Point::of(Duration::from_secs(1), 9, stats);
            let progress = Progress {
                phase: Phase::Measuring,
                planned: 10,
                joined: 9,
                failed: 1,
                lost: 0,
                done: 0.5,
                last: Some(&point),
            };
            lines(&progress)
        };
        let calm = show(&stats);
        assert_eq!(calm.len(), 3, "{calm:?}");
        assert!(calm[0].contains("measuring   9 of 10 joined · 1 failed"), "{calm:?}");
        assert!(calm[1].contains("10.0 Mb/s · loss 0.00 % (2.00 % before repair)"), "{calm:?}");
        assert!(calm[2].contains("latency     p50 7.0 ms, p99 7.0 ms"), "{calm:?}");
        stats.tester_delay.record(Duration::from_millis(60));
        stats.count.bytes_received = 1_250_000_000;
        stats.latency_video.record(Duration::from_secs(20));
        let late = show(&stats);
        for line in &late {
            let shown = line.replace("\u{1b}[1;31m", "").replace("\u{1b}[0m", "");
            assert!(shown.chars().count() <= 80, "{shown}");
        }
        assert!(late[3].contains("the tester itself is the bottleneck"), "{late:?}");
    }
}
