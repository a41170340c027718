//! What one client receives: packets in order, frames whole, gaps that were never repaired, freezes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    measure::{Recorder, Stats},
    media::{Stamp, Stream, VideoCodec, VideoPacket},
};

/// A packet that has not been repaired for so long is lost: a player has moved on.
const REPAIR_DEADLINE: Duration = Duration::from_secs(1);
/// A frame that misses a packet for so long stops the picture: a keyframe is asked for.
const STUCK: Duration = Duration::from_millis(400);
/// Packets that wait for a missing one at most.
const MAX_WAITING: usize = 2_000;
/// Gaps larger than this are a new numbering.
const MAX_GAP: u64 = 2_000;
/// Between two keyframe requests for one stream.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// Sequence numbers that are missing.
#[derive(Debug, Default)]
struct Gaps {
    highest: Option<u64>,
    missing: BTreeMap<u64, Instant>,
}

impl Gaps {
    fn handle(&mut self, seq: u64, now: Instant) {
        match self.highest {
            Some(highest) if seq <= highest => {
                self.missing.remove(&seq);
            }
            Some(highest) => {
                if seq - highest <= MAX_GAP {
                    self.missing.extend((highest + 1..seq).map(|seq| (seq, now)));
                }
                self.highest = Some(seq);
            }
            None => self.highest = Some(seq),
        }
    }

    /// Gives up packets that are too late, and counts them.
    fn expire(&mut self, now: Instant) -> u64 {
        let before = self.missing.len();
        self.missing.retain(|_, since| now.saturating_duration_since(*since) < REPAIR_DEADLINE);
        (before - self.missing.len()) as u64
    }
}

/// A packet's place in its frame.
#[derive(Clone, Copy, Debug)]
struct Slot {
    packet: VideoPacket,
    last: bool,
    stamp: Option<Stamp>,
}

/// A video stream: packets become frames.
#[derive(Debug)]
struct Frames {
    slots: BTreeMap<u64, Slot>,
    /// First packet of the frame that comes next.
    next: u64,
    /// First packet behind what is there without a gap.
    scan: u64,
    waiting_for_keyframe: bool,
    stuck_since: Option<Instant>,
    layer: Option<u8>,
    /// Arrival of the last whole frame, and the usual time between two, in seconds.
    last_frame: Option<Duration>,
    interval: f64,
}

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Whole {
    keyframe: bool,
    stamp: Option<Stamp>,
}

impl Frames {
    fn new() -> Self {
        Self {
            slots: BTreeMap::new(),
            next: 0,
            scan: 0,
            waiting_for_keyframe: true,
            stuck_since: None,
            layer: None,
            last_frame: None,
            interval: 1.0 / 30.0,
        }
    }

    /// Takes a packet; `frame` gets each frame that is whole and can be decoded.
    fn handle(
        &mut self,
        seq: u64,
        slot: Slot,
        now: Instant,
        mut frame: impl FnMut(&mut Self, Whole),
    ) {
        if !self.waiting_for_keyframe && seq < self.next {
            return;
        }
        self.slots.insert(seq, slot);
        if self.waiting_for_keyframe {
            let mut starts = self.slots.iter().filter(|(_, slot)| slot.packet.keyframe);
            let Some(start) = starts.next_back().map(|(seq, _)| *seq) else {
                self.stuck_since.get_or_insert(now);
                self.forget();
                return;
            };
            self.slots = self.slots.split_off(&start);
            if self.next != start {
                (self.next, self.scan) = (start, start);
            }
        }
        while let Some(slot) = self.slots.get(&self.scan) {
            let (last, stamp) = (slot.last, slot.stamp);
            self.scan += 1;
            if last {
                let keyframe = self.slots.get(&self.next).is_some_and(|slot| slot.packet.keyframe);
                self.slots = self.slots.split_off(&self.scan);
                self.next = self.scan;
                self.waiting_for_keyframe = false;
                frame(self, Whole { keyframe, stamp });
            }
        }
        // A gap: something later is there already.
        if self.slots.last_key_value().is_some_and(|(last, _)| *last >= self.scan) {
            self.stuck_since.get_or_insert(now);
            self.forget();
        } else {
            self.stuck_since = None;
        }
    }

    fn forget(&mut self) {
        while self.slots.len() > MAX_WAITING {
            self.slots.pop_first();
        }
    }

    /// Whether the picture stands still for want of a packet; from then on only a keyframe helps.
    fn give_up(&mut self, now: Instant) -> bool {
        let stuck = self.stuck_since.is_some_and(|at| now.saturating_duration_since(at) > STUCK);
        if stuck && !self.waiting_for_keyframe {
            self.waiting_for_keyframe = true;
            // A keyframe may be among what waits behind the gap.
            if let Some((seq, _)) =
                self.slots.range(self.scan..).find(|(_, slot)| slot.packet.keyframe)
            {
                (self.next, self.scan) = (*seq, *seq);
                self.stuck_since = None;
                return false;
            }
        }
        stuck
    }
}

/// How long a picture stood, by the definition of WebRTC's freezeCount: longer than three usual intervals, and at least
/// 150 ms longer than one.
fn freeze(since_last: f64, usual: f64) -> bool {
    since_last > (3.0 * usual).max(usual + 0.15)
}

/// One SSRC, decrypted and in its own numbering.
#[derive(Debug)]
pub(crate) struct Reception {
    gaps: Gaps,
    video: Option<Frames>,
    requested: Option<Instant>,
    /// Since the last flush.
    started: Option<Duration>,
    /// Who sent the last frame, if it was one of ours.
    publisher: Option<u32>,
}

