//! Counters that one thread writes and others read: plain numbers, copied out by their owner between slices of work.

pub mod log;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// What a number is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number of a [`Block`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Description {
    /// Without the prefix `chappe_sfu_`. Numbers of one name stand beside each other and differ in `label`.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) help: &'static str,
    /// Counter or gauge.
    pub(crate) kind: Kind,
    /// One more label beside the shard's.
    pub(crate) label: Option<(&'static str, String)>,
}

/// The numbers of one shard. Its thread stores, whoever scrapes loads; nobody waits.
#[derive(Debug)]
pub(crate) struct Block {
    shard: String,
    values: Box<[AtomicU64]>,
}

impl Block {
    /// All zero.
    pub(crate) fn new(shard: u16, len: usize) -> Self {
        Self { shard: shard.to_string(), values: (0..len).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Copies the numbers out, in the order of the descriptions.
    pub(crate) fn publish(&self, values: impl IntoIterator<Item = u64>) {
        for (place, value) in self.values.iter().zip(values) {
            place.store(value, Ordering::Relaxed);
        }
    }

    /// One number as last published; 0 where there is none.
    pub(crate) fn value(&self, index: usize) -> u64 {
        self.values.get(index).map_or(0, |value| value.load(Ordering::Relaxed))
    }
}

/// The numbers of all shards, with their names.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    /// In the order in which they are published.
    pub(crate) descriptions: Arc<[Description]>,
    /// One per shard.
    pub(crate) blocks: Vec<Arc<Block>>,
}

impl Collector for Blocks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut index = 0;
        let groups = self.descriptions.chunk_by(|a, b| a.name == b.name);
        for group in groups {
            let Some(first) = group.first() else { continue };
            let metric = match first.kind {
                Kind::Counter => ConstCounter::new(0_u64).metric_type(),
                Kind::Gauge => ConstGauge::new(0_u64).metric_type(),
            };
            let mut family = encoder.encode_descriptor(first.name, first.help, None, metric)?;
            for description in group {
                for block in &self.blocks {
                    let mut labels = vec![("shard", block.shard.as_str())];
                    labels.extend(
                        description.label.iter().map(|(key, value)| (*key, value.as_str())),
                    );
                    let value = block.value(index);
                    let labels = labels.as_slice();
                    let encoder = family.encode_family(&labels)?;
                    match description.kind {
                        Kind::Counter => ConstCounter::new(value).encode(encoder)?,
                        Kind::Gauge => ConstGauge::new(value).encode(encoder)?,
                    }
                }
                index += 1;
            }
        }
        Ok(())
    }
}

/// A gauge that is read when somebody asks, of each shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ByShard {
    /// Without the prefix.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) help: &'static str,
    /// By shard.
    pub(crate) values: Vec<u64>,
}

impl Collector for ByShard {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let metric = ConstGauge::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor(self.name, self.help, None, metric)?;
        for (shard, value) in self.values.iter().enumerate() {
            let labels = [("shard", shard.to_string())];
            ConstGauge::new(*value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Everything as OpenMetrics text: the shards' numbers, some of the node as a whole (name, help, value), and some that are
/// read now.
pub(crate) fn encode(
    blocks: &Blocks,
    gauges: &[(&'static str, &'static str, u64)],
    by_shard: &[ByShard],
) -> String {
    let mut registry = Registry::with_prefix("chappe_sfu");
    registry.register_collector(Box::new(blocks.clone()));
    for (name, help, value) in gauges {
        registry.register_collector(Box::new(Single { name, help, value: *value }));
    }
    for gauge in by_shard {
        registry.register_collector(Box::new(gauge.clone()));
    }
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Single {
    name: &'static str,
    help: &'static str,
    value: u64,
}

impl Collector for Single {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new(self.value);
        gauge.encode(encoder.encode_descriptor(self.name, self.help, None, gauge.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_out_with_their_labels() {
        let description = |name, kind, label: Option<&str>| Description {
            name,
            help: "Help",
            kind,
            label: label.map(|text| ("reason", text.to_owned())),
        };
        let blocks = Blocks {
            descriptions: Arc::from([
                description("datagrams", Kind::Counter, None),
                description("drops", Kind::Counter, Some("muted")),
                description("drops", Kind::Counter, Some("no_keys")),
                description("peers", Kind::Gauge, None),
            ]),
            blocks: (0..2).map(|shard| Arc::new(Block::new(shard, 4))).collect(),
        };
        blocks.blocks[1].publish([10, 1, 2, 3]);
        let drops = ByShard { name: "kernel_drops", help: "Help", values: vec![0, 5] };
        let text = encode(&blocks, &[("rooms", "Rooms now", 7)], &[drops]);
        for line in [
            "# TYPE chappe_sfu_drops counter",
            "chappe_sfu_datagrams_total{shard=\"0\"} 0",
            "chappe_sfu_datagrams_total{shard=\"1\"} 10",
            "chappe_sfu_drops_total{shard=\"1\",reason=\"muted\"} 1",
            "chappe_sfu_drops_total{shard=\"1\",reason=\"no_keys\"} 2",
            "chappe_sfu_peers{shard=\"1\"} 3",
            "chappe_sfu_rooms 7",
            "chappe_sfu_kernel_drops{shard=\"1\"} 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.matches("# TYPE chappe_sfu_drops").count(), 1);
    }
}
