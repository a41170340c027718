//! A track that somebody publishes, with its encodings.

use std::time::{Duration, Instant};

use super::{
    DropReason, EncodingStats, NackGenerator,
    audio::AudioActivity,
    describe::{Described, describe},
    encoding::Encoding,
    layers::PayloadLayers,
    stream::Placed,
};
use crate::{
    cache::{
        CachedPacket, DecodeTargets, EncodingSet, FormatId, Formats, LadderStep, Layers,
        PacketMeta, SenderClock, Timing,
    },
    room::LevelWindow,
    rtp::{
        Bitrate, Codec, CodecKind, CodecMap, FrameRate, MediaKind, PayloadMeaning, Seq16, SeqNo,
        Ssrc,
    },
    wire::{
        BufferTooSmall, ExtensionValues, RtpPacket,
        rtcp::{CompoundWriter, ReportBlock, SenderInfo},
    },
};

/// Where a track's packets come from. A subscriber never knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TrackSource {
    /// A peer on this shard, as RTP.
    Peer,
    /// Another shard or node, as packets of its cache.
    Relay,
    /// Made here, as packets for a cache: a mixer, an announcement.
    Internal,
}

/// A published track on one shard: numbers, caches and feedback of its encodings.
#[derive(Debug)]
pub struct PublishedTrack {
    kind: MediaKind,
    source: TrackSource,
    formats: Formats,
    /// Lowest quality first.
    encodings: Vec<Encoding>,
    /// The latest sender report of each.
    clocks: Vec<Option<SenderClock>>,
    /// Of each, by the structure that came last.
    decode_targets: Vec<DecodeTargets>,
    /// What a relay says about bitrates.
    relayed_ladder: Vec<LadderStep>,
    muted: bool,
    relayed_live: Option<EncodingSet>,
    audio: AudioActivity,
    /// Format of the packet before, by the publisher's payload type: packets of one type come in runs.
    last_format: Option<(u8, FormatId)>,
    /// When the latest keyframe request left that a browser heeds.
    heeded_at: Option<Instant>,
    #[cfg(test)]
    measured: u64,
}

/// A packet that was taken: fetch it with [`PublishedTrack::packet`], where its encoding is demanded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Index into the encodings.
    pub encoding: u8,
    /// Its number at ingress.
    pub seq: SeqNo,
    /// Its format: see [`PublishedTrack::formats`].
    pub format: FormatId,
    /// The first packet of the encoding, or of a new stream in it.
    pub started: bool,
}

impl PublishedTrack {
    /// With `encodings` of them, none of which has packets yet; at most [`EncodingSet::MAX`].
    pub fn new(kind: MediaKind, source: TrackSource, encodings: usize) -> Self {
        let encodings = encodings.min(EncodingSet::MAX.into());
        Self {
            kind,
            source,
            formats: Formats::default(),
            encodings: (0..encodings).map(|index| Encoding::new(index as u8)).collect(),
            clocks: vec![None; encodings],
            decode_targets: vec![DecodeTargets::default(); encodings],
            relayed_ladder: Vec::new(),
            muted: false,
            relayed_live: None,
            audio: AudioActivity::default(),
            last_format: None,
            heeded_at: None,
            #[cfg(test)]
            measured: 0,
        }
    }

    /// Packets of a muted track are dropped. What comes afterwards is a new stream: what was dropped is not missing,
    /// and pictures begin with a keyframe.
    pub fn set_muted(&mut self, muted: bool) {
        if self.muted && !muted {
            for encoding in &mut self.encodings {
                encoding.stream = None;
            }
        }
        self.muted = muted;
    }