/// A frame that became whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    /// Of the frame, if one of ours sent it.
    pub(crate) stamp: Option<Stamp>,
}

/// A packet as the client hands it over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) seq: u64,
    pub(crate) marker: bool,
    /// Of video.
    pub(crate) codec: VideoCodec,
    pub(crate) payload: &'a [u8],
    /// One of ours, with its send time on this machine's clock.
    pub(crate) stamp: Option<Stamp>,
    pub(crate) now: Instant,
    /// When the kernel had its datagram.
    pub(crate) at: Duration,
}

impl Reception {
    pub(crate) fn new(video: bool) -> Self {
        let video = video.then(Frames::new);
        Self { gaps: Gaps::default(), video, requested: None, started: None, publisher: None }
    }

    pub(crate) fn is_video(&self) -> bool {
        self.video.is_some()
    }

    /// Layer of the last frame.
    pub(crate) fn layer(&self) -> Option<u8> {
        self.video.as_ref().and_then(|frames| frames.layer)
    }

    /// Takes a packet; tells of the last frame that it made whole.
    pub(crate) fn handle(&mut self, packet: Packet<'_>, recorder: &mut Recorder) -> Option<Seen> {
        // Padding has no payload: it fills numbers only.
        self.gaps.handle(packet.seq, packet.now);
        self.started.get_or_insert(packet.at);
        let stamp = packet.stamp;
        let Some(frames) = &mut self.video else {
            if let (Some(stamp), Some(stats)) = (stamp, recorder.window()) {
                stats.latency_audio.record(packet.at.saturating_sub(stamp.sent));
            }
            self.publisher = stamp.map(|stamp| stamp.publisher).or(self.publisher);
            return Some(Seen { stamp });
        };
        if let Some(stamp) = stamp {
            if self.publisher.is_some_and(|publisher| publisher != stamp.publisher) {
                // Somebody else's picture on the same stream: neither a freeze nor a switch.
                (frames.last_frame, frames.layer) = (None, None);
            }
            self.publisher = Some(stamp.publisher);
        }
        let parsed = packet.codec.parse(packet.payload);
        let slot = Slot {
            packet: parsed.unwrap_or_default(),
            last: packet.marker,
            stamp: stamp.filter(|_| packet.marker),
        };
        let mut seen = None;
        frames.handle(packet.seq, slot, packet.now, |frames, frame| {
            seen = Some(Seen { stamp: frame.stamp });
            frames.took(frame, packet.at, recorder);
        });
        seen
    }

    /// Whether to ask for a keyframe now.
    pub(crate) fn wants_keyframe(&mut self, now: Instant) -> bool {
        let Some(frames) = &mut self.video else { return false };
        let lately =
            self.requested.is_some_and(|at| now.saturating_duration_since(at) < REQUEST_INTERVAL);
        if lately || !frames.give_up(now) {
            return false;
        }
        self.requested = Some(now);
        true
    }

    /// Its sender has left: silence is no freeze.
    pub(crate) fn rest(&mut self, publisher: u32) {
        if self.publisher != Some(publisher) {
            return;
        }
        if let Some(frames) = &mut self.video {
            frames.last_frame = None;
        }
    }

    /// Counts what became certain.
    pub(crate) fn flush(&mut self, now: Instant, at: Duration, recorder: &mut Recorder) {
        let lost = self.gaps.expire(now);
        let started = self.started.replace(at);
        let Some(stats) = recorder.window() else { return };
        stats.count.lost_after_repair += lost;
        if let (Some(started), true) = (started, self.video.is_some()) {
            stats.count.stream_milliseconds += at.saturating_sub(started).as_millis() as u64;
        }
    }

    /// The window ends: a picture that stands still is a freeze without waiting for its end.
    pub(crate) fn finish(&mut self, at: Duration, recorder: &mut Recorder) {
        if let Some(frames) = &mut self.video
            && let Some(last) = frames.last_frame
            && let Some(stats) = recorder.window()
        {
            frames.count_freeze(at.saturating_sub(last), stats);
        }
    }

    /// A new window: nothing of before counts.
    pub(crate) fn restart(&mut self, at: Duration) {
        self.started = Some(at);
        self.gaps.missing.clear();
    }
}

impl Frames {
    fn took(&mut self, frame: Whole, at: Duration, recorder: &mut Recorder) {
        let layer = match frame.stamp.map(|stamp| stamp.stream) {
            Some(Stream::Video(layer)) => Some(layer),
            _ => self.layer,
        };
        let switched = self.layer.is_some() && layer != self.layer;
        self.layer = layer;
        let last = self.last_frame.replace(at);
        let Some(stats) = recorder.window() else { return };
        stats.count.frames_received += 1;
        stats.count.keyframes_received += u64::from(frame.keyframe);
        stats.count.layer_switches += u64::from(switched);
        if let Some(stamp) = frame.stamp {
            stats.latency_video.record(at.saturating_sub(stamp.sent));
        }
        if let Some(last) = last {
            self.count_freeze(at.saturating_sub(last), stats);
        }
    }

    fn count_freeze(&mut self, since_last: Duration, stats: &mut Stats) {
        let seconds = since_last.as_secs_f64();
        if freeze(seconds, self.interval) {
            stats.freezes.record(since_last);
            stats.count.freeze_milliseconds += since_last.as_millis() as u64;
        } else {
            // The usual interval, over about thirty frames.
            self.interval += (seconds - self.interval) / 30.0;
        }
    }
}

#[cfg(test)]
mod tests;
