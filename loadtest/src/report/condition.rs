//! Conditions on figures: `p99_latency_ms > 50`. `--fail-if` fails when one holds, `find-capacity` goes on while all do.

use std::{collections::BTreeMap, fmt, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// Longest first: `>=` is not `>`.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// A figure compared with a number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    figure: String,
    comparison: Comparison,
    value: f64,
    text: String,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("{text:?} is no condition: write for example 'p99_latency_ms > 50'");
        let (sign, comparison) =
            COMPARISONS.iter().find(|(sign, _)| text.contains(sign)).ok_or_else(fail)?;
        let (figure, value) = text.split_once(sign).ok_or_else(fail)?;
        let figure = figure.trim();
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if figure.is_empty() || !figure.chars().all(name) {
            return Err(fail());
        }
        let value = value.trim().parse::<f64>().map_err(|_| fail())?;
        let text = text.trim().to_owned();
        Ok(Self { figure: figure.to_owned(), comparison: *comparison, value, text })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Condition {
    /// Several, separated by commas.
    pub(crate) fn list(text: &str) -> Result<Vec<Self>, String> {
        text.split(',').map(str::parse).collect()
    }

    /// The figure's value, and whether the condition holds; `None` when the run has no such figure.
    pub(crate) fn check(&self, figures: &BTreeMap<String, f64>) -> Option<(f64, bool)> {
        let value = *figures.get(&self.figure)?;
        let holds = match self.comparison {
            Comparison::Less => value < self.value,
            Comparison::LessOrEqual => value <= self.value,
            Comparison::Greater => value > self.value,
            Comparison::GreaterOrEqual => value >= self.value,
            Comparison::Equal => value == self.value,
            Comparison::NotEqual => value != self.value,
        };
        Some((value, holds))
    }

    pub(crate) fn figure(&self) -> &str {
        &self.figure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_compare_figures() {
        let figures = BTreeMap::from([("loss_percent".to_owned(), 0.5)]);
        for (text, holds) in [
            ("loss_percent > 0.4", true),
            ("loss_percent>0.5", false),
            ("loss_percent >= 0.5", true),
            ("loss_percent < 1", true),
            ("loss_percent <= 0.4", false),
            ("loss_percent == 0.5", true),
            ("loss_percent != 0.5", false),
        ] {
            let condition: Condition = text.parse().unwrap();
            assert_eq!(condition.check(&figures), Some((0.5, holds)), "{text}");
        }
        let missing: Condition = "p99_latency_ms < 50".parse().unwrap();
        assert_eq!(missing.check(&figures), None);
        assert_eq!(Condition::list("loss_percent < 1, p99_latency_ms < 50").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_condition_is_an_error() {
        for text in ["", "loss_percent", "loss_percent > much", "> 3", "a b > 3", "x = 3"] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains("is no condition"), "{text}: {error}");
        }
    }
}
