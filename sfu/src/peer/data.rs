//! The data channels of a peer, and how far behind their reader is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::limits::Bucket;
use crate::{
    rtp::{Bitrate, DataSize},
    transport::{ChannelId, SendError, Transport},
};

/// Which of the two channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// `_reliable`: ordered, never silently dropped.
    Reliable,
    /// `_lossy`: unordered, a packet that is late is of no use.
    Lossy,
}

impl Lane {
    /// By the label of its channel.
    pub(crate) fn of_label(label: &str) -> Option<Self> {
        match label {
            "_reliable" => Some(Self::Reliable),
            "_lossy" => Some(Self::Lossy),
            _ => None,
        }
    }

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Reliable => "_reliable",
            Self::Lossy => "_lossy",
        }
    }
}

/// What became of a message to a reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Queued {
    /// It leaves.
    Yes,
    /// The channel is not open (yet).
    NotOpen,
    /// Lossy, and the reader is behind.
    Late,
    /// Reliable, and the reader fell too far behind just now: tell it.
    Overflow,
    /// Reliable, and the reader was told before.
    Lost,
}

/// Bytes that a reliable reader may be behind.
const MAX_BEHIND_BYTES: usize = 1 << 20;

/// Time that a reliable reader may be behind.
const MAX_BEHIND: Duration = Duration::from_secs(5);

/// Queueing delay above which lossy messages are dropped.
const MAX_LOSSY_DELAY: Duration = Duration::from_millis(100);

/// So much may be on its way in any case: receivers acknowledge every second packet, the last one up to 200 ms later.
const LOSSY_FREE_BYTES: usize = 8 * 1024;

/// Reliable messages kept for a channel that is not open yet, in all.
const MAX_WAITING_BYTES: usize = 64 * 1024;

/// Bursts of data that pass the cap on its rate: a client sends a file as fast as its buffer takes it.
const DATA_BURST: Duration = Duration::from_secs(2);

/// Both channels of a peer.
#[derive(Debug)]
pub(crate) struct DataChannels {
    reliable: Option<ChannelId>,
    lossy: Option<ChannelId>,
    reliable_lag: Lag,
    lossy_lag: Lag,
    /// Reliable messages from before the channel opened.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// The reader was told to reconnect.
    overflowed: bool,
    /// The control plane was told that both are open.
    pub(crate) ready_told: bool,
    /// The node asked for its channels.
    pub(crate) opened: bool,
    inbound: Bucket,
}

