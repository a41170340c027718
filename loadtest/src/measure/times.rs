//! Distributions of times.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer as HistogramReader, Serializer as _, V2Serializer},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// Times from a microsecond to ten minutes, three significant digits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Option<Box<Histogram<u64>>>);

const MAX_MICROS: u64 = 600_000_000;

impl Times {
    pub(crate) fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(MAX_MICROS);
        self.0.get_or_insert_with(new_histogram).saturating_record(micros.clamp(1, MAX_MICROS));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if let Some(other) = &other.0 {
            // Same bounds on both sides: cannot fail.
            let _ = self.0.get_or_insert_with(new_histogram).add(other.as_ref());
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, |histogram| histogram.len())
    }

    /// Milliseconds at a quantile; `None` without a sample.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        self.of(|histogram| histogram.value_at_quantile(quantile) as f64 / 1_000.0)
    }

    pub(crate) fn max_ms(&self) -> Option<f64> {
        self.of(|histogram| histogram.max() as f64 / 1_000.0)
    }

    pub(crate) fn mean_ms(&self) -> Option<f64> {
        self.of(|histogram| histogram.mean() / 1_000.0)
    }

    /// Steps of the distribution: milliseconds and the share of samples at or below.
    pub(crate) fn steps(&self) -> Vec<(f64, f64)> {
        let Some(histogram) = &self.0 else { return Vec::new() };
        let mut steps = Vec::new();
        for step in histogram.iter_quantiles(5) {
            steps.push((step.value_iterated_to() as f64 / 1_000.0, step.quantile()));
        }
        steps
    }

    fn of(&self, value: impl Fn(&Histogram<u64>) -> f64) -> Option<f64> {
        self.0.as_ref().filter(|histogram| !histogram.is_empty()).map(|histogram| value(histogram))
    }
}

fn new_histogram() -> Box<Histogram<u64>> {
    // The bounds are constants that the crate accepts.
    Box::new(Histogram::new_with_max(MAX_MICROS, 3).expect("constant bounds"))
}

/// Base64 of HdrHistogram's V2 encoding: what an agent sends to its coordinator. Empty without a sample.
impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        if let Some(histogram) = &self.0 {
            V2Serializer::new().serialize(histogram, &mut bytes).map_err(ser::Error::custom)?;
        }
        serializer.serialize_str(&BASE64.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bytes = BASE64.decode(text.as_bytes()).map_err(de::Error::custom)?;
        let read: Histogram<u64> =
            HistogramReader::new().deserialize(&mut &bytes[..]).map_err(de::Error::custom)?;
        // Into our own bounds, whatever those of the sender were.
        let mut own = new_histogram();
        own.add(&read).map_err(de::Error::custom)?;
        Ok(Self(Some(own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_added_and_read_in_milliseconds() {
        let (mut one, mut other) = (Times::default(), Times::default());
        assert_eq!(one.quantile_ms(0.5), None);
        for ms in 1..=99 {
            one.record(Duration::from_millis(ms));
        }
        other.record(Duration::from_secs(1));
        one.add(&other);
        assert_eq!(one.count(), 100);
        let p50 = one.quantile_ms(0.5).unwrap();
        assert!((49.9..50.2).contains(&p50), "{p50}");
        assert!(one.max_ms().unwrap() >= 1_000.0);
        assert!(one.steps().last().unwrap().1 >= 1.0);
    }

    #[test]
    fn times_survive_the_way_from_an_agent() {
        let mut times = Times::default();
        assert_eq!(serde_json::from_value::<Times>("".into()).unwrap().count(), 0);
        for ms in 1..=1_000 {
            times.record(Duration::from_millis(ms));
        }
        let text = serde_json::to_string(&times).unwrap();
        assert!(text.len() < 8_000, "{} bytes", text.len());
        let back: Times = serde_json::from_str(&text).unwrap();
        assert_eq!((back.count(), back.steps()), (1_000, times.steps()));
        for wrong in ["\"no base64\"", "\"AAAA\"", "7"] {
            assert!(serde_json::from_str::<Times>(wrong).is_err(), "{wrong}");
        }
    }
}
