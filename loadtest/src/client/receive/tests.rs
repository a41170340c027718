use super::*;
use crate::media::CLIPS;

/// Frames of a loop as packets: (sequence, marker, payload), with a stamp each.
fn packets(layer: u8, frames: std::ops::Range<usize>, first: u64) -> Vec<(u64, bool, Vec<u8>)> {
    let mut out = Vec::new();
    for at in frames {
        let sent = Duration::from_micros(33_333) * at as u32;
        let stream = Stream::Video(layer);
        let stamp = Stamp { run: 7, publisher: 1, stream, number: at as u32, sent };
        let frame = CLIPS.of(VideoCodec::Vp8)[usize::from(layer)].frame(at);
        VideoCodec::Vp8.packetize(frame, stamp, |payload, last| {
            out.push((first + out.len() as u64, last, payload.to_vec()));
        });
    }
    out
}

struct Bench {
    reception: Reception,
    recorder: Recorder,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        let mut recorder = Recorder::default();
        recorder.measure(true);
        Self { reception: Reception::new(true), recorder, start: Instant::now() }
    }

    /// Arrives `at` after the start, and as long after the epoch.
    fn take(
        &mut self,
        (seq, marker, payload): &(u64, bool, Vec<u8>),
        at: Duration,
    ) -> Option<Seen> {
        let stamp = Stamp::at_end_of(payload);
        let now = self.start + at;
        let packet =
            Packet { seq: *seq, marker: *marker, codec: VideoCodec::Vp8, payload, stamp, now, at };
        self.reception.handle(packet, &mut self.recorder)
    }

    fn frames(&self) -> u64 {
        self.recorder.stats.count.frames_received
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn frames_are_whole_in_any_order_and_their_latency_is_that_of_the_last_packet() {
    let mut bench = Bench::new();
    let mut all = packets(1, 0..2, 100);
    all.reverse();
    for (index, packet) in all.iter().enumerate() {
        bench.take(packet, ms(50 + index as u64));
    }
    assert_eq!(bench.frames(), 2);
    assert_eq!(bench.recorder.stats.count.keyframes_received, 1);
    let latency = bench.recorder.stats.latency_video.max_ms().unwrap();
    let expected = 50.0 + all.len() as f64 - 1.0;
    assert!((latency - expected).abs() < 1.0, "{latency} instead of {expected}");
}

#[test]
fn nothing_is_decodable_before_a_keyframe() {
    let mut bench = Bench::new();
    for packet in packets(0, 1..20, 0) {
        bench.take(&packet, ms(1));
    }
    assert_eq!(bench.frames(), 0);
    assert!(!bench.reception.wants_keyframe(bench.start + ms(100)), "it may be on its way");
    assert!(bench.reception.wants_keyframe(bench.start + ms(500)));
    assert!(!bench.reception.wants_keyframe(bench.start + ms(700)), "asked lately");
    for packet in packets(0, 60..63, 200) {
        bench.take(&packet, ms(800));
    }
    assert_eq!(bench.frames(), 3);
}

#[test]
fn a_packet_that_never_comes_is_lost_and_stops_the_picture_until_a_keyframe() {
    let mut bench = Bench::new();
    let all = packets(2, 0..40, 0);
    let gap = all.len() - 30;
    for (index, packet) in all.iter().enumerate().filter(|(index, _)| *index != gap) {
        bench.take(packet, ms(index as u64));
    }
    let seen = bench.frames();
    assert!(seen < 40);
    let late = all.len() as u64 + 2_000;
    assert!(bench.reception.wants_keyframe(bench.start + ms(late)));
    bench.reception.flush(bench.start + ms(late), ms(late), &mut bench.recorder);
    assert_eq!(bench.recorder.stats.count.lost_after_repair, 1);
    for packet in packets(2, 60..62, all.len() as u64) {
        bench.take(&packet, ms(late));
    }
    assert_eq!(bench.frames(), seen + 2);
    assert_eq!(bench.recorder.stats.freezes.count(), 1, "the picture stood still meanwhile");
}

#[test]
fn a_repaired_packet_is_not_lost() {
    let mut bench = Bench::new();
    let all = packets(1, 0..3, 0);
    for packet in all.iter().skip(1) {
        bench.take(packet, ms(10));
    }
    bench.take(&all[0], ms(60));
    bench.reception.flush(bench.start + ms(5_000), ms(5_000), &mut bench.recorder);
    assert_eq!(bench.frames(), 3);
    assert_eq!(bench.recorder.stats.count.lost_after_repair, 0);
}

#[test]
fn a_pause_is_a_freeze_and_a_rest_is_none() {
    for (rest, freezes) in [(false, 1), (true, 0)] {
        let mut bench = Bench::new();
        let mut at = 0;
        let mut first = 0;
        for frame in 0..30 {
            if frame == 15 {
                at += 1_000;
                if rest {
                    bench.reception.rest(1);
                }
            }
            for packet in packets(0, frame..frame + 1, first) {
                first += 1;
                bench.take(&packet, ms(at));
            }
            at += 33;
        }
        assert_eq!(bench.recorder.stats.freezes.count(), freezes, "rest: {rest}");
        bench.reception.finish(ms(at + 3_000), &mut bench.recorder);
        assert_eq!(bench.recorder.stats.freezes.count(), freezes + 1, "silence at the end");
    }
}

#[test]
fn another_layer_is_a_switch() {
    let mut bench = Bench::new();
    let low = packets(0, 0..5, 0);
    for packet in low.iter().chain(&packets(2, 0..5, low.len() as u64)) {
        bench.take(packet, ms(1));
    }
    assert_eq!(bench.recorder.stats.count.layer_switches, 1);
    assert_eq!(bench.frames(), 10);
}
