//! Repair packets (FlexFEC) for a subscriber whose losses a retransmission would mend too late.
//!
//! What leaves is summed up in a few columns, packet by packet in turn, so that packets which are lost in a row are in
//! different sums. At the end of a picture, once its share has paid for a repair packet or several, they leave: four
//! columns each for itself, two by two, or all in one. A group is a picture or a few; late decisions cost nothing, since
//! sums can be added up.

use std::time::Duration;

use crate::{
    rtp::{Bitrate, RtpTs32, Ssrc},
    wire::{BufferTooSmall, RepairSum},
};

/// Of the bytes that leave, how many leave again in repair packets, 1/1,000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RepairShare(u16);

impl RepairShare {
    /// Less repairs too little: one packet in a group of twenty.
    pub const LEAST: Self = Self(50);
    /// More is better spent on a smaller picture: one packet in a group of four.
    pub const MOST: Self = Self(250);
    /// Multiple of the loss. At 1.0 half of the groups with a loss have two; more costs more and repairs little more.
    const OF_LOSS: f64 = 1.5;
    /// The same at most where packets are so few that a group would last too long.
    const OF_LOSS_MOST: f64 = 3.0;
    /// A group shall be over in this part of a round trip: later, what it repairs has been sent again.
    const GROUP: f64 = 0.5;
    /// Bits of a packet of video.
    const PACKET_BITS: f64 = 8_000.0;

    /// What is worth it for a stream of this rate, of which `loss` (0 to 1) is lost.
    pub fn of(loss: f64, rtt: Duration, rate: Bitrate) -> Self {
        let packets = rate.bps() as f64 / Self::PACKET_BITS * rtt.as_secs_f64() * Self::GROUP;
        let in_time = 1.0 / packets.max(1.0);
        let share = (loss * Self::OF_LOSS).max(in_time.min(loss * Self::OF_LOSS_MOST));
        Self((share * 1e3).round() as u16).clamp(Self::LEAST, Self::MOST)
    }

    /// No more than fits: `None` where that is too little to be of use. `share` is of 1. What is `kept` is given up at half of what
    /// begins it: room comes and goes.
    pub fn at_most(self, share: f64, kept: bool) -> Option<Self> {
        let fits = Self((share * 1e3).clamp(0.0, 1e3).round() as u16).min(self);
        (fits.0 >= Self::LEAST.0 / if kept { 2 } else { 1 }).then_some(fits)
    }

    /// As a part of 1.
    pub fn value(self) -> f64 {
        f64::from(self.0) / 1e3
    }
}

/// Sums of what left, for one subscription.
#[derive(Debug)]
pub(super) struct Protection {
    share: RepairShare,
    columns: [RepairSum; COLUMNS],
    /// How long a group may last to be paid for twice, in ticks of 90 kHz.
    wait: u32,
    /// Packets in the group, bytes of the longest, and the timestamps of the first and the latest.
    packets: usize,
    longest: usize,
    first: RtpTs32,
    latest: RtpTs32,
    /// What was paid for when the present picture began, and when that was captured.
    picture: (u32, RtpTs32),
    /// What its share has paid for, bytes.
    credit: u32,
    /// Sums that are to be written, and how many of them are.
    due: usize,
    written: usize,
}

/// Losses in a row of a group that can be repaired, at most. More takes memory: 1,400 bytes each.
const COLUMNS: usize = 4;

/// Packets of a group at most. It is what libwebrtc protects at once, and less than its receiver remembers (192).
const MAX_GROUP: usize = 48;

/// Bytes of a repair packet beside the longest body: headers and mask.
const OVERHEAD: usize = 40;

impl Protection {
    pub(super) fn new(share: RepairShare, wait: Duration) -> Self {
        Self {
            share,
            wait: ticks(wait),
            columns: [const { RepairSum::new() }; COLUMNS],
            packets: 0,
            longest: 0,
            first: RtpTs32(0),
            latest: RtpTs32(0),
            picture: (0, RtpTs32(0)),
            credit: 0,
            due: 0,
            written: 0,
        }
    }

    pub(super) fn set_share(&mut self, share: RepairShare, wait: Duration) {
        (self.share, self.wait) = (share, ticks(wait));
    }

