//! The packets of one subscription.

mod lines;
mod padding;
mod redundant;
mod repair;
mod stamp;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    format_table::{FormatTable, Mapping, PayloadMapping},
    header_template::HeaderTemplate,
    protection::Protection,
    records::{Record, Records},
    redundancy::{self, Redundancy},
};
pub use repair::FecStream;

use crate::{
    cache::{
        CachedPacket, CodecPatch, FormatId, Formats, PacketMeta, Rewritten, Seen, SenderClock,
        SeqWindow,
    },
    rtp::{CodecMap, Extension, ExtensionMap, Mid, Pt, RtpTs32, Seq16, SeqNo, Ssrc},
    wire::{
        AbsSendTime, DescriptorPatch, ExtensionValues, RtpHeaderFields, WrittenHeader,
        compact_to_duration,
        payload::write_red,
        rtcp::{ReportBlock, SenderInfo},
    },
};

/// How a subscription leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EgressConfig {
    /// Of the media.
    pub ssrc: Ssrc,
    /// Of its retransmissions; without it nothing is sent again.
    pub rtx_ssrc: Option<Ssrc>,
    /// Of its repair packets; without it none are made.
    pub fec: Option<FecStream>,
    /// The m-line.
    pub mid: Mid,
    /// Header extensions that may be sent to this subscriber.
    pub extensions: ExtensionMap,
}

/// Writes, counts and repeats the packets of one subscription.
///
/// In this order: what each packet that leaves looks at comes first.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct EgressStream {
    sent: SeqWindow,
    packets: u32,
    octets: u32,
    ssrc: Ssrc,
    rtx_ssrc: Option<Ssrc>,
    marks: Marks,
    header: HeaderTemplate,
    formats: FormatTable,
    records: Records,
    /// Sender reports by the middle 32 bits of their NTP time, the latest last. With what report blocks look at behind it.
    reports: [Option<(u32, Instant)>; 4],
    /// Highest number that the subscriber reported; before that, the one below the first.
    reported: Option<SeqNo>,
    /// How many numbers that report was about.
    span: u32,
    jitter: u32,
    fraction_lost: u8,
    redundancy: Redundancy,
    rtt: Option<Duration>,
    mid: Mid,
    extensions: ExtensionMap,
    rtx_seq: SeqNo,
    descriptors_left_out: u32,
    resends: VecDeque<Resend>,
    /// How far behind the highest the last padding was.
    padded: u64,
    fec: Option<FecStream>,
    fec_pt: Option<Pt>,
    protection: Option<Box<Protection>>,
}

/// What is looked at for each packet, beside each other.
#[derive(Debug)]
struct Marks {
    /// Packets that still name the m-line; see [`MID_PACKETS`].
    mid_left: u8,
    /// The subscriber reported on the SSRC: it knows which m-line it belongs to.
    acknowledged: bool,
    /// Older packets that each is to carry: those of [`Redundancy`], which is further away.
    older: u8,
    /// Blocks of redundancy that were added to the last packet.
    carried: u8,
    /// There is a [`Protection`].
    protected: bool,
}

/// A packet to send again: look it up in the track's cache, then [`EgressStream::write_resend`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resend {
    /// Index into the track's encodings.
    pub encoding: u8,
    /// Its number at ingress.
    pub ingress_seq: SeqNo,
    seq: SeqNo,
    time: RtpTs32,
    /// It has the marker bit, though it came without.
    ends_picture: bool,
    patch: CodecPatch,
    descriptor: Option<DescriptorPatch>,
}

impl Record {
    fn resend(self, seq: SeqNo) -> Resend {
        Resend {
            encoding: self.encoding,
            ingress_seq: self.ingress_seq,
            seq,
            time: self.time,
            ends_picture: self.ends_picture,
            patch: self.patch,
            descriptor: self.descriptor,
        }
    }
}

/// A packet that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Written {
    /// Bytes of the packet.
    pub len: usize,
    /// Of these, header: what SRTP leaves in the clear.
    pub header_len: usize,
    /// Its SSRC: that of the media, or of the retransmissions.
    pub ssrc: Ssrc,
    /// Its number, for the rollover counter of SRTP.
    pub seq: SeqNo,
    /// Where the transport-wide number goes: see [`crate::wire::patch_transport_cc`].
    pub transport_cc: Option<u16>,
    /// Where the send time goes: see [`crate::wire::patch_abs_send_time`].
    pub abs_send_time: Option<u16>,
}

