//! The report as one HTML file without anything from elsewhere: figures, distributions and the run over time.

use std::fmt::Write;

use super::{
    Report, Second,
    table::{TIMES, values_of},
};

const STYLE: &str = include_str!("page.css");

/// Colours of up to four lines, told apart on light and dark grounds.
const COLOURS: [&str; 4] = ["var(--a)", "var(--b)", "var(--c)", "var(--d)"];

/// Inner size of a plot, and room for its labels.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 32.0;
const TOP: f64 = 18.0;

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let mut page = String::new();
    let title = format!("{} · load test", escape(&report.scenario.name));
    let clients = &report.clients;
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\
         <h1>{}</h1><p class=\"about\">{}</p>\
         <p>{} of {} clients joined ({} whole, {} sinks), {} failed, {} lost. Measured for {} s by {}.</p>",
        escape(&report.scenario.name),
        escape(&report.scenario.about),
        clients.joined,
        clients.planned,
        clients.full,
        clients.sinks,
        clients.failed,
        clients.lost,
        report.window_seconds,
        escape(&report.tool),
    );
    for warning in &report.warnings {
        let _ = write!(page, "<p class=\"warning\" role=\"note\">{}</p>", escape(warning));
    }
    tiles(&mut page, report);
    plots(&mut page, report);
    distributions(&mut page, report);
    times(&mut page, report);
    agents(&mut page, report);
    values(&mut page, report);
    scenario(&mut page, report);
    page.push_str("</main></body></html>\n");
    page
}

fn tiles(page: &mut String, report: &Report) {
    let figure = |name: &str, unit: &str, digits: usize| {
        report
            .figures
            .get(name)
            .map_or("–".to_owned(), |value| format!("{} {unit}", grouped(*value, digits)))
    };
    page.push_str("<section class=\"tiles\">");
    for (label, value) in [
        ("latency p50", figure("p50_latency_ms", "ms", 1)),
        ("latency p99", figure("p99_latency_ms", "ms", 1)),
        ("loss after repair", figure("loss_percent", "%", 3)),
        ("freezes", figure("freezes", "", 0)),
        ("join p99", figure("p99_join_ms", "ms", 0)),
        ("packets a second", figure("packets_per_second", "", 0)),
        ("server CPU per packet", figure("server_cpu_us_per_packet", "µs", 2)),
        ("server CPU", figure("server_cpu_percent", "%", 0)),
    ] {
        let _ = write!(page, "<div><b>{value}</b><span>{label}</span></div>");
    }
    page.push_str("</section>");
}

/// With thousands apart.
fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let whole = text.find('.').unwrap_or(text.len());
    let mut grouped = String::new();
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && at < whole && (whole - at).is_multiple_of(3) && digit != '-' {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// One line of a plot over time.
struct Line {
    label: &'static str,
    value: fn(&Second) -> Option<f64>,
}

fn plots(page: &mut String, report: &Report) {
    let line = |label, value| Line { label, value };
    page.push_str("<section class=\"plots\">");
    for (title, unit, lines) in [
        (
            "Latency",
            "ms",
            vec![line("p50", |s| s.p50_latency_ms), line("p99", |s| s.p99_latency_ms)],
        ),
        ("Received", "Mb/s", vec![line("all clients", |s| Some(s.received_mbps))]),
        (
            "Loss",
            "%",
            vec![
                line("before repair", |s| s.loss_before_repair_percent),
                line("after repair", |s| s.loss_percent),
            ],
        ),
        ("Clients in their rooms", "", vec![line("clients", |s| Some(f64::from(s.in_room)))]),
    ] {
        let lines: Vec<_> = lines
            .iter()
            .map(|line| {
                let points = report.series.iter();
                let points =
                    points.filter_map(|second| Some((second.at_seconds, (line.value)(second)?)));
                // What is measured inside the window only is nothing before it, not 0.
                let points = points.skip_while(|(_, value)| *value == 0.0 && title == "Received");
                (line.label, points.collect::<Vec<_>>())
            })
            .collect();
        plot(page, title, unit, "s", &lines);
    }
    page.push_str("</section>");
}

fn distributions(page: &mut String, report: &Report) {
    page.push_str("<section class=\"plots\">");
    for (title, names) in [
        ("Distribution of latency", ["latency_video", "latency_audio", "data_latency"]),
        ("Distribution of joining", ["join", "first_packet", "first_frame"]),
    ] {
        let lines: Vec<_> = names
            .into_iter()
            .filter_map(|name| {
                let summary = report.times.get(name)?;
                // The last steps are the rarest samples: they would stretch the axis over all others.
                let limit = summary.p999.max(0.001);
                let steps = summary.steps.iter().filter(|(ms, _)| *ms <= limit);
                let points = steps.map(|(ms, share)| (*ms, share * 100.0)).collect();
                Some((label_of(name), points))
            })
            .collect();
        if !lines.is_empty() {
            plot(page, title, "% at or below", "ms", &lines);
        }
    }
    page.push_str("</section>");
}

fn label_of(name: &str) -> &'static str {
    match name {
        "latency_video" => "video",
        "latency_audio" => "audio",
        "data_latency" => "data",
        "join" => "joined",
        "first_packet" => "first packet",
        "first_frame" => "first frame",
        _ => "",
    }
}

