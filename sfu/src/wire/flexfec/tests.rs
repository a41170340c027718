use proptest::prelude::*;

use super::*;

/// A repair packet's payload over `packets`, the first of which has number `base`.
pub(crate) fn protect(ssrc: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let base = u16::from_be_bytes([packets[0][2], packets[0][3]]);
    let (mut head, mut body) = ([0; 8], Vec::new());
    let mut mask = 0u128;
    for packet in packets {
        let seq = u16::from_be_bytes([packet[2], packet[3]]);
        mask |= 1 << (127 - seq.wrapping_sub(base));
        let len = ((packet.len() - 12) as u16).to_be_bytes();
        let fields =
            [packet[0], packet[1], len[0], len[1], packet[4], packet[5], packet[6], packet[7]];
        head.iter_mut().zip(fields).for_each(|(sum, byte)| *sum ^= byte);
        if body.len() < packet.len() - 12 {
            body.resize(packet.len() - 12, 0);
        }
        body.iter_mut().zip(&packet[12..]).for_each(|(sum, byte)| *sum ^= byte);
    }
    head[0] &= 0x3f;
    let mut payload = head.to_vec();
    payload.extend([1, 0, 0, 0]);
    payload.extend(ssrc.to_be_bytes());
    payload.extend(base.to_be_bytes());
    let parts = (
        (mask >> 113) as u16,
        (mask >> 82) as u32 & 0x7fff_ffff,
        (mask >> 19) as u64 & (u64::MAX >> 1),
    );
    match parts {
        (first, 0, 0) => payload.extend((first | 0x8000).to_be_bytes()),
        (first, second, 0) => {
            payload.extend(first.to_be_bytes());
            payload.extend((second | 1 << 31).to_be_bytes());
        }
        (first, second, third) => {
            payload.extend(first.to_be_bytes());
            payload.extend(second.to_be_bytes());
            payload.extend((third | 1 << 63).to_be_bytes());
        }
    }
    payload.extend(body);
    payload
}

/// A packet of the protected stream.
pub(crate) fn packet(ssrc: u32, seq: u16, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x80, 96 | if seq.is_multiple_of(3) { 0x80 } else { 0 }];
    bytes.extend(seq.to_be_bytes());
    bytes.extend((u32::from(seq) * 3_000).to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend((0..len).map(|at| (at as u8).wrapping_mul(seq as u8 | 1)));
    bytes
}

#[test]
fn any_one_of_the_protected_packets_comes_back() {
    struct Case {
        name: &'static str,
        /// Numbers behind the first, and lengths.
        packets: &'static [(u16, usize)],
    }
    let cases = [
        Case { name: "one", packets: &[(0, 100)] },
        Case { name: "short mask", packets: &[(0, 100), (1, 1_100), (14, 3)] },
        Case { name: "middle mask", packets: &[(0, 100), (15, 900), (45, 901)] },
        Case { name: "long mask", packets: &[(0, 700), (46, 1), (108, 1_000)] },
        Case { name: "an empty one", packets: &[(0, 0), (1, 40)] },
    ];
    for case in cases {
        let packets: Vec<_> = case
            .packets
            .iter()
            .map(|(n, len)| packet(7, 65_500u16.wrapping_add(*n), *len))
            .collect();
        let payload = protect(7, &packets);
        let fec = FlexFec::parse(&payload).unwrap();
        let numbers: Vec<_> = fec.protected().map(|seq| seq.0.wrapping_sub(65_500)).collect();
        let expected: Vec<_> = case.packets.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, expected, "{}", case.name);
        for (index, missing) in packets.iter().enumerate() {
            let others = packets.iter().enumerate().filter(|(at, _)| *at != index);
            let mut out = Vec::new();
            let seq = Seq16(u16::from_be_bytes([missing[2], missing[3]]));
            fec.recover(seq, others.map(|(_, bytes)| &bytes[..]), &mut out).unwrap();
            assert_eq!(out, *missing, "{}: packet {index}", case.name);
        }
    }
}