impl Written {
    /// Of the payload, before any padding: what a sender report counts (RFC 3550 section 6.4.1).
    pub(crate) fn octets(&self) -> usize {
        self.len - self.header_len
    }
}

/// What the packets of a frame leave with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    mapping: Mapping,
    /// They name the m-line.
    names_mid: bool,
    /// No number behind that of the first was sent: a second lock, behind [`crate::forward::Forwarder::leads`], before one is sealed twice.
    pub(crate) latest: bool,
}

/// Why a packet was not written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum WriteError {
    /// The subscriber did not negotiate its format, or no retransmission of it.
    #[error("format not negotiated by the subscriber")]
    Format,
    /// This number was sent before, or so long ago that nobody knows. Sealed twice, it would use a nonce twice.
    #[error("sent before")]
    Duplicate,
    /// The buffer is too small.
    #[error("packet larger than its buffer")]
    TooLarge,
}

/// At its start and after each switch this many packets name their m-line, however quickly the subscriber reports: some
/// of them may be lost.
const MID_PACKETS: u8 = 32;
/// Waiting resends at most. A subscriber that misses more is better served by a keyframe.
const MAX_RESENDS: usize = 256;
/// Nobody's round trip is shorter where it matters; without a bound a fast asker would get a flood.
const MIN_RESEND_INTERVAL: Duration = Duration::from_millis(5);

impl EgressStream {
    /// `first_rtx_seq` is below 2^15 where the SSRC was never used; no time of this stream is before `now`.
    pub fn new(now: Instant, config: EgressConfig, first_rtx_seq: SeqNo) -> Self {
        Self {
            ssrc: config.ssrc,
            rtx_ssrc: config.rtx_ssrc,
            mid: config.mid,
            extensions: config.extensions,
            header: HeaderTemplate::new(),
            formats: FormatTable::default(),
            marks: Marks {
                mid_left: MID_PACKETS,
                acknowledged: false,
                older: 0,
                carried: 0,
                protected: false,
            },
            packets: 0,
            octets: 0,
            sent: SeqWindow::default(),
            rtx_seq: first_rtx_seq,
            descriptors_left_out: 0,
            records: Records::new(now),
            resends: VecDeque::new(),
            padded: 0,
            reports: [None; 4],
            rtt: None,
            fraction_lost: 0,
            jitter: 0,
            reported: None,
            span: 0,
            redundancy: Redundancy::default(),
            fec: config.fec,
            fec_pt: None,
            protection: None,
        }
    }

    /// To be called at the start, when the track shows a new format, and when the subscriber's codecs change.
    pub fn set_codecs(&mut self, formats: &Formats, codecs: &CodecMap) {
        self.formats = FormatTable::new(formats, codecs);
    }

    /// Header extensions that may be sent from now on.
    pub fn set_extensions(&mut self, extensions: ExtensionMap) {
        self.extensions = extensions;
        self.header.forget();
    }

    /// Whether audio may leave with redundancy of our own while the subscriber reports loss.
    pub fn set_add_redundancy(&mut self, allowed: bool) {
        self.adapt(|redundancy| redundancy.set_allowed(allowed));
    }

    /// How many older packets [`Self::put_redundant`] wants to have beside each: at most two.
    pub(crate) fn redundancy(&self) -> usize {
        self.marks.older.into()
    }

    /// How many blocks of redundancy the last packet left with beside its own sound: less than is wanted where the packet
    /// brought some of its own or the subscriber has no RED.
    pub fn carried(&self) -> u8 {
        self.marks.carried
    }

    /// Whether the subscriber can take packets of this format. To be asked before a packet gets a number.
    #[inline(always)]
    pub fn accepts(&self, format: FormatId) -> bool {
        self.formats.get(format).is_some()
    }

