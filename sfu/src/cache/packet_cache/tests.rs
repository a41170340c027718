#![allow(clippy::disallowed_methods)] // any instant will do

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    cache::{CodecFields, FormatId, FrameFacts},
    rtp::MediaTime,
};

fn meta(seq: u64, received_at: Instant) -> PacketMeta {
    PacketMeta {
        seq: SeqNo(seq),
        time: MediaTime(seq * 3_000),
        received_at,
        encoding: 0,
        generation: 0,
        format: FormatId(0),
        marker: false,
        padding: false,
        frame: FrameFacts::default(),
        codec: CodecFields::None,
        frame_number: None,
        red_primary: 0,
        audio_level: None,
        video_orientation: None,
        playout_delay: None,
        abs_capture_time: None,
    }
}

fn payload(seq: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seq as usize + at) as u8).collect()
}

fn insert(cache: &mut PacketCache, now: Instant, seq: u64, len: usize) -> Result<(), Refused> {
    let (meta, payload) = (meta(seq, now), payload(seq, len));
    let packet = CachedPacket { meta: &meta, dependency_descriptor: &[7, 8], payload: &payload };
    cache.insert(now, packet)
}

fn assert_there(cache: &PacketCache, seq: u64, len: usize) {
    let packet = cache.get(SeqNo(seq)).unwrap_or_else(|| panic!("{seq} is gone"));
    assert_eq!(packet.meta.seq, SeqNo(seq));
    assert_eq!(packet.dependency_descriptor, [7, 8]);
    assert_eq!(packet.payload, payload(seq, len));
}

#[test]
fn a_second_of_audio_costs_little() {
    let mut cache = PacketCache::new();
    let start = Instant::now();
    for n in 0..500 {
        let now = start + Duration::from_millis(20) * n as u32;
        insert(&mut cache, now, 1_000 + n, 100).unwrap();
        for back in 0..n.min(49) {
            assert_there(&cache, 1_000 + n - back, 100);
        }
    }
    assert!(cache.memory() < 32 * 1024, "{} bytes", cache.memory());
}

#[test]
fn a_second_of_video_is_kept_and_no_more_memory_taken_in_the_steady_state() {
    let mut cache = PacketCache::new();
    let start = Instant::now();
    let mut settled = 0;
    for n in 0..2_000 {
        let now = start + Duration::from_millis(4) * n as u32;
        insert(&mut cache, now, n, 1_100).unwrap();
        if n == 600 {
            settled = cache.memory();
        }
        if n >= 249 {
            assert_there(&cache, n - 249, 1_100);
        }
    }
    assert_eq!(cache.memory(), settled);
    assert!(settled < 800 * 1024, "{settled} bytes");
}

#[test]
fn the_bound_holds_at_any_rate() {
    let mut cache = PacketCache::new();
    let start = Instant::now();
    for n in 0..20_000 {
        let now = start + Duration::from_micros(50) * n as u32;
        insert(&mut cache, now, n, 1_200).unwrap();
    }
    assert_there(&cache, 20_000 - 512, 1_200);
    assert!(!cache.contains(SeqNo(20_000 - 513)));
    assert!(cache.memory() < 1_300 * 1024, "{} bytes", cache.memory());
}

#[test]
fn duplicates_and_what_is_too_old_are_refused() {
    let mut cache = PacketCache::new();
    let now = Instant::now();
    for seq in 1_000..2_000 {
        insert(&mut cache, now, seq, 10).unwrap();
    }
    assert_eq!(insert(&mut cache, now, 1_900, 10), Err(Refused::Duplicate));
    assert_eq!(insert(&mut cache, now, 1_400, 10), Err(Refused::TooOld));
    assert_eq!(insert(&mut cache, now, 3_000, 2_047), Err(Refused::TooLarge));
    assert_eq!(insert(&mut cache, now, 3_000, 2_046), Ok(()));
    assert_eq!(cache.highest(), Some(SeqNo(3_000)));
    cache.clear();
    assert!(!cache.contains(SeqNo(3_000)));
    assert_eq!(cache.memory(), 0);
}

proptest! {
    /// Whatever is found is what was stored, and the latest packets are always found.
    #[test]
    fn any_stream_comes_back_as_it_went_in(
        steps in prop::collection::vec((0u64..4, 1usize..1_300, 0u64..40), 1..400),
    ) {
        let mut cache = PacketCache::new();
        let mut now = Instant::now();
        let mut stored = BTreeMap::new();
        let mut next = 70_000;
        for (jump, len, wait) in steps {
            now += Duration::from_millis(wait);
            // Reordering: every fourth step is behind the front.
            let seq = if jump == 0 { next - 3 } else { next };
            next += jump;
            if insert(&mut cache, now, seq, len).is_ok() {
                stored.insert(seq, (len, now));
            }
        }
        for (seq, (len, at)) in stored {
            let there = cache.contains(SeqNo(seq));
            if there {
                assert_there(&cache, seq, len);
            }
            let young = now.duration_since(at) < PacketCache::MAX_AGE;
            let near = next - seq < 500;
            prop_assert!(there || !(young && near), "{seq} of {next} was lost");
        }
    }
}
