//! Scenarios are data: a YAML file or a shipped preset, with any field overridden on the command line.

mod plan;
mod raw;
mod span;

pub(crate) use plan::{ClientPlan, Impairment, Mode, Network, plan};
pub(crate) use raw::{Quality, Reconnect, Scenario, SubscriberMode};
pub(crate) use span::Span;

/// A scenario that cannot be run, with its place and what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ScenarioError(pub(crate) String);

/// A preset: its name and its file.
const PRESETS: [(&str, &str); 12] = [
    ("meeting", include_str!("../../presets/meeting.yaml")),
    ("meeting-4", include_str!("../../presets/meeting-4.yaml")),
    ("meeting-16", include_str!("../../presets/meeting-16.yaml")),
    ("meeting-25", include_str!("../../presets/meeting-25.yaml")),
    ("livestream", include_str!("../../presets/livestream.yaml")),
    ("audio-room", include_str!("../../presets/audio-room.yaml")),
    ("many-rooms", include_str!("../../presets/many-rooms.yaml")),
    ("churn", include_str!("../../presets/churn.yaml")),
    ("reconnect-storm", include_str!("../../presets/reconnect-storm.yaml")),
    ("speaker-switch", include_str!("../../presets/speaker-switch.yaml")),
    ("bad-network", include_str!("../../presets/bad-network.yaml")),
    ("data", include_str!("../../presets/data.yaml")),
];

/// The shipped presets.
pub(crate) fn presets() -> impl Iterator<Item = (&'static str, &'static str)> {
    PRESETS.into_iter()
}

/// Reads a preset by its name, or a file, and applies `field=value` overrides in order.
pub(crate) fn load(name: &str, overrides: &[String]) -> Result<Scenario, ScenarioError> {
    let preset = PRESETS.iter().find(|(preset, _)| *preset == name);
    let text = match preset {
        Some((_, text)) => (*text).to_owned(),
        None => std::fs::read_to_string(name).map_err(|error| {
            let names: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
            ScenarioError(format!(
                "scenario {name:?} is neither a preset ({}) nor a readable file: {error}",
                names.join(", ")
            ))
        })?,
    };
    Scenario::parse(name, &text, overrides)
}

#[cfg(test)]
mod tests;