    /// Writes a packet and counts it as sent, by a clock of the stream's own: not where `count` is told another.
    #[inline(always)]
    pub fn write(
        &mut self,
        now: Instant,
        packet: CachedPacket<'_>,
        rewritten: &Rewritten,
        out: &mut [u8],
    ) -> Result<Written, WriteError> {
        let leaving = self.begin(packet.meta.format, rewritten)?;
        let written = self.put(leaving, packet, rewritten, &[], out)?;
        self.count(self.records.clock(now), packet.meta, rewritten, 1, written.octets());
        Ok(written)
    }

    /// What the packets of a frame have in common ([`PacketMeta::follows`]), of which `rewritten` is the first. Each is then written
    /// ([`Self::put`]) under its own number, and those that were are counted together ([`Self::count`]).
    #[inline(always)]
    pub(crate) fn begin(
        &mut self,
        format: FormatId,
        rewritten: &Rewritten,
    ) -> Result<Leaving, WriteError> {
        let mapping = self.formats.get(format).ok_or(WriteError::Format)?;
        if self.sent.check(rewritten.seq) != Seen::No {
            return Err(WriteError::Duplicate);
        }
        if rewritten.opens {
            self.marks.mid_left = MID_PACKETS;
        }
        self.marks.carried = 0;
        let names_mid = !self.marks.acknowledged || self.marks.mid_left > 0;
        let latest = self.sent.highest().is_none_or(|highest| highest < rewritten.seq);
        Ok(Leaving { mapping, names_mid, latest })
    }

    /// Writes one of the packets of [`Self::begin`]; `rewritten` has its number and marker.
    // In its caller, as everything down to the payload's copy: what is returned stays in registers then. Moved through memory it is
    // read wider than it was written, which waits until all stores before it, the payload's, have reached the cache: 100 ns.
    #[inline(always)]
    pub(crate) fn put(
        &mut self,
        leaving: Leaving,
        packet: CachedPacket<'_>,
        rewritten: &Rewritten,
        older: &[(u16, &[u8])],
        out: &mut [u8],
    ) -> Result<Written, WriteError> {
        let Leaving { mapping, names_mid, .. } = leaving;
        let fields = RtpHeaderFields {
            marker: rewritten.marker,
            pt: mapping.pt,
            seq: rewritten.seq.seq16(),
            timestamp: rewritten.time.ts32(),
            ssrc: self.ssrc,
        };
        let mid = names_mid.then_some(self.mid);
        let changes = Changes {
            original: None,
            payload: rewritten.patch,
            descriptor: rewritten.descriptor,
            older,
        };
        let mut written = self.write_packet(&fields, packet, mid, changes, mapping, out)?;
        written.seq = rewritten.seq;
        Ok(written)
    }

    /// `count` packets left, from `first` and its `rewritten` on, each with the next number: payloads of `octets` bytes together. `now` is
    /// of the clock that goes into headers.
    #[inline(always)]
    pub(crate) fn count(
        &mut self,
        now: AbsSendTime,
        first: &PacketMeta,
        rewritten: &Rewritten,
        count: u8,
        octets: usize,
    ) {
        if self.sent.highest().is_none() {
            self.reported = rewritten.seq.0.checked_sub(1).map(SeqNo);
        }
        self.sent.insert_run(rewritten.seq, count.into());
        self.marks.mid_left = self.marks.mid_left.saturating_sub(count);
        self.packets = self.packets.wrapping_add(count.into());
        self.octets = self.octets.wrapping_add(octets as u32);
        if self.rtx_ssrc.is_some() && self.formats.keeps_records() {
            self.records.insert(now, first, rewritten, count);
        }
    }

    /// The subscriber misses packets: what is known and was not sent again within the round trip is queued for
    /// [`Self::poll_resend`].
    ///
    /// Without a negotiated retransmission format nothing is: the same number again, under a header that differs in
    /// its transport-wide number, would use a nonce of AES-GCM twice (RFC 7714 section 8.1).
    pub fn handle_nack(&mut self, now: Instant, lost: impl IntoIterator<Item = Seq16>) {
        let (Some(_), Some(highest)) = (self.rtx_ssrc, self.sent.highest()) else { return };
        let interval = self.rtt.unwrap_or(DEFAULT_RTT).max(MIN_RESEND_INTERVAL);
        for lost in lost {
            if self.resends.len() == MAX_RESENDS {
                return;
            }
            let behind = highest.seq16().0.wrapping_sub(lost.0);
            let Some(seq) = highest.0.checked_sub(behind.into()).map(SeqNo) else { continue };
            if !self.records.claim_resend(now, seq, interval) {
                continue;
            }
            let Some(record) = self.records.get(seq) else { continue };
            self.resends.push_back(record.resend(seq));
        }
    }