/// A round number at or above a value.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= value)
        .unwrap_or(value)
}

fn plot(
    page: &mut String,
    title: &str,
    unit: &str,
    across: &str,
    lines: &[(&str, Vec<(f64, f64)>)],
) {
    let points = || lines.iter().flat_map(|(_, points)| points.iter());
    let right = ceiling(points().map(|(x, _)| *x).fold(0.0, f64::max));
    let top = ceiling(points().map(|(_, y)| *y).fold(0.0, f64::max));
    let x = |value: f64| LEFT + value / right * WIDTH;
    let y = |value: f64| TOP + HEIGHT - value / top * HEIGHT;
    let (width, height) = (LEFT + WIDTH + 30.0, TOP + HEIGHT + BOTTOM);
    let _ = write!(
        page,
        "<figure><figcaption>{title}{}</figcaption><svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">",
        if unit.is_empty() { String::new() } else { format!(" <span>{unit}</span>") },
    );
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let (gx, gy) = (x(right * share), y(top * share));
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{gy:.1}\" y2=\"{gy:.1}\"/>\
             <text class=\"up\" x=\"{}\" y=\"{:.1}\">{}</text>\
             <text class=\"{}\" x=\"{:.1}\" y=\"{}\">{}{}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            gy + 4.0,
            short(top * share),
            if step == 4 { "up" } else { "across" },
            // The last one ends where the plot does: on phones letters are large.
            if step == 4 { width } else { gx },
            height - 8.0,
            short(right * share),
            if step == 4 { format!(" {across}") } else { String::new() },
        );
    }
    for ((_, points), colour) in lines.iter().zip(COLOURS) {
        let path: Vec<_> =
            points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        let _ = write!(page, "<polyline points=\"{}\" style=\"stroke:{colour}\"/>", path.join(" "));
    }
    page.push_str("</svg>");
    if lines.len() > 1 {
        page.push_str("<p class=\"legend\">");
        for ((label, _), colour) in lines.iter().zip(COLOURS) {
            let _ = write!(page, "<span><i style=\"background:{colour}\"></i>{label}</span>");
        }
        page.push_str("</p>");
    }
    page.push_str("</figure>");
}

fn short(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.0}k", v / 1_000.0),
        v if v >= 100.0 || v == v.trunc() => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}").trim_end_matches('0').to_owned(),
    }
}

fn times(page: &mut String, report: &Report) {
    page.push_str(
        "<section><h2>Times in milliseconds</h2><div class=\"wide\"><table><thead><tr><th></th>\
         <th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th><th>samples</th></tr></thead><tbody>",
    );
    let own = [("tester_delay", "tester's own delay"), ("tester_lateness", "frames sent late by")];
    for (name, label) in TIMES.into_iter().chain(own) {
        let Some(summary) = report.times.get(name) else { continue };
        let _ = write!(page, "<tr><th>{label}</th>");
        for value in [summary.p50, summary.p90, summary.p99, summary.p999, summary.max] {
            let _ = write!(page, "<td>{}</td>", grouped(value, 1));
        }
        let _ = write!(page, "<td>{}</td></tr>", grouped(summary.count as f64, 0));
    }
    page.push_str("</tbody></table></div></section>");
}

