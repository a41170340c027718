//! Two reports side by side.

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use super::Report;

/// Figures that both or one of them have, with the change. Figures that are equal in both are left out, unless `all`.
pub(crate) fn compare(a: &Report, b: &Report, all: bool) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(vec!["figure", "A", "B", "change"]);
    let names: std::collections::BTreeSet<_> = a.figures.keys().chain(b.figures.keys()).collect();
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let show = |value: Option<&f64>| value.map_or("-".to_owned(), ToString::to_string);
    for name in names {
        let (one, other) = (a.figures.get(name), b.figures.get(name));
        if one == other && !all {
            continue;
        }
        let change = match (one, other) {
            (Some(one), Some(other)) if *one != 0.0 => {
                format!("{:+.1} %", (other - one) * 100.0 / one.abs())
            }
            _ => String::new(),
        };
        table.add_row(vec![Cell::new(name), right(show(one)), right(show(other)), right(change)]);
    }
    let mut text = String::new();
    for (label, report) in [("A", a), ("B", b)] {
        text.push_str(&format!(
            "{label}: {} with {} clients for {} s, by {}\n",
            report.scenario.name, report.clients.planned, report.window_seconds, report.tool
        ));
    }
    let differing = |report: &Report| serde_json::to_value(&report.scenario).unwrap_or_default();
    let (one, other) = (differing(a), differing(b));
    if let (Some(one), Some(other)) = (one.as_object(), other.as_object()) {
        for (field, value) in one {
            let changed = other.get(field);
            if changed != Some(value) && field != "about" {
                let changed = changed.map_or("-".to_owned(), ToString::to_string);
                text.push_str(&format!("  {field}: {value} -> {changed}\n"));
            }
        }
    }
    text.push_str(&table.to_string());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn changes_stand_beside_the_values() {
        let (a, mut b) = (sample(), sample());
        b.figures.insert("loss_percent".to_owned(), 0.2);
        b.figures.remove("p50_join_ms");
        b.scenario.publishers = 77;
        let text = compare(&a, &b, false);
        let line = |name: &str| {
            let found = text.lines().find(|line| line.contains(&format!(" {name} ")));
            found.map(str::to_owned).unwrap_or_default()
        };
        assert!(line("loss_percent").contains("+100.0 %"), "{text}");
        assert!(line("p50_join_ms").contains(" - "), "{text}");
        assert!(text.contains("publishers: 10 -> 77"), "{text}");
        assert_eq!(line("packets_received"), "", "equal ones are left out");
        assert!(compare(&a, &b, true).contains("packets_received"));
    }
}