    /// Whether [`Self::poll_resend`] has something.
    pub fn has_resends(&self) -> bool {
        !self.resends.is_empty()
    }

    /// The next packet to send again.
    pub fn poll_resend(&mut self) -> Option<Resend> {
        self.resends.pop_front()
    }

    /// Writes a retransmission (RFC 4588) of the packet that the track's cache has for `resend`.
    pub fn write_resend(
        &mut self,
        resend: &Resend,
        packet: CachedPacket<'_>,
        out: &mut [u8],
    ) -> Result<Written, WriteError> {
        let mapping = self.formats.get(packet.meta.format).ok_or(WriteError::Format)?;
        let (Some(pt), Some(ssrc)) = (mapping.rtx, self.rtx_ssrc) else {
            return Err(WriteError::Format);
        };
        let fields = RtpHeaderFields {
            marker: resend.ends_picture || packet.meta.marker,
            pt,
            seq: self.rtx_seq.seq16(),
            timestamp: resend.time,
            ssrc,
        };
        let changes = Changes {
            original: Some(resend.seq.seq16()),
            payload: resend.patch,
            descriptor: resend.descriptor,
            older: &[],
        };
        let mut written =
            self.write_packet(&fields, packet, Some(self.mid), changes, mapping, out)?;
        written.seq = self.rtx_seq;
        self.rtx_seq = self.rtx_seq.plus(1);
        Ok(written)
    }

    /// The subscriber's path lost this share of everything lately; `crowded`: it has no room for redundancy.
    pub fn handle_path(&mut self, lost: f32, crowded: bool) {
        self.adapt(|redundancy| redundancy.handle_path(lost, crowded));
    }

    /// Changes the redundancy, and notes how much is wanted where each packet looks.
    fn adapt(&mut self, change: impl FnOnce(&mut Redundancy)) {
        change(&mut self.redundancy);
        self.marks.older = self.redundancy.blocks();
    }

    /// What the subscriber received of the media; blocks about other SSRCs say nothing. The round trip, where the block
    /// answers a sender report.
    pub fn handle_report_block(&mut self, now: Instant, block: &ReportBlock) -> Option<Duration> {
        if block.ssrc != self.ssrc {
            return None;
        }
        self.marks.acknowledged = true;
        self.span = 0;
        self.fraction_lost = block.fraction_lost.saturating_sub(self.gaps(block.highest_seq));
        let lost = self.fraction_lost;
        self.adapt(|redundancy| redundancy.handle_loss(now, lost));
        self.jitter = block.jitter;
        // Once: in a later answer to the same report the way there is still that of then.
        let told = |report: &&mut Option<(u32, Instant)>| {
            report.is_some_and(|(ntp, _)| block.last_sr != 0 && ntp == block.last_sr)
        };
        let (_, sent_at) = self.reports.iter_mut().find(told)?.take()?;
        let held = compact_to_duration(block.delay_since_last_sr);
        self.rtt = Some(now.saturating_duration_since(sent_at).saturating_sub(held));
        self.rtt
    }

    /// Share of the numbers between the last report and one up to `highest_seq` that nothing was sent on, in 1/256: the
    /// publisher's loss, which the subscriber cannot tell from that of its own path. Of a stream that sends more between two
    /// reports than are remembered, the latest count.
    fn gaps(&mut self, highest_seq: u32) -> u8 {
        let Some(highest) = self.sent.highest() else { return 0 };
        let behind = highest.seq16().0.wrapping_sub(highest_seq as u16);
        let Some(to) = highest.0.checked_sub(behind.into()) else { return 0 };
        if self.reported.is_some_and(|before| to <= before.0) {
            return 0;
        }
        let Some(before) = self.reported.replace(SeqNo(to)) else { return 0 };
        let from = (before.0 + 1).max((highest.0 + 1).saturating_sub(SeqWindow::LEN));
        self.span = u32::try_from((to + 1).saturating_sub(from)).unwrap_or(u32::MAX);
        let missing = (from..=to).filter(|seq| self.sent.check(SeqNo(*seq)) == Seen::No).count();
        let share = (missing as u64 * 256).checked_div((to + 1).saturating_sub(from)).unwrap_or(0);
        u8::try_from(share).unwrap_or(u8::MAX)
    }