fn agents(page: &mut String, report: &Report) {
    if report.agents.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Agents</h2><div class=\"wide\"><table><thead><tr><th></th><th>clients</th><th>threads</th>\
         <th>CPU</th><th>memory</th><th>clock ahead</th><th>within</th></tr></thead><tbody>",
    );
    for agent in &report.agents {
        let _ = write!(
            page,
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{:.1} %</td><td>{:.1} MiB</td><td>{:.3} ms</td><td>{:.3} ms</td></tr>",
            escape(&agent.name),
            agent.clients,
            agent.workers,
            agent.cpu_percent,
            agent.memory_bytes as f64 / 1_048_576.0,
            agent.clock_ahead_ms,
            agent.clock_error_ms,
        );
    }
    page.push_str("</tbody></table></div></section>");
}

fn values(page: &mut String, report: &Report) {
    page.push_str("<section><h2>Figures</h2><div class=\"wide\"><table><tbody>");
    for (label, value) in values_of(report) {
        let _ = write!(page, "<tr><th>{}</th><td>{}</td></tr>", escape(label), escape(&value));
    }
    let clients = &report.clients;
    for (what, reasons) in
        [("failed", &clients.failed_by_reason), ("lost", &clients.lost_by_reason)]
    {
        for (reason, count) in reasons {
            let _ = write!(page, "<tr><th>{what}: {}</th><td>{count}</td></tr>", escape(reason));
        }
    }
    let method = escape(&report.latency_method);
    let _ =
        write!(page, "</tbody></table></div><p class=\"about\">Latency: {method}.</p></section>");
}

fn scenario(page: &mut String, report: &Report) {
    let fields = serde_json::to_value(&report.scenario).unwrap_or_default();
    page.push_str(
        "<section><details><summary>Scenario</summary><div class=\"wide\"><table><tbody>",
    );
    for (field, value) in fields.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(page, "<tr><th>{}</th><td>{}</td></tr>", escape(field), escape(&value));
    }
    page.push_str("</tbody></table></div></details></section>");
}

/// Names come from files and from servers.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_page_stands_alone_and_escapes_names() {
        let mut report = sample();
        report.scenario.name = "<script>alert(1)</script>".to_owned();
        report.clients.lost_by_reason.insert("<b>".to_owned(), 1);
        let page = html(&report);
        assert!(!page.contains("<script") && !page.contains("lost: <b>"), "names are text");
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.matches("<svg").count() >= 5 && page.contains("latency p99"));
        assert_eq!(page.matches("<section").count(), page.matches("</section>").count());
    }

    #[test]
    fn thousands_stand_apart() {
        for (value, digits, expected) in [
            (0.0, 0, "0"),
            (999.0, 1, "999.0"),
            (64_860.0, 0, "64\u{202f}860"),
            (1_234_567.25, 2, "1\u{202f}234\u{202f}567.25"),
            (-1_000.0, 0, "-1\u{202f}000"),
        ] {
            assert_eq!(grouped(value, digits), expected);
        }
    }

    #[test]
    fn agents_have_a_table() {
        let mut report = sample();
        assert!(!html(&report).contains("<h2>Agents"));
        let name = "host<1>:7990".to_owned();
        report.agents.push(crate::report::AgentShare { name, clients: 3, ..Default::default() });
        assert!(html(&report).contains("<th>host&lt;1&gt;:7990</th><td>3</td>"));
    }

    #[test]
    fn axes_end_on_round_numbers() {
        for (value, expected) in
            [(0.0, 1.0), (0.07, 0.08), (3.2, 4.0), (51.0, 60.0), (2_100.0, 2_400.0)]
        {
            assert!((ceiling(value) - expected).abs() < 1e-9, "{value}: {}", ceiling(value));
        }
    }
}
