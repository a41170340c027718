//! What a shard is told once.

use std::time::Instant;

use crate::{room::ShardId, rtp::Bitrate};

/// Configuration of one shard, already checked.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which one it is.
    pub id: ShardId,
    /// How many the node has.
    pub shards: u16,
    /// Drawn at each start of the node: names of an earlier life are recognised as such.
    pub node_generation: u16,
    /// Peers that the shard takes at most.
    pub max_peers: usize,
    /// Caps for peers that bring none of their own.
    pub limits: DefaultLimits,
    /// Any moment before the first input: send times are counted from it.
    pub epoch: Instant,
}

/// Caps of a peer where the control plane names none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DefaultLimits {
    /// Media from the peer. 20 Mb/s carries a camera and a screen share in simulcast twice over.
    pub ingress_bitrate: Bitrate,
    /// Streams from the peer, RTX included. A browser with two simulcast tracks and audio has 13.
    pub ingress_ssrcs: u32,
    /// Data from the peer. 8 Mb/s is a file sent in earnest; a chat needs a thousandth.
    pub data_rate: Bitrate,
}

impl Default for DefaultLimits {
    fn default() -> Self {
        Self {
            ingress_bitrate: Bitrate::from_kbps(20_000),
            ingress_ssrcs: 64,
            data_rate: Bitrate::from_kbps(8_000),
        }
    }
}
