//! One encoding of a published track: its stream, its packets, its feedback.

use std::time::{Duration, Instant};

use super::{
    DropReason, EncodingStats, IngressStream, KeyframeRequester, NackGenerator, RateMeter,
    layer_rate::LayerMeter,
    layers::{LayerReader, PayloadLayers},
};
use crate::{
    cache::{FrameFacts, PacketCache, PacketMeta},
    rtp::{Bitrate, Codec, MediaKind, Seq16, SeqNo, Ssrc},
    wire::{
        BufferTooSmall, RtpPacket,
        rtcp::{CompoundWriter, FirEntry, Pli},
    },
};

#[derive(Debug)]
pub(super) struct Encoding {
    /// `None` before the first packet, and for a source that is no RTP.
    pub(super) stream: Option<IngressStream>,
    pub(super) cache: PacketCache,
    pub(super) keyframe: KeyframeRequester,
    pub(super) rate: RateMeter,
    pub(super) layers: LayerReader,
    /// Once the encoding was seen to have layers. Boxed: most have none.
    pub(super) layer_rates: Option<Box<LayerMeter>>,
    pub(super) last_packet: Option<Instant>,
    /// Feedback that the publisher negotiated for what it sends now.
    pub(super) feedback: NegotiatedFeedback,
    fir_seq: u8,
    pub(super) generations: u8,
    /// When a stream last took the place of another.
    renewed_at: Option<Instant>,
    /// Highest number taken, whether it was kept or not.
    pub(super) highest: Option<SeqNo>,
    /// What is missing of what another shard sends: its lane was full.
    pub(super) relay_nack: NackGenerator,
    /// Of the latest packet from another shard.
    relayed_generation: u8,
    /// Somebody may switch to it: its packets are kept.
    pub(super) demanded: bool,
    /// Since the track began.
    pub(super) counted: Counted,
}

/// What an encoding counts for statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    packets: u64,
    bytes: u64,
    frames: u64,
    keyframes: u64,
    pub(super) repaired: u64,
    nacks: u64,
    keyframe_requests: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NegotiatedFeedback {
    pub(super) nack: bool,
    pli: bool,
    fir: bool,
}

impl Encoding {
    pub(super) fn new(index: u8) -> Self {
        Self {
            stream: None,
            cache: PacketCache::new(),
            keyframe: KeyframeRequester::new(index),
            rate: RateMeter::default(),
            layers: LayerReader::default(),
            layer_rates: None,
            last_packet: None,
            feedback: NegotiatedFeedback::default(),
            fir_seq: 0,
            generations: 0,
            renewed_at: None,
            highest: None,
            relay_nack: NackGenerator::default(),
            relayed_generation: 0,
            demanded: true,
            counted: Counted::default(),
        }
    }

    /// What is known of it. Whether it is live is known to its track.
    pub(super) fn stats(&mut self, now: Instant, live: bool) -> EncodingStats {
        let Counted { packets, bytes, frames, keyframes, repaired, nacks, keyframe_requests } =
            self.counted;
        let stream = self.stream.as_ref();
        let reception = stream.map(IngressStream::reception);
        EncodingStats {
            ssrc: stream.map(IngressStream::ssrc),
            live,
            demanded: self.demanded,
            // The meter forgets; after a long silence it says so only when it is asked.
            bitrate: if self.last_packet.is_some() { self.rate.rate(now) } else { Bitrate::ZERO },
            packets,
            bytes,
            frames,
            keyframes,
            lost: reception.map_or(0, |reception| reception.lost()),
            repaired,
            fraction_lost: reception.map_or(0, |reception| reception.fraction_lost()),
            jitter: reception.map_or(0, |reception| reception.jitter()),
            nacks,
            keyframe_requests,
        }
    }

    /// Counts a packet of `bytes`, headers included.
    pub(super) fn measure(&mut self, now: Instant, bytes: usize, marker: bool, frame: &FrameFacts) {
        self.rate.add(now, bytes);
        self.counted.packets += 1;
        self.counted.bytes += bytes as u64;
        self.counted.frames += u64::from(marker);
        self.counted.keyframes += u64::from(frame.start && frame.keyframe);
        if frame.layers.is_some() {
            self.layer_rates.get_or_insert_default().add(now, bytes, frame);
        }
    }

    /// A structure came with packet `seq`: what was here before it can be read now.
    pub(super) fn read_overtaken(&mut self, seq: SeqNo) {
        let Some(highest) = self.cache.highest() else { return };
        // No more than a cache holds, whatever the numbers.
        let last = highest.0.min(seq.0 + PacketCache::MAX_PACKETS as u64);
        for seq in (seq.0 + 1..=last).map(SeqNo) {
            let Some((meta, descriptor)) = self.cache.revise(seq) else { continue };
            if meta.frame.overtook {
                meta.frame.overtook = false;
                self.layers.read(seq, descriptor, PayloadLayers::None, &mut meta.frame);
            }
        }
    }

