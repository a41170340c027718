//! Packets of a publisher that its forward error correction brings back (FlexFEC, [`crate::wire::FlexFec`]).
//!
//! Protection ends here. Repair packets are sums over whole packets of the publisher, header extensions and numbers
//! included; a subscriber gets other ones, so that nothing which is passed on as it came could repair anything. What was
//! brought back here is there for everybody, and each subscriber's own path is repaired by retransmissions.

use std::collections::VecDeque;

use crate::{
    rtp::{Extension, ExtensionMap, Seq16, Ssrc},
    wire::{FlexFec, RtpPacket},
};

/// The latest packets of protected streams of one peer, and repair packets that cannot be used yet.
#[derive(Debug, Default)]
pub struct FecDecoder {
    streams: Vec<Stream>,
    /// Packets so far.
    count: u64,
    /// The oldest first.
    waiting: VecDeque<Vec<u8>>,
    recovered: VecDeque<Vec<u8>>,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Stream {
    ssrc: Ssrc,
    highest: Seq16,
    /// The count of packets when its last one came.
    used: u64,
    /// A repair packet named it.
    protected: bool,
    /// By the low bits of their numbers.
    packets: Vec<Option<Vec<u8>>>,
}

/// Streams of one peer that are kept: simulcast of two videos. Beyond, one more is kept where a repair packet names it
/// and another was never named, or where another is silent.
const MAX_STREAMS: usize = 8;
/// A stream that was passed over by so many packets of its peer has to make room: seconds of its other streams.
const SILENT: u64 = 1_024;
/// Packets of each: more than a mask spans.
const RING: usize = 128;
/// Repair packets that wait for a packet to come. One that is needed comes within a few packets.
const MAX_WAITING: usize = 16;

impl FecDecoder {
    /// A media packet of a stream that is bound came, or was brought back. `extensions` are those that its sender
    /// negotiated.
    pub fn handle_media(
        &mut self,
        bytes: &[u8],
        packet: &RtpPacket<'_>,
        extensions: &ExtensionMap,
    ) {
        let (ssrc, seq) = (packet.header.ssrc, packet.header.seq);
        self.count += 1;
        let Some(index) = self.place_of(ssrc, seq, false) else { return };
        let Some(stream) = self.streams.get_mut(index) else { return };
        stream.used = self.count;
        let ahead = seq.0.wrapping_sub(stream.highest.0);
        if ahead < 1 << 15 {
            stream.highest = seq;
        } else if ahead.wrapping_neg() >= RING as u16 {
            return;
        }
        let Some(slot) = stream.packets.get_mut(usize::from(seq.0) % RING) else { return };
        let mut kept = slot.take().or_else(|| self.spare.pop()).unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(bytes);
        clear_changing(&mut kept, bytes, packet, extensions);
        *slot = Some(kept);
        self.retry(ssrc);
    }