    /// What a sender report says now; `None` before the first packet. `clock` is the publisher's clock against this
    /// subscriber's timestamps ([`crate::cache::SenderClock`]): the same clock for all streams of one publisher is what
    /// keeps lips in sync.
    pub fn sender_report(&mut self, now: Instant, clock: &SenderClock) -> Option<SenderInfo> {
        self.sent.highest()?;
        self.reports.rotate_left(1);
        if let Some(latest) = self.reports.last_mut() {
            *latest = Some((clock.ntp.middle32(), now));
        }
        Some(SenderInfo {
            ssrc: self.ssrc,
            ntp: clock.ntp,
            rtp_timestamp: clock.time.ts32(),
            packet_count: self.packets,
            octet_count: self.octets,
        })
    }

    /// The numbers at which its SSRCs would go on; none while nothing was sent.
    pub fn next_numbers(&self) -> [Option<(Ssrc, SeqNo)>; 3] {
        let media = self.sent.highest().map(|highest| (self.ssrc, highest.plus(1)));
        // Padding may have left before any media did.
        let rtx = self.rtx_ssrc.map(|ssrc| (ssrc, self.rtx_seq));
        [media, rtx, self.fec.map(|fec| (fec.ssrc, fec.next))]
    }

    /// Of the media.
    pub fn ssrc(&self) -> Ssrc {
        self.ssrc
    }

    /// Of its retransmissions.
    pub fn rtx_ssrc(&self) -> Option<Ssrc> {
        self.rtx_ssrc
    }

    /// What its path lost between the subscriber's last two reports, in 1/256; what the publisher lost is not in it.
    pub fn fraction_lost(&self) -> u8 {
        self.fraction_lost
    }

    /// How many packets the subscriber's last report was about.
    pub fn reported(&self) -> u32 {
        self.span
    }

    /// Jitter at the subscriber, in units of the codec's clock.
    pub fn jitter(&self) -> u32 {
        self.jitter
    }

    /// Packets that went without their dependency descriptor since its changes did not fit, modulo 2^32.
    pub fn descriptors_left_out(&self) -> u32 {
        self.descriptors_left_out
    }

    /// Packets sent, retransmissions not counted, modulo 2^32.
    pub fn packets(&self) -> u32 {
        self.packets
    }

    #[inline(always)]
    fn write_packet(
        &mut self,
        fields: &RtpHeaderFields,
        packet: CachedPacket<'_>,
        mid: Option<Mid>,
        changes: Changes<'_>,
        mapping: Mapping,
        out: &mut [u8],
    ) -> Result<Written, WriteError> {
        let header = self.write_header(fields, packet, mid, changes.descriptor, out)?;
        let mut rest = out.get_mut(header.len..).ok_or(WriteError::TooLarge)?;
        let mut len = header.len;
        if let Some(Seq16(original)) = changes.original {
            let (place, behind) = rest.split_first_chunk_mut().ok_or(WriteError::TooLarge)?;
            *place = original.to_be_bytes();
            rest = behind;
            len += 2;
        }
        let skipped = match mapping.payload {
            PayloadMapping::RedPrimary | PayloadMapping::AddRed(_) => {
                usize::from(packet.meta.red_primary)
            }
            PayloadMapping::Verbatim | PayloadMapping::RedBlocks(_) => 0,
        };
        let payload = packet.payload.get(skipped..).unwrap_or(&[]);
        let payload_len = match mapping.payload {
            PayloadMapping::AddRed(red) => {
                let written = write_red(rest, red.block, changes.older, payload);
                written.ok_or(WriteError::TooLarge)?
            }
            _ => {
                let place = rest.get_mut(..payload.len()).ok_or(WriteError::TooLarge)?;
                place.copy_from_slice(payload);
                changes.payload.apply(place);
                if let PayloadMapping::RedBlocks(pt) = mapping.payload {
                    rename_red_blocks(place, pt);
                }
                payload.len()
            }
        };
        let written = Written {
            len: len + payload_len,
            header_len: header.len,
            ssrc: fields.ssrc,
            seq: SeqNo(0),
            transport_cc: header.transport_cc,
            abs_send_time: header.abs_send_time,
        };
        Ok(written)
    }