impl DataChannels {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            reliable: None,
            lossy: None,
            reliable_lag: Lag::default(),
            lossy_lag: Lag::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            overflowed: false,
            ready_told: false,
            opened: false,
            inbound: Bucket::new(now, Bitrate::ZERO, DATA_BURST),
        }
    }

    /// Cap on what the peer may send.
    pub(crate) fn set_rate(&mut self, now: Instant, rate: Bitrate) {
        if self.inbound.rate() == Bitrate::ZERO {
            self.inbound = Bucket::new(now, rate, DATA_BURST);
        } else {
            self.inbound.set_rate(rate);
        }
    }

    /// Whether the peer may send this much now.
    pub(crate) fn admit(&mut self, now: Instant, len: usize) -> bool {
        self.inbound.take(now, DataSize::from_bytes(len as u64))
    }

    /// A channel opened. A client that opens a label again moved to the new channel.
    pub(crate) fn opened(&mut self, lane: Lane, channel: ChannelId) {
        match lane {
            Lane::Reliable => (self.reliable, self.reliable_lag) = (Some(channel), Lag::default()),
            Lane::Lossy => (self.lossy, self.lossy_lag) = (Some(channel), Lag::default()),
        }
    }

    /// A channel closed.
    pub(crate) fn closed(&mut self, channel: ChannelId) {
        if self.reliable == Some(channel) {
            self.reliable = None;
        }
        if self.lossy == Some(channel) {
            self.lossy = None;
        }
    }

    /// A client is connected a moment before its channels are open: what is sent to it meanwhile waits.
    fn wait(&mut self, message: &[u8]) -> Queued {
        if self.waiting_bytes + message.len() > MAX_WAITING_BYTES {
            return Queued::Lost;
        }
        self.waiting_bytes += message.len();
        self.waiting.push_back(message.to_vec());
        Queued::Yes
    }

    /// Sends what waited for the reliable channel, in order.
    pub(crate) fn flush(&mut self, now: Instant, transport: &mut Transport) {
        if self.reliable.is_none() {
            return;
        }
        self.waiting_bytes = 0;
        for message in std::mem::take(&mut self.waiting) {
            self.send(now, transport, Lane::Reliable, &message);
        }
    }

    /// All channels are gone.
    pub(crate) fn lost(&mut self) {
        (self.reliable, self.lossy) = (None, None);
    }

    /// Both are open.
    pub(crate) fn ready(&self) -> bool {
        self.reliable.is_some() && self.lossy.is_some()
    }

    /// What a channel is for.
    pub(crate) fn lane_of(&self, channel: ChannelId) -> Option<Lane> {
        match channel {
            _ if self.reliable == Some(channel) => Some(Lane::Reliable),
            _ if self.lossy == Some(channel) => Some(Lane::Lossy),
            _ => None,
        }
    }

    /// Sends one message to the reader.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        transport: &mut Transport,
        lane: Lane,
        message: &[u8],
    ) -> Queued {
        let (channel, lag) = match lane {
            Lane::Reliable => (self.reliable, &mut self.reliable_lag),
            Lane::Lossy => (self.lossy, &mut self.lossy_lag),
        };
        let Some(channel) = channel else {
            return match lane {
                Lane::Reliable if transport.expects_data() => self.wait(message),
                Lane::Reliable | Lane::Lossy => Queued::NotOpen,
            };
        };
        let buffered = transport.buffered(channel);
        lag.observe(now, buffered);
        match lane {
            Lane::Reliable if self.overflowed => return Queued::Lost,
            Lane::Reliable if buffered + message.len() > MAX_BEHIND_BYTES => {
                return self.overflow();
            }
            Lane::Lossy if buffered > LOSSY_FREE_BYTES && lag.queueing(now) > MAX_LOSSY_DELAY => {
                return Queued::Late;
            }
            Lane::Reliable | Lane::Lossy => {}
        }
        match transport.send(now, channel, true, message) {
            Ok(()) => {
                lag.sent(now, message.len());
                Queued::Yes
            }
            Err(SendError::NotOpen) => Queued::NotOpen,
            Err(SendError::TooLarge | SendError::Full) if lane == Lane::Lossy => Queued::Late,
            Err(SendError::TooLarge | SendError::Full) => self.overflow(),
        }
    }

    /// The peer acknowledged something, perhaps. Returns when a reader that stays silent will be too far behind.
    pub(crate) fn observe(&mut self, now: Instant, transport: &mut Transport) -> Option<Instant> {
        if let Some(channel) = self.lossy.filter(|_| self.lossy_lag.is_waiting()) {
            self.lossy_lag.observe(now, transport.buffered(channel));
        }
        let channel = self.reliable.filter(|_| self.reliable_lag.is_waiting())?;
        self.reliable_lag.observe(now, transport.buffered(channel));
        self.stall_deadline()
    }

    /// When the reliable reader will be too far behind.
    pub(crate) fn stall_deadline(&self) -> Option<Instant> {
        let since = self.reliable_lag.waiting_since().filter(|_| !self.overflowed)?;
        Some(since + MAX_BEHIND)
    }

    /// Whether the reliable reader has just become too far behind.
    pub(crate) fn handle_timeout(&mut self, now: Instant, transport: &mut Transport) -> bool {
        self.observe(now, transport);
        if self.stall_deadline().is_some_and(|deadline| deadline <= now) {
            return self.overflow() == Queued::Overflow;
        }
        false
    }

    /// Reliable messages were lost on their way here: the reader has to reconnect. Whether that is news.
    pub(crate) fn give_up(&mut self) -> bool {
        self.overflow() == Queued::Overflow
    }

    fn overflow(&mut self) -> Queued {
        if std::mem::replace(&mut self.overflowed, true) { Queued::Lost } else { Queued::Overflow }
    }
}

/// How long a reader takes to acknowledge: of all that was sent until a moment, one moment at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Lag {
    sent: u64,
    /// The moment, and what had been sent until then.
    mark: Option<(Instant, u64)>,
    /// The shortest time seen: the path's own.
    base: Option<Duration>,
}

impl Lag {
    fn sent(&mut self, now: Instant, len: usize) {
        self.sent += len as u64;
        self.mark.get_or_insert((now, self.sent));
    }

    fn observe(&mut self, now: Instant, buffered: usize) {
        let Some((at, until)) = self.mark else { return };
        let acknowledged = self.sent.saturating_sub(buffered as u64);
        if acknowledged < until {
            return;
        }
        let took = now.saturating_duration_since(at);
        self.base = Some(self.base.map_or(took, |base| base.min(took)));
        self.mark = (buffered > 0).then_some((now, self.sent));
    }

    fn is_waiting(&self) -> bool {
        self.mark.is_some()
    }

    fn waiting_since(&self) -> Option<Instant> {
        self.mark.map(|(at, _)| at)
    }

    /// Time spent in queues, above what the path itself takes.
    fn queueing(&self, now: Instant) -> Duration {
        /// Before anything was acknowledged: a long path, rather than a queue.
        const UNKNOWN_PATH: Duration = Duration::from_millis(300);
        let Some((at, _)) = self.mark else { return Duration::ZERO };
        now.saturating_duration_since(at).saturating_sub(self.base.unwrap_or(UNKNOWN_PATH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn lag_is_what_comes_on_top_of_the_path() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut lag = Lag::default();
        lag.sent(at(0), 1_000);
        lag.observe(at(40), 0);
        assert!(!lag.is_waiting());
        lag.sent(at(100), 1_000);
        lag.sent(at(110), 1_000);
        lag.observe(at(120), 2_000);
        assert_eq!(lag.queueing(at(140)), Duration::ZERO, "as long as the path takes");
        assert_eq!(lag.queueing(at(300)), Duration::from_millis(160));
        assert_eq!(lag.waiting_since(), Some(at(100)));
        lag.observe(at(310), 1_000);
        assert_eq!(
            lag.waiting_since(),
            Some(at(310)),
            "the first is acknowledged, the second counts"
        );
        lag.observe(at(320), 0);
        assert!(!lag.is_waiting());
    }
}
