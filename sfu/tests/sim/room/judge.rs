//! What came of a run, held against what must.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use chappe_sfu::wire::payload::RedBlocks;

use super::{
    Room,
    scenario::{Change, MS},
};
use crate::{
    client::Client,
    media::{RED, Source, Tag},
    screen::Screen,
    world::SECOND,
};

/// A link is steady so long after a change.
const SETTLING: Duration = Duration::from_secs(8);
/// On the wire beside a payload: IP, UDP, RTP with extensions, tag.
const OVERHEAD: u64 = 28 + 12 + 16 + 16;

/// What came of a run.
#[derive(Default, Debug)]
pub(super) struct Report {
    /// Of every datagram's moment, way and length.
    pub(super) digest: u64,
    pub(super) lines: String,
    pub(super) missed: Vec<String>,
}

impl Report {
    fn check(&mut self, what: &str, value: f64, limit: f64) {
        let _ = writeln!(self.lines, "  {what}: {value:.4} (at most {limit})");
        // What was not measured is missed.
        if value.is_nan() || value > limit {
            self.missed.push(format!("{what}: {value:.4}, at most {limit}"));
        }
    }
}

/// What was heard of a speaker, redundancy included.
struct Voice {
    frames: BTreeSet<u32>,
    /// The first packet and when it came: the others follow it each 20 ms.
    first: (u32, Instant),
}

impl Voice {
    const FRAME: Duration = Duration::from_millis(20);
    /// Frames by which one may be late that is overtaken (30 ms) and delayed beside (10 ms).
    const UNDER_WAY: u32 = 2;

    fn heard(client: &Client, ssrc: u32) -> Option<Self> {
        let mut frames = BTreeSet::new();
        for packet in client.packets(ssrc) {
            if packet.pt != RED {
                frames.insert(packet.tag().frame);
                continue;
            }
            let blocks = RedBlocks::parse(&packet.payload).unwrap();
            frames.extend(blocks.map(|block| Tag::of(block.data).frame));
        }
        let first = client.packets(ssrc).next()?;
        Some(Self { frames, first: (first.tag().frame, first.at) })
    }

    /// How many frames of a span came, and were said. What is under way at the end is not lost.
    fn count(&self, from: Instant, to: Instant) -> (usize, usize) {
        let number = |at: Instant| {
            let since = at.saturating_duration_since(self.first.1);
            self.first.0 + (since.as_nanos() / Self::FRAME.as_nanos()) as u32
        };
        // Those that came may have overtaken others.
        let last = self.frames.last().copied().unwrap_or_default().saturating_sub(Self::UNDER_WAY);
        let (from, to) = (number(from), number(to).min(last));
        (self.frames.range(from.min(to)..to).count(), to.saturating_sub(from) as usize)
    }
}

impl Room {
    pub(super) fn judge(&mut self, start: Instant, screens: &[Screen]) -> Report {
        let mut report = Report { digest: self.world.digest, ..Report::default() };
        self.judge_voices(start, &mut report);
        self.judge_video(screens, &mut report);
        self.judge_freezes(screens, &mut report);
        self.judge_layers(start, screens, &mut report);
        self.judge_falls(screens, &mut report);
        self.judge_repair(&mut report);
        report
    }