    #[inline(always)]
    fn write_header(
        &mut self,
        fields: &RtpHeaderFields,
        packet: CachedPacket<'_>,
        mid: Option<Mid>,
        patch: Option<DescriptorPatch>,
        out: &mut [u8],
    ) -> Result<WrittenHeader, WriteError> {
        let meta = packet.meta;
        let header = if packet.is_plain() {
            let values = || Self::extension_values(&self.extensions, meta, &[], mid);
            self.header.write(fields, mid.is_some(), &self.extensions, values, out)
        } else {
            let mut room = [0; MAX_DESCRIPTOR];
            let descriptor = self.descriptor(packet.dependency_descriptor, patch, &mut room);
            let values = Self::extension_values(&self.extensions, meta, descriptor, mid);
            fields.write(out, &values, &self.extensions)
        };
        header.map_err(|_| WriteError::TooLarge)
    }

    /// The dependency descriptor as this subscriber gets it; empty where it gets none.
    fn descriptor<'a>(
        &mut self,
        descriptor: &'a [u8],
        patch: Option<DescriptorPatch>,
        room: &'a mut [u8; MAX_DESCRIPTOR],
    ) -> &'a [u8] {
        if self.extensions.id(Extension::DependencyDescriptor).is_none() {
            return &[];
        }
        let Some(patch) = patch else { return descriptor };
        // One that carries a mask may become too long for an element: better none than one that is wrong.
        match patch.apply(descriptor, room) {
            Ok(len) => room.get(..len).unwrap_or(&[]),
            Err(_) => {
                self.descriptors_left_out = self.descriptors_left_out.wrapping_add(1);
                &[]
            }
        }
    }

    fn extension_values<'a>(
        extensions: &ExtensionMap,
        meta: &PacketMeta,
        dependency_descriptor: &'a [u8],
        mid: Option<Mid>,
    ) -> ExtensionValues<'a> {
        ExtensionValues {
            mid,
            audio_level: meta.audio_level,
            transport_cc: Some(0),
            abs_send_time: place_for_send_time(extensions),
            abs_capture_time: meta.abs_capture_time,
            playout_delay: meta.playout_delay,
            video_orientation: meta.video_orientation,
            dependency_descriptor: Some(dependency_descriptor).filter(|raw| !raw.is_empty()),
            ..ExtensionValues::default()
        }
    }
}

/// What differs from the packet in the cache, besides the header.
#[derive(Clone, Copy, Debug)]
struct Changes<'a> {
    /// A retransmission begins with the number of the packet that it repeats.
    original: Option<Seq16>,
    payload: CodecPatch,
    descriptor: Option<DescriptorPatch>,
    /// Blocks of redundancy to add, the oldest first, each with how much older it is.
    older: &'a [(u16, &'a [u8])],
}

/// What an element of a header extension carries (RFC 8285).
const MAX_DESCRIPTOR: usize = 255;

/// Before the first answer to a sender report.
const DEFAULT_RTT: Duration = Duration::from_millis(50);

/// Gives all blocks of a RED payload (RFC 2198 section 3) another payload type.
fn rename_red_blocks(payload: &mut [u8], pt: Pt) {
    let mut at = 0;
    while let Some(first) = payload.get_mut(at) {
        let follows = *first & 0x80;
        *first = follows | pt.value();
        if follows == 0 {
            return;
        }
        at += 4;
    }
}

/// Room for the time at which a packet leaves, where nothing better tells of delays: one clock is enough.
fn place_for_send_time(extensions: &ExtensionMap) -> Option<AbsSendTime> {
    let has_transport_cc = extensions.id(Extension::TransportCc).is_some();
    (!has_transport_cc).then_some(AbsSendTime::from_bits(0))
}

#[cfg(test)]
mod tests;