#[test]
fn what_is_cut_or_strange_is_refused() {
    let payload = protect(7, &[packet(7, 1, 10), packet(7, 100, 10)]);
    // Behind the longest mask the body may have any length.
    for len in 0..32 {
        assert_eq!(FlexFec::parse(&payload[..len]), None, "{len} bytes");
    }
    let with = |at: usize, byte: u8| {
        let mut changed = payload.clone();
        changed[at] = byte;
        FlexFec::parse(&changed).is_some()
    };
    assert!(with(0, payload[0]));
    assert!(!with(0, 0x80), "a retransmission");
    assert!(!with(0, 0x40), "a fixed mask");
    assert!(!with(8, 2), "two streams");
    let mut nothing = protect(7, &[packet(7, 1, 10)]);
    nothing[18] = 0x80;
    nothing[19] = 0;
    assert_eq!(FlexFec::parse(&nothing), None, "nothing is protected");

    let fec = FlexFec::parse(&payload).unwrap();
    let mut out = Vec::new();
    let longer = packet(7, 1, 11);
    assert_eq!(fec.recover(Seq16(100), [&longer[..]].into_iter(), &mut out), None);
    assert_eq!(fec.recover(Seq16(100), [&longer[..5]].into_iter(), &mut out), None);
}

/// The repair packet of a sum.
fn written(sum: &RepairSum) -> Vec<u8> {
    let mut payload = vec![0; 1_500];
    let len = sum.write(Ssrc(7), &mut payload).unwrap();
    payload.truncate(len);
    payload
}

proptest! {
    #[test]
    fn what_is_written_brings_back_any_one(
        first in any::<u16>(),
        order in prop::collection::btree_map(0..FlexFec::MAX_SPAN, (any::<u16>(), 0..1_300_usize), 1..40),
        columns in 1..5_usize,
        lost in any::<prop::sample::Index>(),
    ) {
        // In an order that has nothing to do with their numbers.
        let mut packets: Vec<_> = order.into_iter().map(|(n, (key, len))| (key, n, len)).collect();
        packets.sort_unstable();
        let packets: Vec<_> =
            packets.iter().map(|(_, n, len)| packet(7, first.wrapping_add(*n), *len)).collect();
        let mut sums = vec![RepairSum::new(); columns];
        for (index, bytes) in packets.iter().enumerate() {
            prop_assert!(sums[index % columns].add(bytes));
            prop_assert!(!sums[index % columns].add(bytes), "it is there already");
        }
        let mut sum = RepairSum::new();
        for column in &sums {
            prop_assert!(sum.merge(column));
        }
        prop_assert!(!sum.merge(&sum.clone()), "they are there already");
        let mut sorted = packets.clone();
        sorted.sort_unstable_by_key(|bytes| {
            u16::from_be_bytes([bytes[2], bytes[3]]).wrapping_sub(first)
        });
        let payload = written(&sum);
        prop_assert_eq!(&payload, &protect(7, &sorted), "however they were summed up");

        let missing = lost.get(&sorted);
        let others = sorted.iter().filter(|bytes| *bytes != missing).map(|bytes| &bytes[..]);
        let seq = Seq16(u16::from_be_bytes([missing[2], missing[3]]));
        let mut out = Vec::new();
        prop_assert_eq!(FlexFec::parse(&payload).unwrap().recover(seq, others, &mut out), Some(()));
        prop_assert_eq!(&out, missing);

        sum.clear();
        prop_assert!(sum.is_empty() && sum.add(missing));
        prop_assert_eq!(written(&sum), protect(7, std::slice::from_ref(missing)), "nothing is left");
    }
}

#[test]
fn what_does_not_fit_is_not_protected_and_changes_nothing() {
    let mut sum = RepairSum::new();
    let near = packet(7, 65_530, 400);
    assert!(sum.add(&near));
    let before = written(&sum);
    let longest = RepairSum::MAX_PACKET - 12;
    assert!(!sum.add(&packet(7, 65_531, longest + 1)), "too long");
    assert!(!sum.add(&near[..11]), "no packet");
    for far in [FlexFec::MAX_SPAN, 0x7fff, 0x8000, 0xffff - FlexFec::MAX_SPAN] {
        let seq = 65_530_u16.wrapping_add(far);
        assert!(!sum.add(&packet(7, seq, 10)), "{far} ahead");
        let mut other = RepairSum::new();
        assert!(other.add(&packet(7, seq, 500)));
        assert!(!sum.merge(&other), "{far} ahead");
    }
    assert_eq!(written(&sum), before);
    assert!(sum.add(&packet(7, 65_531, longest)));
    assert_eq!(sum.write(Ssrc(7), &mut [0; 900]), Err(BufferTooSmall));
    // The earliest that there is room for, and none before it.
    assert!(sum.add(&packet(7, 65_531 - 108, 10)));
    assert!(!sum.add(&packet(7, 65_531 - 109, 10)));
}