    /// A packet leaves: its bytes before transport-wide number and send time are written. Whether something is there for
    /// [`Self::write`].
    pub(super) fn add(&mut self, packet: &[u8], ends_picture: bool) -> bool {
        if self.due > 0 {
            self.begin();
        }
        let column = self.packets % COLUMNS;
        let mut added = self.columns.get_mut(column).is_some_and(|sum| sum.add(packet));
        if !added && self.packets > 0 && packet.len() <= RepairSum::MAX_PACKET {
            // Its number is too far from the others'.
            self.begin();
            added = self.columns.first_mut().is_some_and(|sum| sum.add(packet));
        }
        if added {
            if self.packets == 0 {
                self.first = timestamp(packet);
            }
            self.packets += 1;
            self.longest = self.longest.max(packet.len());
            self.latest = timestamp(packet);
        }
        let size = (self.longest + OVERHEAD) as u32;
        self.credit += packet.len() as u32 * u32::from(self.share.0) / 1_000;
        // Nothing is saved up for more than one group.
        self.credit = self.credit.min(size * COLUMNS as u32);
        let paid = (self.credit / size) as usize;
        let full = self.packets >= MAX_GROUP;
        let over = ends_picture && !(paid == 1 && self.is_worth_waiting(size));
        if self.packets > 0 && paid > 0 && (over || full || paid >= COLUMNS) {
            self.close(paid);
            self.credit -= size * self.due as u32;
        } else if full {
            self.begin();
        }
        if ends_picture {
            self.picture = (self.credit, self.latest);
        }
        self.due > 0
    }

    /// Two repair packets for twice as many bring back two losses in a row, which one for as many does not: whether there will be
    /// two soon enough, at the end of a picture, if the next ones are like it.
    fn is_worth_waiting(&self, size: u32) -> bool {
        let (credit, before) = self.picture;
        let gained = self.credit.saturating_sub(credit).max(1);
        let interval = self.latest.0.wrapping_sub(before.0);
        let pictures = (2 * size).saturating_sub(self.credit).div_ceil(gained);
        let age = self.latest.0.wrapping_sub(self.first.0);
        age.saturating_add(pictures.saturating_mul(interval)) <= self.wait
    }

    /// Writes the payload of the next repair packet; `None` when there is none left.
    pub(super) fn write(
        &mut self,
        ssrc: Ssrc,
        out: &mut [u8],
    ) -> Option<Result<usize, BufferTooSmall>> {
        let sum = self.columns.get(self.written).filter(|_| self.written < self.due)?;
        self.written += 1;
        Some(sum.write(ssrc, out))
    }

    /// When the latest of those packets was captured, whose repair leaves now.
    pub(super) fn latest(&self) -> RtpTs32 {
        self.latest
    }

    /// The group is over: adds columns up, so that at most `paid` are left.
    fn close(&mut self, paid: usize) {
        let most = paid.min(self.packets).min(COLUMNS);
        // As many packets in each.
        self.due = if most == 3 { 2 } else { most };
        let (kept, rest) = self.columns.split_at_mut(self.due);
        for (index, sum) in rest.iter().enumerate() {
            if let Some(place) = kept.get_mut(index % self.due) {
                // What is too far apart for one mask is left out.
                let _ = place.merge(sum);
            }
        }
    }

    fn begin(&mut self) {
        self.columns.iter_mut().for_each(RepairSum::clear);
        (self.packets, self.longest, self.due, self.written) = (0, 0, 0, 0);
    }
}

/// Of the clock of video.
fn ticks(span: Duration) -> u32 {
    u32::try_from(span.as_millis() * 90).unwrap_or(u32::MAX)
}