    /// The encodings that anybody gets or waits for; all, until this is called. Packets of the others are counted and
    /// measured, but neither kept nor repaired.
    pub fn set_demanded(&mut self, demanded: EncodingSet) {
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            encoding.demanded = demanded.contains(index as u8);
            if !encoding.demanded {
                encoding.cache.clear();
                encoding.relay_nack = NackGenerator::default();
            }
        }
    }

    /// What a relay says about the encodings that have packets: not all of them cross it.
    pub fn set_live(&mut self, live: EncodingSet) {
        self.relayed_live = Some(live);
    }

    /// Takes a decrypted packet of an encoding's media SSRC.
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        encoding: u8,
        packet: &RtpPacket<'_>,
        extensions: &ExtensionValues<'_>,
        codecs: &CodecMap,
    ) -> Result<Accepted, DropReason> {
        let Some(PayloadMeaning::Media(codec)) = codecs.meaning(packet.header.pt) else {
            return Err(DropReason::UnknownPayloadType);
        };
        self.check(encoding)?;
        let slot = &mut self.encodings[usize::from(encoding)];
        let started = slot.renew(now, packet, codec)?;
        let Some(stream) = &mut slot.stream else { return Err(DropReason::NoEncoding) };
        let placed = match stream.handle_rtp(now, &packet.header) {
            Err(DropReason::TooOld) if stream.is_restart(packet.header.seq) => {
                return self.restart(now, encoding, packet, extensions, codecs);
            }
            placed => placed?,
        };
        self.store(now, encoding, packet, packet.payload, placed, extensions, codec, started)
    }

    /// Takes a decrypted packet of an encoding's retransmission SSRC (RFC 4588).
    pub fn handle_rtx(
        &mut self,
        now: Instant,
        encoding: u8,
        packet: &RtpPacket<'_>,
        extensions: &ExtensionValues<'_>,
        codecs: &CodecMap,
    ) -> Result<Accepted, DropReason> {
        let Some(PayloadMeaning::Rtx(codec)) = codecs.meaning(packet.header.pt) else {
            return Err(DropReason::UnknownPayloadType);
        };
        self.check(encoding)?;
        let slot = &mut self.encodings[usize::from(encoding)];
        let Some(stream) = &mut slot.stream else { return Err(DropReason::OrphanRtx) };
        let Some((original, payload)) = packet.payload.split_first_chunk::<2>() else {
            // Senders probe for bandwidth with padding on this SSRC.
            stream.count_rtx(now, &packet.header);
            return Err(DropReason::Padding);
        };
        let original = Seq16(u16::from_be_bytes(*original));
        let placed = stream.handle_rtx(now, &packet.header, original)?;
        slot.counted.repaired += 1;
        self.store(now, encoding, packet, payload, placed, extensions, codec, false)
    }

    /// Takes a packet of an encoding's media SSRC that repair packets brought back.
    pub fn handle_recovered(
        &mut self,
        now: Instant,
        encoding: u8,
        packet: &RtpPacket<'_>,
        extensions: &ExtensionValues<'_>,
        codecs: &CodecMap,
    ) -> Result<Accepted, DropReason> {
        let Some(PayloadMeaning::Media(codec)) = codecs.meaning(packet.header.pt) else {
            return Err(DropReason::UnknownPayloadType);
        };
        self.check(encoding)?;
        let slot = &mut self.encodings[usize::from(encoding)];
        let stream = slot.stream.as_mut().filter(|stream| stream.ssrc() == packet.header.ssrc);
        let Some(stream) = stream else { return Err(DropReason::OrphanRtx) };
        let placed = stream.handle_repaired(now, &packet.header, packet.header.seq)?;
        slot.counted.repaired += 1;
        self.store(now, encoding, packet, packet.payload, placed, extensions, codec, false)
    }

    /// Takes a packet from another cache, or one made here.
    pub fn handle_relayed(
        &mut self,
        now: Instant,
        packet: CachedPacket<'_>,
    ) -> Result<Accepted, DropReason> {
        if self.source == TrackSource::Peer {
            return Err(DropReason::NoEncoding);
        }
        let meta = packet.meta;
        let slot =
            self.encodings.get_mut(usize::from(meta.encoding)).ok_or(DropReason::NoEncoding)?;
        slot.cache.insert(now, packet)?;
        let started = slot.last_packet.replace(now).is_none();
        slot.measure(now, packet.payload.len(), meta.marker, &meta.frame);
        if let Some(layers) = meta.frame.layers.filter(|layers| layers.has_structure) {
            // Read again rather than carried along: it comes with keyframes only.
            let (descriptor, mut frame) = (packet.dependency_descriptor, meta.frame);
            slot.layers.anchor(layers.frame);
            slot.layers.read(meta.seq, descriptor, PayloadLayers::None, &mut frame);
            slot.read_overtaken(meta.seq);
            if let Some(targets) = self.decode_targets.get_mut(usize::from(meta.encoding)) {
                *targets = slot.layers.decode_targets();
            }
        }
        let opens = meta.frame.keyframe && meta.frame.start;
        if opens {
            slot.keyframe.handle_keyframe(now);
        }
        let format = self.formats.get(meta.format);
        let begins = opens && format.is_some_and(|format| begins_with_keyframe(format.kind));
        slot.count_relayed(now, meta, begins);
        slot.highest = Some(slot.highest.map_or(meta.seq, |highest| highest.max(meta.seq)));
        Ok(Accepted { encoding: meta.encoding, seq: meta.seq, format: meta.format, started })
    }

    /// A sender report about one of the track's SSRCs; false when it is about none of them.
    pub fn handle_sender_report(&mut self, now: Instant, info: &SenderInfo) -> bool {
        for (encoding, clock) in self.encodings.iter_mut().zip(&mut self.clocks) {
            let Some(stream) = &mut encoding.stream else { continue };
            let is_media = stream.ssrc() == info.ssrc;
            if !is_media && stream.rtx_ssrc() != Some(info.ssrc) {
                continue;
            }
            let time = stream.handle_sender_report(now, info.ssrc, info.ntp, info.rtp_timestamp);
            // Without a clock of its own a sender writes zero (RFC 3550 section 6.4.1).
            if let Some(time) = time.filter(|_| info.ntp.0 != 0) {
                let generation = stream.generation();
                *clock = Some(SenderClock { ntp: info.ntp, time, at: now, generation });
            }
            return true;
        }
        false
    }

    /// What a relay says about an encoding's clock.
    pub fn set_sender_clock(&mut self, encoding: u8, clock: SenderClock) {
        if let Some(slot) = self.clocks.get_mut(usize::from(encoding)) {
            *slot = Some(clock);
        }
    }

    /// What a relay says about a format: ids are those of the track's first shard. False when they do not match.
    pub fn set_format(&mut self, id: FormatId, codec: &Codec) -> bool {
        self.formats.intern(codec) == Some(id)
    }

    /// A subscriber needs a keyframe of an encoding. Merged and throttled: ask as often as you like.
    pub fn request_keyframe(&mut self, now: Instant, encoding: u8) {
        if self.kind == MediaKind::Audio {
            return;
        }
        if let Some(slot) = self.encodings.get_mut(usize::from(encoding)) {
            slot.keyframe.request(now);
        }
    }

    /// Calls `ask` for each packet (encoding, number) that did not come from another shard and is to be asked for there
    /// now, and again after `interval`. What is given up becomes a keyframe request.
    pub fn poll_relay_nacks(
        &mut self,
        now: Instant,
        interval: Duration,
        mut ask: impl FnMut(u8, SeqNo) -> bool,
    ) {
        let kind = self.kind;
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            encoding.poll_relay_nacks(now, interval, kind, |seq| ask(index as u8, seq));
        }
    }

    /// The encodings whose keyframes have to be asked for now, where the source is no peer of this shard.
    pub fn poll_keyframe_requests(&mut self, now: Instant) -> EncodingSet {
        let mut wanted = EncodingSet::EMPTY;
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            if encoding.keyframe.poll(now) {
                wanted = wanted.with(index as u8);
            }
        }
        wanted
    }

    /// Writes the NACKs and keyframe requests that are due, in the name of `sender`. `Err`: the rest did not fit,
    /// call again with a fresh buffer.
    pub fn poll_feedback(
        &mut self,
        now: Instant,
        rtt: Duration,
        sender: Ssrc,
        writer: &mut CompoundWriter<'_>,
    ) -> Result<(), BufferTooSmall> {
        let Self { kind, encodings, heeded_at, .. } = self;
        for encoding in encodings {
            let before = encoding.keyframe.sent_at();
            encoding.poll_feedback(now, rtt, *kind, sender, writer)?;
            if encoding.keyframe.sent_at() == before {
                continue;
            }
            match *heeded_at {
                Some(at) if now < at + HEEDED => encoding.keyframe.repeat_at(at + HEEDED_AGAIN),
                _ => *heeded_at = Some(now),
            }
        }
        Ok(())
    }

    /// When [`Self::poll_feedback`], or [`Self::poll_relay_nacks`] and [`Self::poll_keyframe_requests`], has something
    /// to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let relayed = self.source != TrackSource::Peer;
        let due = |encoding: &Encoding| encoding.poll_timeout(relayed);
        self.encodings.iter().flat_map(due).flatten().min()
    }

    /// Appends the blocks of a receiver report: only SSRCs that are bound, since senders take a block as a sign that
    /// they need not name MID and RID any more.
    pub fn report_blocks(&mut self, now: Instant, blocks: &mut Vec<ReportBlock>) {
        for stream in self.encodings.iter_mut().filter_map(|encoding| encoding.stream.as_mut()) {
            blocks.extend(stream.report_blocks(now));
        }
    }

    /// How many blocks [`Self::report_blocks`] appends.
    pub fn reported(&self) -> usize {
        let streams = self.encodings.iter().filter_map(|encoding| encoding.stream.as_ref());
        streams.map(|stream| stream.reported()).sum()
    }

    /// A packet that is still in its cache.
    #[inline(always)]
    pub fn packet(&self, encoding: u8, seq: SeqNo) -> Option<CachedPacket<'_>> {
        self.encodings.get(usize::from(encoding))?.cache.get(seq)
    }

    /// The highest number that an encoding took. What lies between a packet that opens a stream
    /// ([`crate::cache::Rewritten::opens`]) and this one may be in the cache already: it overtook that packet.
    pub fn highest(&self, encoding: u8) -> Option<SeqNo> {
        self.encodings.get(usize::from(encoding))?.highest
    }

    /// Formats and clocks, for rewriters.
    pub fn timing(&self) -> Timing<'_> {
        Timing {
            formats: &self.formats,
            clocks: &self.clocks,
            decode_targets: &self.decode_targets,
        }
    }

    /// The formats seen so far.
    pub fn formats(&self) -> &Formats {
        &self.formats
    }

    /// Audio or video.
    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    /// Where its packets come from.
    pub fn source(&self) -> TrackSource {
        self.source
    }

    /// How many encodings it has.
    pub fn encoding_count(&self) -> u8 {
        self.encodings.len() as u8
    }

    /// Whether its packets are dropped.
    pub fn muted(&self) -> bool {
        self.muted
    }

    /// The encodings that have packets: one that fell a second behind the others was stopped by its sender. A track
    /// that is silent as a whole keeps what it had.
    pub fn live(&self) -> EncodingSet {
        if let Some(live) = self.relayed_live {
            return live;
        }
        let newest = self.encodings.iter().filter_map(|encoding| encoding.last_packet).max();
        let Some(newest) = newest else { return EncodingSet::EMPTY };
        let mut live = EncodingSet::EMPTY;
        for (index, encoding) in self.encodings.iter().enumerate() {
            let last = encoding.last_packet;
            if last.is_some_and(|last| newest.saturating_duration_since(last) < STALL) {
                live = live.with(index as u8);
            }
        }
        live
    }

    /// What an encoding took of late, headers included.
    pub fn bitrate(&mut self, now: Instant, encoding: u8) -> Bitrate {
        self.encodings
            .get_mut(usize::from(encoding))
            .map_or(Bitrate::ZERO, |encoding| encoding.rate.rate(now))
    }

    /// Appends the steps that a subscriber can be put on, lowest first, each with the bitrate of all that passes there.
    /// Formats that tell no layers have one step per encoding; encodings without packets of late have none.
    pub fn ladder(&mut self, now: Instant, steps: &mut Vec<LadderStep>) {
        #[cfg(test)]
        {
            self.measured += 1;
        }
        if !self.relayed_ladder.is_empty() {
            steps.extend_from_slice(&self.relayed_ladder);
            return;
        }
        let single = self.encodings.len() == 1;
        for (index, encoding) in (0u8..).zip(&mut self.encodings) {
            let total = encoding.rate.rate(now);
            if total == Bitrate::ZERO {
                continue;
            }
            let before = steps.len();
            let measured = encoding.layer_rates.as_mut().into_iter().flat_map(|it| it.rates(now));
            steps.extend(measured);
            if !single && let Some(top) = steps[before..].last().map(|step| step.layers.spatial) {
                // The encoding's place on the track's ladder stands for all of its spatial layers that may pass.
                let spatial = top.min(index);
                let mut at = 0;
                steps.retain(|step| {
                    at += 1;
                    at <= before || step.layers.spatial == spatial
                });
                steps[before..].iter_mut().for_each(|step| step.layers.spatial = index);
            }
            if steps.len() == before {
                let layers = Layers { spatial: if single { 0 } else { index }, temporal: 0 };
                let frame_rate = FrameRate::ZERO;
                steps.push(LadderStep { layers, bitrate: total, frame_rate });
            }
        }
    }

    /// How often its ladder was asked for.
    #[cfg(test)]
    pub(crate) fn measured(&self) -> u64 {
        self.measured
    }

    /// What a relay says about the steps of its track: not all encodings cross it, so that they cannot be measured here.
    pub fn set_ladder(&mut self, steps: &[LadderStep]) {
        self.relayed_ladder.clear();
        self.relayed_ladder.extend_from_slice(steps);
    }

    /// How loud it was since the last call; `None` where nothing was heard.
    pub fn take_levels(&mut self, now: Instant) -> Option<LevelWindow> {
        self.audio.take(now)
    }

    /// What is known of each encoding, lowest quality first.
    pub fn encoding_stats(&mut self, now: Instant) -> impl Iterator<Item = EncodingStats> + '_ {
        let live = self.live();
        (0u8..)
            .zip(&mut self.encodings)
            .map(move |(index, encoding)| encoding.stats(now, live.contains(index)))
    }

    /// The SSRC of an encoding's media, once it is known.
    pub fn ssrc(&self, encoding: u8) -> Option<Ssrc> {
        Some(self.encodings.get(usize::from(encoding))?.stream.as_ref()?.ssrc())
    }

    /// Memory of its caches, bytes.
    pub fn memory(&self) -> usize {
        self.encodings.iter().map(|encoding| encoding.cache.memory()).sum()
    }

    fn check(&self, encoding: u8) -> Result<(), DropReason> {
        if self.source != TrackSource::Peer || encoding >= self.encoding_count() {
            return Err(DropReason::NoEncoding);
        }
        if self.muted { Err(DropReason::Muted) } else { Ok(()) }
    }

    /// The sender started its numbers afresh on the same SSRC.
    fn restart(
        &mut self,
        now: Instant,
        encoding: u8,
        packet: &RtpPacket<'_>,
        extensions: &ExtensionValues<'_>,
        codecs: &CodecMap,
    ) -> Result<Accepted, DropReason> {
        if let Some(slot) = self.encodings.get_mut(usize::from(encoding)) {
            if !slot.may_renew(now) {
                return Err(DropReason::TooOld);
            }
            slot.stream = None;
        }
        self.handle_rtp(now, encoding, packet, extensions, codecs)
    }

    #[allow(clippy::too_many_arguments)] // one packet in its parts; a struct for two callers says no more
    fn store(
        &mut self,
        now: Instant,
        encoding: u8,
        packet: &RtpPacket<'_>,
        payload: &[u8],
        placed: Placed,
        extensions: &ExtensionValues<'_>,
        codec: &Codec,
        started: bool,
    ) -> Result<Accepted, DropReason> {
        let format = self.format(codec)?;
        let padding = payload.is_empty();
        let mut described = match padding {
            true => Described::default(),
            false => describe(codec.kind, packet.header.marker, payload),
        };
        if let Some(level) = extensions.audio_level {
            self.audio.add(now, level);
        }
        let slot = &mut self.encodings[usize::from(encoding)];
        slot.last_packet = Some(now);
        let dependency_descriptor = extensions.dependency_descriptor.unwrap_or(&[]);
        let frame_number = match padding {
            true => None,
            false => {
                let (layers, frame) = (described.layers, &mut described.frame);
                slot.layers.read(placed.seq, dependency_descriptor, layers, frame)
            }
        };
        let bytes = packet.header.header_len + packet.payload.len();
        slot.measure(now, bytes, packet.header.marker, &described.frame);
        if described.frame.layers.is_some_and(|layers| layers.has_structure)
            && let Some(targets) = self.decode_targets.get_mut(usize::from(encoding))
        {
            *targets = slot.layers.decode_targets();
            slot.read_overtaken(placed.seq);
        }
        if described.frame.keyframe && self.kind == MediaKind::Video {
            slot.keyframe.handle_keyframe(now);
            let begins = begins_with_keyframe(codec.kind);
            if let Some(stream) = slot.stream.as_mut().filter(|_| begins) {
                stream.nack().handle_keyframe(placed.seq);
            }
        }
        let meta = PacketMeta {
            seq: placed.seq,
            time: placed.time,
            received_at: now,
            encoding,
            generation: slot.generations,
            format,
            marker: packet.header.marker,
            padding,
            frame: described.frame,
            codec: described.codec,
            frame_number,
            red_primary: described.red_primary,
            audio_level: extensions.audio_level,
            video_orientation: extensions.video_orientation,
            playout_delay: extensions.playout_delay,
            abs_capture_time: extensions.abs_capture_time,
        };
        if slot.demanded {
            slot.cache.insert(now, CachedPacket { meta: &meta, dependency_descriptor, payload })?;
        }
        slot.highest = Some(slot.highest.map_or(placed.seq, |highest| highest.max(placed.seq)));
        Ok(Accepted { encoding, seq: placed.seq, format, started })
    }

    fn format(&mut self, codec: &Codec) -> Result<FormatId, DropReason> {
        let pt = codec.pt.value();
        // A renegotiation may give a payload type another meaning.
        if let Some((known, id)) = self.last_format
            && known == pt
            && self.formats.get(id).is_some_and(|format| format.same_format(codec))
        {
            return Ok(id);
        }
        let id = self.formats.intern(codec).ok_or(DropReason::TooManyFormats)?;
        self.last_format = Some((pt, id));
        Ok(id)
    }
}

/// A browser heeds one keyframe request in this time, whatever encoding it is for (libwebrtc's EncoderRtcpFeedback, 300 ms).
const HEEDED: Duration = Duration::from_millis(300);

/// So long after one that was heeded another one is, though they may come closer to each other than they left.
const HEEDED_AGAIN: Duration = Duration::from_millis(350);

/// Whether nothing of a picture comes before the packet that says "keyframe": H.264 and H.265 have parameter sets in
/// packets of their own.
fn begins_with_keyframe(kind: CodecKind) -> bool {
    !matches!(kind, CodecKind::H264 | CodecKind::H265)
}

/// An encoding this much behind the newest packet of its track was stopped. Shorter follows a publisher's choices
/// sooner, longer survives more jitter between encodings.
const STALL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