    /// Makes sure that the stream is that of `packet`; true when it is a new one.
    pub(super) fn renew(
        &mut self,
        now: Instant,
        packet: &RtpPacket<'_>,
        codec: &Codec,
    ) -> Result<bool, DropReason> {
        let header = &packet.header;
        let same = self.stream.as_ref().is_some_and(|stream| {
            stream.ssrc() == header.ssrc && stream.clock_rate() == codec.clock_rate
        });
        if !same && self.stream.is_some() && !self.may_renew(now) {
            return Err(DropReason::TooManySsrcs);
        }
        self.feedback = NegotiatedFeedback { nack: codec.nack, pli: codec.pli, fir: codec.fir };
        if same {
            return Ok(false);
        }
        self.layers.reset();
        let after = self.highest;
        if after.is_some() {
            self.generations = self.generations.wrapping_add(1);
        }
        self.stream =
            Some(IngressStream::new(now, header, codec.clock_rate, self.generations, after));
        Ok(true)
    }

    /// Whether another stream may take this one's place now; it then does. Senders that take turns in one encoding
    /// would otherwise begin a stream, ask for a keyframe and tell the control plane with every packet.
    pub(super) fn may_renew(&mut self, now: Instant) -> bool {
        let soon = |at: Instant| now.saturating_duration_since(at) < RENEW_INTERVAL;
        if self.renewed_at.is_some_and(soon) {
            return false;
        }
        self.renewed_at = Some(now);
        true
    }

    /// When there is feedback: never while there is nobody to give it to, or it was not negotiated.
    pub(super) fn poll_timeout(&self, relayed: bool) -> [Option<Instant>; 2] {
        let stream = self.stream.as_ref();
        let asks = relayed || (stream.is_some() && (self.feedback.pli || self.feedback.fir));
        let repairs = self.feedback.nack && self.demanded;
        let nack = match relayed {
            true => self.relay_nack.poll_timeout(),
            false => stream.filter(|_| repairs).and_then(IngressStream::poll_timeout),
        };
        [self.keyframe.poll_timeout().filter(|_| asks), nack]
    }

    /// A packet came from another shard. `opens`: pictures can begin with it.
    pub(super) fn count_relayed(&mut self, now: Instant, meta: &PacketMeta, opens: bool) {
        if !self.demanded {
            return;
        }
        if self.highest.is_none_or(|highest| meta.seq > highest) {
            if self.relayed_generation != meta.generation {
                // A new stream: nothing lies between it and the one before.
                self.relay_nack = NackGenerator::default();
            }
            self.relayed_generation = meta.generation;
        }
        self.relay_nack.handle_packet(now, meta.seq);
        if opens {
            self.relay_nack.handle_keyframe(meta.seq);
        }
    }

    /// Calls `ask` for what is to be asked for at another shard now; false: no room.
    pub(super) fn poll_relay_nacks(
        &mut self,
        now: Instant,
        interval: Duration,
        kind: MediaKind,
        ask: impl FnMut(SeqNo) -> bool,
    ) {
        self.relay_nack.poll(now, interval, ask);
        if self.relay_nack.take_given_up() && kind == MediaKind::Video {
            self.keyframe.request(now);
        }
    }

    pub(super) fn poll_feedback(
        &mut self,
        now: Instant,
        rtt: Duration,
        kind: MediaKind,
        sender: Ssrc,
        writer: &mut CompoundWriter<'_>,
    ) -> Result<(), BufferTooSmall> {
        let repairs = self.feedback.nack && self.demanded;
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let media = stream.ssrc();
        if repairs {
            poll_nack(stream, now, rtt, sender, &mut self.counted.nacks, writer)?;
        } else {
            stream.nack().clear();
        }
        if stream.nack().take_given_up() && kind == MediaKind::Video {
            self.keyframe.request(now);
        }
        let due = self.keyframe.poll_timeout().is_some_and(|due| due <= now);
        if !due || !(self.feedback.pli || self.feedback.fir) {
            return Ok(());
        }
        if self.feedback.pli {
            writer.pli(&Pli { sender, media })?;
        } else {
            writer.fir(sender, &[FirEntry { ssrc: media, seq: self.fir_seq }])?;
            self.fir_seq = self.fir_seq.wrapping_add(1);
        }
        self.keyframe.poll(now);
        self.counted.keyframe_requests += 1;
        Ok(())
    }
}

fn poll_nack(
    stream: &mut IngressStream,
    now: Instant,
    rtt: Duration,
    sender: Ssrc,
    asked: &mut u64,
    writer: &mut CompoundWriter<'_>,
) -> Result<(), BufferTooSmall> {
    let media = stream.ssrc();
    let mut lost = [Seq16(0); MAX_NACKED];
    loop {
        let mut count = 0;
        // Four bytes each at worst, twelve for the header.
        let room = (writer.remaining().saturating_sub(12) / 4).min(lost.len());
        let mut more = false;
        stream.nack().poll(now, rtt, |seq| {
            let Some(place) = lost[..room].get_mut(count) else {
                more = true;
                return false;
            };
            *place = seq.seq16();
            count += 1;
            true
        });
        writer.nack(sender, media, lost[..count].iter().copied())?;
        *asked += count as u64;
        if !more {
            return Ok(());
        }
        if count == 0 {
            return Err(BufferTooSmall);
        }
    }
}

/// Between two streams that take the place of another in one encoding. Shorter follows a client that changes its camera
/// twice, longer spares everybody a client that is broken.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_millis(500);

/// Numbers in one message; more become further messages.
const MAX_NACKED: usize = 128;