fn timestamp(packet: &[u8]) -> RtpTs32 {
    let field = packet.get(4..).and_then(<[u8]>::first_chunk);
    RtpTs32(field.map_or(0, |bytes| u32::from_be_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{FlexFec, flexfec_tests::packet};

    fn protection(permille: u16) -> Protection {
        Protection::new(RepairShare(permille), Duration::ZERO)
    }

    /// The repair packets that are due after this packet.
    fn repairs(protection: &mut Protection, bytes: &[u8], ends: bool) -> Vec<Vec<u8>> {
        let mut made = Vec::new();
        if protection.add(bytes, ends) {
            let mut out = [0; 1_500];
            while let Some(len) = protection.write(Ssrc(7), &mut out) {
                made.push(out[..len.unwrap()].to_vec());
            }
            assert!(!made.is_empty());
        }
        made
    }

    fn protected(repair: &[u8]) -> Vec<u16> {
        FlexFec::parse(repair).unwrap().protected().map(|seq| seq.0).collect()
    }

    #[test]
    fn pictures_and_shares_make_groups() {
        struct Case {
            name: &'static str,
            permille: u16,
            /// Packets of each picture, of 1,000 bytes.
            pictures: &'static [u16],
            /// For each repair packet what it protects.
            expect: &'static [&'static [u16]],
        }
        let cases = [
            Case { name: "too little yet", permille: 100, pictures: &[3, 3], expect: &[] },
            Case {
                name: "some pictures",
                permille: 250,
                pictures: &[2, 2, 1, 2],
                expect: &[&[0, 1, 2, 3, 4]],
            },
            Case {
                name: "columns of one picture",
                permille: 250,
                pictures: &[9],
                expect: &[&[0, 2, 4, 6, 8], &[1, 3, 5, 7]],
            },
            Case {
                name: "a large picture is not waited for",
                permille: 250,
                pictures: &[20],
                expect: &[&[0, 4, 8, 12, 16], &[1, 5, 9, 13], &[2, 6, 10, 14], &[3, 7, 11, 15]],
            },
        ];
        for Case { name, permille, pictures, expect } in cases {
            let (mut protection, mut seq) = (protection(permille), 0);
            let mut made = Vec::new();
            for packets in pictures {
                for place in 1..=*packets {
                    let ends = place == *packets;
                    made.extend(repairs(&mut protection, &packet(7, seq, 988), ends));
                    seq += 1;
                }
            }
            let made: Vec<_> = made.iter().map(|repair| protected(repair)).collect();
            assert_eq!(made, expect, "{name}");
        }
    }

    #[test]
    fn a_group_waits_to_be_paid_for_twice_where_that_is_soon() {
        // Pictures of 16 packets, each 33 ms, of which 1.2 repair packets are paid for.
        for (wait, expect) in [(0, [1, 1, 1, 1]), (20, [1, 1, 1, 1]), (40, [1, 0, 2, 0])] {
            let mut protection = Protection::new(RepairShare(75), Duration::from_millis(wait));
            let mut made = [0; 4];
            for (picture, made) in made.iter_mut().enumerate() {
                for place in 0..16 {
                    let mut bytes = packet(7, (16 * picture + place) as u16, 988);
                    bytes[4..8].copy_from_slice(&(90_000 + picture as u32 * 3_000).to_be_bytes());
                    *made += repairs(&mut protection, &bytes, place == 15).len();
                }
            }
            assert_eq!(made, expect, "{wait} ms");
        }
    }

    #[test]
    fn what_is_lost_in_a_row_comes_back() {
        let mut protection = protection(250);
        let packets: Vec<_> = (0..17).map(|seq| packet(7, seq, 988)).collect();
        let made: Vec<_> =
            packets.iter().flat_map(|bytes| repairs(&mut protection, bytes, false)).collect();
        assert_eq!(made.len(), COLUMNS);
        for first in 0..=17 - COLUMNS {
            let lost: Vec<_> = (first..first + COLUMNS).map(|n| n as u16).collect();
            for repair in &made {
                let fec = FlexFec::parse(repair).unwrap();
                let missing: Vec<_> = fec.protected().filter(|n| lost.contains(&n.0)).collect();
                let others = fec.protected().filter(|n| !lost.contains(&n.0));
                let others = others.map(|n| &packets[usize::from(n.0)][..]);
                let mut out = Vec::new();
                assert_eq!(missing.len(), 1, "from {first} on");
                assert_eq!(fec.recover(missing[0], others, &mut out), Some(()));
                assert_eq!(out, packets[usize::from(missing[0].0)]);
            }
        }
    }

    proptest! {
        #[test]
        fn they_take_their_share_and_protect_nothing_twice(
            permille in RepairShare::LEAST.0..=RepairShare::MOST.0,
            packets in prop::collection::vec((0..1_400_usize, any::<bool>(), 0..400_u16), 1..100),
        ) {
            let mut protection = protection(permille);
            let (mut seq, mut media, mut repaired) = (0_u16, 0, 0);
            let mut seen = std::collections::BTreeSet::new();
            for (len, ends, step) in packets {
                // Most follow each other; some gaps are longer than a mask.
                seq += if step < 395 { 1 } else { step };
                let bytes = packet(7, seq, len);
                media += bytes.len();
                for repair in repairs(&mut protection, &bytes, ends) {
                    repaired += repair.len();
                    for protected in protected(&repair) {
                        prop_assert!(protected <= seq && seen.insert(protected));
                    }
                }
                prop_assert!(repaired * 1_000 <= media * usize::from(permille));
            }
        }
    }

    #[test]
    fn the_share_follows_the_loss_and_what_fits() {
        struct Case {
            loss: f64,
            rtt: u64,
            kbps: u64,
            expect: u16,
        }
        let cases = [
            Case { loss: 0.01, rtt: 200, kbps: 2_000, expect: 50 },
            Case { loss: 0.05, rtt: 200, kbps: 2_000, expect: 75 },
            Case { loss: 0.05, rtt: 200, kbps: 800, expect: 100 },
            Case { loss: 0.05, rtt: 200, kbps: 100, expect: 150 },
            Case { loss: 0.5, rtt: 200, kbps: 2_000, expect: 250 },
        ];
        for Case { loss, rtt, kbps, expect } in cases {
            let share = RepairShare::of(loss, Duration::from_millis(rtt), Bitrate::from_kbps(kbps));
            assert_eq!(share, RepairShare(expect), "{loss} of {kbps} kb/s");
        }
        let share = RepairShare(150);
        assert_eq!(share.at_most(0.5, false), Some(share));
        assert_eq!(share.at_most(0.101, false), Some(RepairShare(101)));
        assert_eq!((share.at_most(0.049, false), share.at_most(0.0, false)), (None, None));
        let kept = [0.049, 0.024].map(|share_of| share.at_most(share_of, true));
        assert_eq!(kept, [Some(RepairShare(49)), None]);
        assert_eq!(share.value(), 0.15);
    }
}