    /// A repair packet came.
    pub fn handle_repair(&mut self, payload: &[u8]) {
        if self.waiting.len() == MAX_WAITING {
            self.spare.extend(self.waiting.pop_front());
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(payload);
        self.waiting.push_back(kept);
        if let Some(fec) = FlexFec::parse(payload) {
            let index = self.place_of(fec.ssrc, fec.base, true);
            if let Some(stream) = index.and_then(|index| self.streams.get_mut(index)) {
                stream.protected = true;
            }
            self.retry(fec.ssrc);
        } else {
            self.spare.extend(self.waiting.pop_back());
        }
    }

    /// A packet that was brought back, as its publisher sent it, but for extensions that change on the way. Give its buffer
    /// to [`Self::reuse`].
    pub fn poll_recovered(&mut self) -> Option<Vec<u8>> {
        self.recovered.pop_front()
    }

    /// Takes a buffer back.
    pub fn reuse(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < MAX_WAITING {
            self.spare.push(buffer);
        }
    }

    /// Where a stream is kept, from now on where it was not; `None` where all places are taken by streams with a better
    /// claim: each taking the other's place with every packet would keep none of them whole.
    fn place_of(&mut self, ssrc: Ssrc, seq: Seq16, protected: bool) -> Option<usize> {
        if let Some(known) = self.streams.iter().position(|stream| stream.ssrc == ssrc) {
            return Some(known);
        }
        if self.streams.len() >= MAX_STREAMS {
            let count = self.count;
            let claims =
                |stream: &&Stream| count - stream.used < SILENT && (stream.protected || !protected);
            let poor = self.streams.iter().filter(|stream| !claims(stream));
            let out = poor.min_by_key(|stream| stream.used)?.ssrc;
            self.streams.retain(|stream| stream.ssrc != out);
        }
        let packets = vec![None; RING];
        self.streams.push(Stream {
            ssrc,
            highest: seq,
            used: self.count,
            protected: false,
            packets,
        });
        Some(self.streams.len() - 1)
    }

    /// Uses what waits and now lacks one packet only; forgets what lacks none.
    fn retry(&mut self, ssrc: Ssrc) {
        let Some(stream) = self.streams.iter().find(|stream| stream.ssrc == ssrc) else { return };
        for _ in 0..self.waiting.len() {
            let Some(kept) = self.waiting.pop_front() else { return };
            let Some(fec) = FlexFec::parse(&kept) else { continue };
            if fec.ssrc != ssrc {
                self.waiting.push_back(kept);
                continue;
            }
            let mut missing = fec.protected().filter(|seq| stream.packet(*seq).is_none());
            match (missing.next(), missing.next()) {
                (Some(seq), None) => {
                    let others = fec.protected().filter(|other| *other != seq);
                    let others = others.filter_map(|other| stream.packet(other));
                    let mut out = self.spare.pop().unwrap_or_default();
                    match fec.recover(seq, others, &mut out) {
                        Some(()) => self.recovered.push_back(out),
                        None => self.spare.push(out),
                    }
                    self.spare.push(kept);
                }
                (None, _) => self.spare.push(kept),
                (Some(_), Some(_)) => self.waiting.push_back(kept),
            }
        }
    }
}

impl Stream {
    fn packet(&self, seq: Seq16) -> Option<&[u8]> {
        let kept = self.packets.get(usize::from(seq.0) % RING)?.as_deref()?;
        (kept.get(2..4)? == seq.0.to_be_bytes()).then_some(kept)
    }
}

/// Senders protect packets before they write what is known only when they leave: libwebrtc takes these values as zeros.
fn clear_changing(
    kept: &mut [u8],
    bytes: &[u8],
    packet: &RtpPacket<'_>,
    extensions: &ExtensionMap,
) {
    for (id, value) in packet.elements() {
        let changes = matches!(
            extensions.extension(id),
            Some(Extension::TransportCc | Extension::AbsSendTime | Extension::TransmissionOffset)
        );
        let at = (value.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
        if changes && let Some(place) = kept.get_mut(at..at.wrapping_add(value.len())) {
            place.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{
        RepairSum,
        flexfec_tests::{packet, protect},
    };

    fn media(decoder: &mut FecDecoder, bytes: &[u8]) {
        let packet = RtpPacket::parse(bytes).unwrap();
        decoder.handle_media(bytes, &packet, &ExtensionMap::default());
    }

    fn recovered(decoder: &mut FecDecoder) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| decoder.poll_recovered()).collect()
    }

    #[test]
    fn a_lost_packet_comes_back_in_whichever_order_the_rest_comes() {
        struct Case {
            name: &'static str,
            /// 0 to 3: media, 9: the repair packet.
            arrivals: &'static [usize],
            expect: &'static [usize],
        }
        let cases = [
            Case { name: "repair last", arrivals: &[0, 1, 3, 9], expect: &[2] },
            Case { name: "repair first", arrivals: &[9, 3, 1, 0], expect: &[2] },
            Case { name: "nothing lost", arrivals: &[0, 1, 2, 3, 9], expect: &[] },
            Case { name: "two lost", arrivals: &[0, 3, 9], expect: &[] },
            Case { name: "two lost, one comes late", arrivals: &[0, 3, 9, 1], expect: &[2] },
            Case { name: "repair twice", arrivals: &[0, 1, 3, 9, 9], expect: &[2, 2] },
        ];
        let packets: Vec<_> =
            (0..4).map(|n| packet(7, 65_534u16.wrapping_add(n), 100 + usize::from(n))).collect();
        let repair = protect(7, &packets);
        for case in cases {
            let mut decoder = FecDecoder::default();
            for arrival in case.arrivals {
                match packets.get(*arrival) {
                    Some(bytes) => media(&mut decoder, bytes),
                    None => decoder.handle_repair(&repair),
                }
            }
            let expect: Vec<_> = case.expect.iter().map(|n| packets[*n].clone()).collect();
            assert_eq!(recovered(&mut decoder), expect, "{}", case.name);
        }
    }

    #[test]
    fn extensions_that_change_on_the_way_do_not_count() {
        let mut extensions = ExtensionMap::default();
        extensions.set(Extension::TransportCc, 3);
        extensions.set(Extension::Mid, 4);
        let with = |seq: u16, number: u16| {
            let mut bytes = packet(7, seq, 0);
            bytes[0] |= 0x10;
            let [high, low] = number.to_be_bytes();
            bytes.extend([0xbe, 0xde, 0, 2, 0x31, high, low, 0x40, b'1', 0, 0, 0]);
            bytes.extend([seq as u8; 50]);
            bytes
        };
        let repair = protect(7, &[with(10, 0), with(11, 0)]);
        let mut decoder = FecDecoder::default();
        let sent = with(10, 4_711);
        decoder.handle_media(&sent, &RtpPacket::parse(&sent).unwrap(), &extensions);
        decoder.handle_repair(&repair);
        assert_eq!(recovered(&mut decoder), [with(11, 0)]);
    }

    #[test]
    fn more_streams_than_are_kept_do_not_take_each_others_places() {
        let mut decoder = FecDecoder::default();
        let lost = |n: u16| n % 10 == 7;
        let mut back = 0;
        for n in 0..200u16 {
            // Three videos with three layers each; repair packets are for the last of them.
            for ssrc in 0..9u32 {
                if ssrc < 8 || !lost(n) {
                    media(&mut decoder, &packet(ssrc, n, 50));
                }
            }
            if lost(n) {
                let pair = [packet(8, n - 1, 50), packet(8, n, 50)];
                decoder.handle_repair(&protect(8, &pair));
                back += recovered(&mut decoder).len();
            }
        }
        assert_eq!(back, 19, "all but the one before the first repair packet");
        let kept: Vec<_> = decoder.streams.iter().map(|stream| stream.ssrc.0).collect();
        assert_eq!(kept.len(), MAX_STREAMS);
        // Those that are silent make room.
        for n in 0..2 * SILENT as u16 {
            media(&mut decoder, &packet(100, n, 50));
        }
        assert!(decoder.streams.iter().any(|stream| stream.ssrc == Ssrc(100)));
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut decoder = FecDecoder::default();
        for n in 0..2_000u16 {
            media(&mut decoder, &packet(u32::from(n % 50), n, 900));
            // Half of what it protects never comes.
            decoder
                .handle_repair(&protect(3, &[packet(3, n, 10), packet(3, n.wrapping_add(7), 10)]));
            decoder.handle_repair(&[0; 20]);
        }
        assert!(decoder.streams.len() <= MAX_STREAMS && decoder.waiting.len() <= MAX_WAITING);
        assert!(decoder.spare.len() <= 3 * MAX_WAITING, "{}", decoder.spare.len());
        assert!(decoder.streams.iter().any(|stream| stream.ssrc == Ssrc(3)), "what is protected");
    }

    proptest! {
        #[test]
        fn what_the_node_writes_itself_brings_back_what_it_protects(
            first in any::<u16>(),
            sizes in prop::collection::vec(0..1_300_usize, 1..20),
            columns in 1..5_usize,
            lost in any::<prop::sample::Index>(),
        ) {
            let number = |n: usize| first.wrapping_add(n as u16);
            let packets: Vec<_> =
                sizes.iter().enumerate().map(|(n, size)| packet(7, number(n), *size)).collect();
            let lost = lost.index(packets.len());
            let mut sums = vec![RepairSum::new(); columns];
            let mut decoder = FecDecoder::default();
            for (n, bytes) in packets.iter().enumerate() {
                prop_assert!(sums[n % columns].add(bytes));
                // A whole run of as many as there are sums: one of each.
                if !(lost..lost + columns).contains(&n) {
                    media(&mut decoder, bytes);
                }
            }
            for sum in sums.iter().filter(|sum| !sum.is_empty()) {
                let mut payload = vec![0; 1_500];
                let len = sum.write(Ssrc(7), &mut payload).unwrap();
                decoder.handle_repair(&payload[..len]);
            }
            let mut back = recovered(&mut decoder);
            back.sort_unstable_by_key(|bytes| {
                u16::from_be_bytes([bytes[2], bytes[3]]).wrapping_sub(first)
            });
            let end = (lost + columns).min(packets.len());
            prop_assert_eq!(&back[..], &packets[lost..end]);
        }
    }
}