    fn changes(&self) -> impl Iterator<Item = Duration> + '_ {
        self.scenario.steps.iter().map(|step| SECOND * step.at)
    }

    /// From each change to the next, and the last to the end.
    fn spans(&self) -> Vec<(Duration, Duration)> {
        let changes: BTreeSet<Duration> = self.changes().collect();
        let ends = changes.iter().skip(1).copied().chain([SECOND * self.scenario.seconds]);
        changes.iter().copied().zip(ends).collect()
    }

    /// Voices in all, and in the part of each step where the link is steady; each packet counts where it would have been without
    /// loss.
    fn judge_voices(&self, start: Instant, report: &mut Report) {
        let limit = self.scenario.limits.voice_lost;
        let voices: Vec<_> = self.voices[..self.scenario.speakers]
            .iter()
            .filter_map(|voice| Voice::heard(&self.world.clients[self.subscriber], *voice))
            .collect();
        let lost = |from: Duration, to: Duration| {
            let spans = voices.iter().map(|voice| voice.count(start + from, start + to));
            let (heard, said) = spans.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
            said.saturating_sub(heard) as f64 / said.max(1) as f64
        };
        let end = SECOND * self.scenario.seconds;
        report.check("voices lost", lost(Duration::ZERO, end), limit);
        for (from, to) in self.spans() {
            if to - from <= SETTLING {
                continue;
            }
            let what = format!("voices lost, {} s, steady", from.as_secs());
            report.check(&what, lost(from + SETTLING, to), limit);
        }
    }

    fn judge_video(&self, screens: &[Screen], report: &mut Report) {
        let Some(limit) = self.scenario.limits.video_lost else { return };
        let losses = screens.iter().map(Screen::loss);
        let (packets, missing) = losses.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        report.check("video packets lost", missing as f64 / packets.max(1) as f64, limit);
    }

    fn judge_freezes(&self, screens: &[Screen], report: &mut Report) {
        let Some((steady, changing)) = self.scenario.limits.freeze else { return };
        let (mut longest_steady, mut longest_changing) = (Duration::ZERO, Duration::ZERO);
        let end = SECOND * self.scenario.seconds;
        let pictures = self.pictures.iter().zip(screens).take(self.scenario.speakers);
        for (number, (picture, screen)) in pictures.enumerate() {
            for (from, to) in screen.gaps(end) {
                // A paused picture does not freeze, nor does one that has just been paused or resumed.
                let is_paused = |(at, paused): &(Duration, bool)| *paused && *at <= to;
                let last = picture.states.iter().rev().find(|(at, _)| *at <= to);
                let changed =
                    picture.states.iter().any(|(at, _)| *at + MS * 200 >= from && *at <= to);
                if changed || last.is_some_and(is_paused) {
                    continue;
                }
                let unsteady =
                    self.changes().any(|change| to >= change && from <= change + SETTLING);
                let (longest, limit) = if unsteady {
                    (&mut longest_changing, changing)
                } else {
                    (&mut longest_steady, steady)
                };
                if to - from > limit {
                    println!("  picture {number} stood from {from:?} to {to:?}");
                }
                *longest = (*longest).max(to - from);
            }
        }
        report.check("freeze, steady, s", longest_steady.as_secs_f64(), steady.as_secs_f64());
        report.check(
            "freeze, at changes, s",
            longest_changing.as_secs_f64(),
            changing.as_secs_f64(),
        );
    }

    /// Each second of a steady link: could a speaker have a better layer, or a picture at all, within the link?
    fn judge_layers(&self, start: Instant, screens: &[Screen], report: &mut Report) {
        let speakers = self.scenario.speakers;
        let (mut seconds, mut worse) = (0, 0);
        for (from, to) in self.spans() {
            let steady = (from + SETTLING).as_secs() + 1..=to.as_secs();
            for end in steady.map(Duration::from_secs) {
                let rate = self.rate_at(end - MS);
                let used = self.used(start, end);
                let layers: Vec<Option<u8>> =
                    screens[..speakers].iter().map(|screen| screen.layer_at(end)).collect();
                let better = layers.iter().any(|layer| {
                    let more = self.step_up(*layer, layer.map_or(0, |layer| layer + 1));
                    more.is_some_and(|more| used + more < rate * 8 / 10)
                });
                seconds += 1;
                worse += u32::from(better);
                if better || end == to {
                    let _ = writeln!(
                        report.lines,
                        "  {:>3} s: {} kb/s, {} used by speakers, their layers {layers:?}{}",
                        end.as_secs(),
                        rate / 1_000,
                        used / 1_000,
                        if better { ", a better one fits" } else { "" },
                    );
                }
            }
        }
        if let Some(limit) = self.scenario.limits.worse_than_fits {
            let share = f64::from(worse) / f64::from(seconds.max(1));
            report.check("seconds with less than fits", share, limit);
        }
    }

    /// Bits per second that voices and the speakers' pictures took in the two seconds before `end`.
    fn used(&self, start: Instant, end: Duration) -> u64 {
        const WINDOW: u32 = 2;
        let (since, until) = (start + end - SECOND * WINDOW, start + end);
        let pictures = self.pictures[..self.scenario.speakers].iter().map(|picture| picture.ssrc);
        let wanted: BTreeSet<u32> = self.voices.iter().copied().chain(pictures).collect();
        let packets = self.world.clients[self.subscriber].received.iter().rev();
        let packets = packets.skip_while(|packet| packet.at >= until);
        let packets = packets.take_while(|packet| packet.at >= since);
        let bytes = packets
            .filter(|packet| wanted.contains(&packet.ssrc))
            .map(|packet| packet.payload.len() as u64 + OVERHEAD);
        bytes.sum::<u64>() * 8 / u64::from(WINDOW)
    }

    /// Some seconds after each change no speaker has a layer that is more than the link takes.
    fn judge_falls(&self, screens: &[Screen], report: &mut Report) {
        let Some(after) = self.scenario.limits.fits_after else { return };
        for at in self.changes().map(|change| change + after) {
            let rate = self.rate_at(at);
            for screen in &screens[..self.scenario.speakers] {
                let layer = screen.layer_at(at);
                let takes = layer.and_then(|layer| self.step_up(None, layer)).unwrap_or(0);
                if takes > rate {
                    let at = at.as_secs();
                    report.missed.push(format!("{at} s: layer {layer:?} takes {takes} of {rate}"));
                }
            }
        }
    }

    fn rate_at(&self, at: Duration) -> u64 {
        let before = self.scenario.steps.iter().filter(|step| SECOND * step.at <= at);
        let mut rates = before.filter_map(|step| match step.change {
            Change::Rate(rate) => Some(rate),
            _ => None,
        });
        rates.next_back().unwrap_or(u64::MAX / 16)
    }

    /// Bits per second that a layer takes more than the one before; `None`: there is no such layer.
    fn step_up(&self, from: Option<u8>, to: u8) -> Option<u64> {
        let rate = |layer: u8| -> Option<u64> {
            let bytes = match *self.scenario.sources {
                [Source::Spatial { bytes }] => {
                    u64::from(bytes) * [1, 3, 7].get(usize::from(layer))? / 7
                }
                _ => match self.scenario.sources.get(usize::from(layer))? {
                    Source::Camera { bytes } => u64::from(*bytes),
                    _ => return None,
                },
            };
            Some((bytes + bytes.div_ceil(1_000) * OVERHEAD) * 8 * 25)
        };
        Some(rate(to)? - from.and_then(rate).unwrap_or(0))
    }

    fn judge_repair(&mut self, report: &mut Report) {
        let limits = self.scenario.limits;
        let asked: u32 = self.world.clients.iter().map(|client| client.keyframe_requests).sum();
        // Resumed pictures too: they begin anew.
        let opened: u64 =
            self.ask(self.subscriber).subscriptions.iter().map(|of| of.switches).sum();
        let switches = opened + u64::from(self.rises);
        let _ = writeln!(report.lines, "  keyframe requests: {asked}, switches: {switches}");
        if let Some(limit) = limits.keyframes_a_switch {
            let each = f64::from(asked) / switches as f64;
            report.check("keyframe requests a switch", each, limit);
        }
        let seconds = f64::from(self.scenario.seconds);
        if let Some(limit) = limits.keyframes_a_second {
            report.check("keyframe requests a second", f64::from(asked) / seconds, limit);
        }
        if let Some(limit) = limits.resends {
            let sent = self.world.count(|counters| counters.media_out) as f64;
            let resent = self.world.count(|counters| counters.retransmitted) as f64;
            report.check("resends a packet", resent / sent, limit);
        }
        if let Some(limit) = limits.nacks {
            let (mut sent, mut asked, subscriber) = (0, 0, self.subscriber);
            for publisher in (0..self.world.clients.len()).filter(|at| *at != subscriber) {
                let encodings = self.ask(publisher).tracks.into_iter().flat_map(|of| of.encodings);
                for encoding in encodings {
                    sent += encoding.packets;
                    asked += encoding.nacks;
                }
            }
            report.check("NACKs a packet", asked as f64 / sent.max(1) as f64, limit);
        }
    }
}
