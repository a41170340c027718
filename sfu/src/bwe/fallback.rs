//! What is known of a path whose receiver tells nothing of single packets: what it allows itself (REMB,
//! draft-alvestrand-rmcat-remb-03), and what was lost between two of its reports (the loss-based half of
//! draft-ietf-rmcat-gcc-02, section 6).

use std::time::Duration;

use super::Limit;
use crate::{
    prefetch::prefetch,
    rtp::{Bitrate, Probe, ProbeId},
};

/// A rate by REMB and receiver reports. Nothing bounds it before either says something that does.
///
/// In this order: what happens to each peer without feedback by packet comes first.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Fallback {
    /// Bytes of a packet, of late.
    packet_size: f64,
    sent: SentRate,
    /// The receiver's own estimate, and when it came.
    remb: Option<(f64, Duration)>,
    by_loss_bps: Option<f64>,
    /// While the receiver is silent.
    silent_bps: Option<f64>,
    /// Its first reports after that tell of the silence.
    silent_until: Duration,
    heard_at: Option<Duration>,
    /// Packets that reports told of since the last look at them, and how many of those were lost.
    told: (f64, f64),
    judged_at: Duration,
    loss: f64,
    /// When loss last lowered the rate, and how often it did of late.
    cut_at: Option<Duration>,
    cuts: i32,
    climb: Climb,
}

/// At which rate packets left of late, in two counts of half a second. Where little is asked, a ring of sums would cost each packet a place
/// of memory that nothing else looks at.
#[derive(Debug, Default)]
struct SentRate {
    /// The count that is under way: since when, and how many bytes.
    count: (Duration, f64),
    /// The one before it.
    before: Option<(Duration, f64)>,
    /// When a packet left last.
    last: Duration,
}

impl SentRate {
    /// What left before a pause as long says nothing about what leaves after it.
    const COUNT: Duration = Duration::from_millis(500);
    /// Shorter tells of a frame, not of a rate.
    const LEAST: Duration = Duration::from_millis(200);
    /// What left longer ago is not of late.
    const SILENCE: Duration = Duration::from_secs(1);

    /// Bytes that left from one moment to another.
    fn add(&mut self, (from, to): (Duration, Duration), bytes: f64) {
        let paused = from.saturating_sub(self.last) >= Self::COUNT;
        if paused || to.saturating_sub(self.count.0) >= Self::COUNT {
            self.before = Some(self.count).filter(|_| !paused);
            self.count = (from, 0.0);
        }
        self.count.1 += bytes;
        self.last = to;
    }

    /// Bits per second, of both counts or of the latest, the higher: pictures may have begun amid sound. `None` where nothing left of
    /// late, or only just now.
    fn bps(&self, now: Duration) -> Option<f64> {
        if now.saturating_sub(self.last) >= Self::SILENCE {
            return None;
        }
        let rate = |(since, bytes): (Duration, f64)| {
            let passed = now.saturating_sub(since);
            (passed >= Self::LEAST).then(|| bytes * 8.0 / passed.as_secs_f64())
        };
        let both = self.before.map(|(since, bytes)| (since, bytes + self.count.1));
        [Some(self.count), both].into_iter().flatten().filter_map(rate).max_by(f64::total_cmp)
    }
}

/// A receiver's estimate hardly grows beyond what it gets. So that it shows what the path takes, what is allowed is
/// filled up with padding, for as long as the estimate grows.
#[derive(Debug)]
struct Climb {
    /// The best that the receiver said, and when; `None`: no climb is under way.
    best: Option<(f64, Duration)>,
    /// Where it began.
    from_bps: f64,
    due: Duration,
    failures: u32,
    asked_at: Option<Duration>,
    id: ProbeId,
    salt: u32,
}

impl Default for Climb {
    fn default() -> Self {
        Self {
            salt: 0,
            best: None,
            from_bps: 0.0,
            due: Duration::ZERO,
            failures: 0,
            asked_at: None,
            id: ProbeId(0),
        }
    }
}

impl Fallback {
    /// The draft's: above the first share of loss the rate falls, below the second it grows.
    const LOSS: (f64, f64) = (0.1, 0.02);
    /// By this, at each look at the reports; half of it, and then a quarter, after a second and a third fall within a
    /// minute: each fall is a second of loss.
    const GROWTH: f64 = 0.05;
    const MAX_HALVINGS: i32 = 2;
    const CALM: Duration = Duration::from_secs(60);
    /// Reports are looked at so often at most, and when they tell of so many packets.
    const INTERVAL: Duration = Duration::from_millis(900);
    const PACKETS: f64 = 20.0;
    /// Looks further apart than this do not bound when what reports tell of arrived: nothing did for a part of it.
    const MAX_PASSED: Duration = Duration::from_millis(1_500);
    /// Of the newest packet in the usual size of one. Sound and pictures mix within a few frames.
    const SIZE_WEIGHT: f64 = 1.0 / 64.0;
    /// After a fall the next report is still about what was sent before.
    const AFTER_CUT: Duration = Duration::from_millis(1_500);
    /// Cuts that follow so closely are of one fall.
    const DESCENT: Duration = Duration::from_secs(5);
    /// REMB comes each second. One that was not repeated for so long bounds no more, but for growing as by loss.
    const REMB_LIFE: Duration = Duration::from_secs(4);
    /// Reports come each second about video, each 5 s (RFC 3550 section 6.2), half as much more by chance, about audio.
    const REPORT_LIFE: Duration = Duration::from_secs(8);
    /// What is wanted has room for layers that change their rates: no climb goes that far.
    const ENOUGH: f64 = 0.75;

    /// `salt`: see [`Bitrate::stagger`].
    pub(super) fn new(salt: u32) -> Self {
        Self { climb: Climb { salt, ..Climb::default() }, ..Self::default() }
    }

    /// The receiver's own estimate came.
    pub(super) fn handle_remb(&mut self, now: Duration, bps: f64) {
        self.hear(now);
        if self.remb.is_some_and(|(before, _)| bps < before * Climb::FELL) {
            self.climb.due = self.climb.due.max(now + Climb::AFTER_FALL);
        }
        self.remb = Some((bps, now));
    }

    /// What packets that leave and reports of them look at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.packet_size);
        prefetch(&self.sent);
        prefetch(&self.remb);
        prefetch(&self.silent_bps);
        prefetch(&self.told);
        prefetch(&self.loss);
    }

    /// Packets left from one moment to another, of so many bytes together.
    pub(super) fn handle_sent(&mut self, times: (Duration, Duration), packets: u32, bytes: f64) {
        let packets = f64::from(packets.max(1));
        let mean = bytes / packets;
        if self.packet_size == 0.0 {
            self.packet_size = mean;
        }
        self.packet_size += (mean - self.packet_size) * (Self::SIZE_WEIGHT * packets).min(1.0);
        self.sent.add(times, bytes);
    }

    /// A receiver's reports told of so many packets, and how many of them were lost; `sent_bps` is what left of late where
    /// [`Self::handle_sent`] was told of none of it. No rate above `max_bps` is a bound.
    pub(super) fn handle_report(
        &mut self,
        now: Duration,
        (packets, lost): (f64, f64),
        sent_bps: impl FnOnce() -> Option<f64>,
        max_bps: f64,
    ) {
        self.hear(now);
        if now < self.silent_until {
            self.judged_at = now;
            return;
        }
        self.told = (self.told.0 + packets, self.told.1 + lost);
        let (packets, lost) = self.told;
        if packets < Self::PACKETS || now.saturating_sub(self.judged_at) < Self::INTERVAL {
            return;
        }
        let passed = now.saturating_sub(std::mem::replace(&mut self.judged_at, now));
        self.told = (0.0, 0.0);
        self.loss = lost / packets;
        if self.loss > Self::LOSS.0 {
            let fresh = self.cut_at.is_none_or(|at| now.saturating_sub(at) >= Self::AFTER_CUT);
            // What arrived. The draft takes half of the loss off, and is four times as long on a path that narrows to a quarter.
            // What left of late is another time's, and has resends in it: it stands in where reports are too far apart.
            let counted = (packets - lost) * self.packet_size * 8.0 / passed.as_secs_f64();
            let sent_bps = if self.packet_size == 0.0 { sent_bps() } else { None };
            let left = self.sent.bps(now).or(sent_bps).map(|sent| sent * (1.0 - self.loss));
            let counts = passed <= Self::MAX_PASSED && self.packet_size > 0.0;
            let arrived = if counts { Some(counted) } else { left };
            if let Some(arrived) = arrived.filter(|_| fresh) {
                let descends = self.cut_at.is_some_and(|at| now.saturating_sub(at) < Self::DESCENT);
                // Some of what arrived meanwhile was sent by the bound of before, and did not fill the path.
                let least = self.by_loss_bps.filter(|_| descends).map_or(0.0, |bps| bps * 0.5);
                let arrived = arrived.max(least);
                self.by_loss_bps = Some(self.by_loss_bps.map_or(arrived, |bps| bps.min(arrived)));
                self.cuts = match self.cuts {
                    _ if self.is_calm(now) => 1,
                    cuts => cuts + i32::from(!descends),
                };
                self.cut_at = Some(now);
            }
        } else if self.loss < Self::LOSS.1 {
            let halvings = if self.is_calm(now) { 0 } else { self.cuts - 1 };
            let growth = Self::GROWTH * 0.5f64.powi(halvings.clamp(0, Self::MAX_HALVINGS));
            let grown = |bps: f64| Some(bps * (1.0 + growth)).filter(|bps| *bps < max_bps);
            self.by_loss_bps = self.by_loss_bps.and_then(grown);
            if self.remb.is_some() && !self.allows(now) {
                self.remb = self.remb.and_then(|(bps, at)| Some((grown(bps)?, at)));
            }
        }
    }

    /// Nothing was heard for [`Self::patience`]: so much less of what was allowed.
    pub(super) fn cut(&mut self, share: f64) {
        self.silent_bps = self.bound().map(|(bps, _)| bps * share);
    }

    /// The rate, and what holds it; `None`: nothing does.
    pub(super) fn bound(&self) -> Option<(f64, Limit)> {
        let bounds = [
            self.silent_bps.map(|bps| (bps, Limit::Silence)),
            self.remb.map(|(bps, _)| (bps, Limit::Remb)),
            self.by_loss_bps.map(|bps| (bps, Limit::Loss)),
        ];
        bounds.into_iter().flatten().min_by(|one, other| one.0.total_cmp(&other.0))
    }

    /// Fraction of packets lost, by the latest reports.
    pub(super) fn loss(&self) -> f64 {
        self.loss
    }

    /// When anything was heard last.
    pub(super) fn heard_at(&self) -> Option<Duration> {
        self.heard_at
    }

    /// For how long a receiver may be silent.
    pub(super) fn patience(&self) -> Duration {
        if self.heard_at.is_some_and(|at| self.allows(at)) {
            Self::REMB_LIFE
        } else {
            Self::REPORT_LIFE
        }
    }

    /// Padding that lets the receiver's estimate grow, where more is wanted than it allows.
    pub(super) fn poll_climb(&mut self, now: Duration, wanted_bps: f64) -> Option<Probe> {
        let remb = self.climbs(wanted_bps).filter(|_| self.allows(now));
        let Some(bps) = remb else {
            self.climb.best = None;
            return None;
        };
        self.climb.poll(now, bps, self.loss < Self::LOSS.1)
    }

    /// When to call [`Self::poll_climb`] again.
    pub(super) fn poll_timeout(&self, wanted_bps: f64) -> Option<Duration> {
        self.climbs(wanted_bps)?;
        let next = self.climb.asked_at.map(|at| at + Climb::STEP);
        let next = next.filter(|_| self.climb.best.is_some());
        // One that was not due, or is not repeated any more, is looked at with what comes next.
        next.or_else(|| Some(self.climb.due).filter(|due| Some(*due) > self.heard_at))
    }

    /// The receiver's estimate, where it is what bounds, and not enough.
    fn climbs(&self, wanted_bps: f64) -> Option<f64> {
        let (bps, limit) = self.bound()?;
        (limit == Limit::Remb && bps < wanted_bps * Self::ENOUGH).then_some(bps)
    }

    /// The receiver's estimate is of late.
    fn allows(&self, now: Duration) -> bool {
        self.remb.is_some_and(|(_, at)| now.saturating_sub(at) < Self::REMB_LIFE)
    }

    /// The latest fall is long ago.
    fn is_calm(&self, now: Duration) -> bool {
        self.cut_at.is_none_or(|at| now.saturating_sub(at) >= Self::CALM)
    }

    fn hear(&mut self, now: Duration) {
        self.heard_at = Some(now);
        if self.silent_bps.take().is_some() {
            self.silent_until = now + Self::AFTER_CUT;
            self.told = (0.0, 0.0);
        }
    }
}

impl Climb {
    /// Padding is asked for so long at once.
    const STEP: Duration = Duration::from_millis(200);
    /// An estimate that does not grow for so long does not follow. Longer pads more in vain.
    const PATIENCE: Duration = Duration::from_millis(2_500);
    /// The estimate grows by this at least: receivers let it grow by 8 % in a second.
    const GREW: f64 = 1.01;
    /// It falls by this at least: the path is full.
    const FELL: f64 = 0.97;
    /// Queues drain meanwhile.
    const AFTER_FALL: Duration = Duration::from_secs(3);
    /// Until the next climb, twice as long after each that gained less than a fifth. Longer pads less for a receiver whose
    /// estimate is a fixed bound, and finds room later.
    const WAIT: Duration = Duration::from_secs(8);
    const MAX_DOUBLINGS: u32 = 4;
    const GAINED: f64 = 1.2;

    fn poll(&mut self, now: Duration, bps: f64, calm: bool) -> Option<Probe> {
        let (best, since) = match self.best {
            None if now < self.due || !calm => return None,
            None => {
                self.from_bps = bps;
                (bps, now)
            }
            Some((best, _)) if bps > best * Self::GREW => (bps, now),
            Some(best) => best,
        };
        self.best = Some((best, since));
        if bps < best * Self::FELL || now.saturating_sub(since) > Self::PATIENCE || !calm {
            self.best = None;
            let gained = best > self.from_bps * Self::GAINED;
            self.failures = if gained { 0 } else { self.failures + 1 };
            let wait = Self::WAIT * 2u32.pow(self.failures.min(Self::MAX_DOUBLINGS));
            let stagger = Bitrate::from_bps(bps as u64).stagger(self.salt);
            self.due = self.due.max(now + wait.mul_f64(stagger));
            return None;
        }
        if self.asked_at.is_some_and(|at| now < at + Self::STEP) {
            return None;
        }
        self.asked_at = Some(now);
        self.id = self.id.next();
        let rate = Bitrate::from_bps(bps as u64);
        Some(Probe { id: self.id, rate, size: rate.over(Self::STEP), packets: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: f64 = 30e6;
    const SECOND: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn loss_of_reports_bounds_what_leaves() {
        let mut fallback = Fallback::default();
        // 1 Mb/s; what left in the last moment is another's.
        fallback.handle_sent((Duration::ZERO, Duration::ZERO), 1, 1_250.0);
        let report = |fallback: &mut Fallback, seconds: u32, lost: f64| {
            fallback.handle_report(SECOND * seconds, (100.0, lost), || Some(5e6), MAX);
            fallback.bound()
        };
        assert_eq!(report(&mut fallback, 1, 9.0), None, "less than a tenth");
        assert_eq!(report(&mut fallback, 2, 40.0), Some((6e5, Limit::Loss)));
        assert_eq!(report(&mut fallback, 3, 90.0), Some((6e5, Limit::Loss)), "of before the fall");
        assert_eq!(report(&mut fallback, 4, 5.0), Some((6e5, Limit::Loss)), "neither");
        assert_eq!(report(&mut fallback, 5, 1.0), Some((6.3e5, Limit::Loss)));
        assert_eq!(report(&mut fallback, 7, 5.0), Some((6.3e5, Limit::Loss)));
        assert_eq!(report(&mut fallback, 8, 50.0), Some((5e5, Limit::Loss)));
        report(&mut fallback, 9, 0.0);
        let (bps, _) = fallback.bound().unwrap();
        assert!((bps - 5.125e5).abs() < 1.0, "slower the second time: {bps}");
        for seconds in 1..200 {
            report(&mut fallback, 9 + seconds, 0.0);
        }
        assert_eq!(fallback.bound(), None, "it has grown out of it");
        // 5 Mb/s in the last second.
        let at = |n: u64| SECOND * 211 + ms(2 * n);
        (0..500).for_each(|n| fallback.handle_sent((at(n), at(n)), 1, 1_250.0));
        fallback.handle_report(SECOND * 212, (100.0, 40.0), || None, MAX);
        assert_eq!(fallback.bound(), Some((3e6, Limit::Loss)), "too long ago to be counted");
        // Cuts in a row are one fall, and none takes more than half of what is left.
        assert_eq!(report(&mut fallback, 213, 20.0), Some((3e6, Limit::Loss)), "of before it");
        assert_eq!(report(&mut fallback, 214, 20.0), Some((1.5e6, Limit::Loss)));
        assert_eq!(report(&mut fallback, 215, 5.0), Some((1.5e6, Limit::Loss)));
        assert_eq!(report(&mut fallback, 216, 90.0), Some((7.5e5, Limit::Loss)));
        assert_eq!(report(&mut fallback, 217, 0.0), Some((7.875e5, Limit::Loss)));
        // Who promised feedback by packet, and reports only: its packets were not counted.
        let mut fallback = Fallback::default();
        report(&mut fallback, 1, 0.0);
        assert_eq!(report(&mut fallback, 2, 40.0), Some((3e6, Limit::Loss)));
        // Few packets tell nothing, and many reports in a moment are one.
        let mut fallback = Fallback::default();
        for n in 0..30 {
            fallback.handle_report(SECOND + ms(n), (0.5, 0.5), || Some(1e6), MAX);
        }
        assert_eq!(fallback.bound(), None);
    }

    #[test]
    fn what_left_is_taken_over_the_time_in_which_it_left() {
        struct Case {
            name: &'static str,
            /// 2 Mb/s leave between these moments, ms.
            sent: &'static [(u64, u64)],
            /// When a report tells that two in five were lost, at the first look for long.
            told: u64,
            /// Of what left in the last moments, kb/s.
            expect: Option<f64>,
        }
        let cases = [
            Case {
                name: "media begins long after the peer came",
                sent: &[(600_000, 601_000)],
                told: 601_000,
                expect: Some(1_200.0),
            },
            Case {
                name: "a minute of silence before it",
                sent: &[(0, 1_000), (60_000, 60_600)],
                told: 60_600,
                expect: Some(1_200.0),
            },
            Case {
                name: "half a second of silence",
                sent: &[(2_000, 2_700), (3_200, 3_700)],
                told: 3_700,
                expect: Some(1_200.0),
            },
            Case {
                name: "it ended half a second ago",
                sent: &[(2_000, 3_000)],
                told: 3_500,
                expect: Some(800.0),
            },
            Case {
                name: "it ended a while ago",
                sent: &[(2_000, 3_000)],
                told: 9_000,
                expect: None,
            },
            Case { name: "it began just now", sent: &[(8_900, 9_000)], told: 9_000, expect: None },
        ];
        // Each packet by itself, and those of half a second at once.
        for (Case { name, sent, told, expect }, together) in
            cases.iter().flat_map(|case| [(case, 1), (case, 500)])
        {
            let mut fallback = Fallback::default();
            let times: Vec<u64> =
                sent.iter().flat_map(|(from, to)| (*from..*to).step_by(5)).collect();
            let mut left = &times[..];
            while let Some(first) = left.first() {
                let count = left.partition_point(|at| *at < first + together);
                let (told, rest) = left.split_at(count);
                let times = (ms(*first), ms(told[count - 1]));
                fallback.handle_sent(times, count as u32, 1_250.0 * count as f64);
                left = rest;
            }
            let (told, expect) = (*told, *expect);
            fallback.handle_report(ms(told), (100.0, 40.0), || None, MAX);
            let kbps = fallback.bound().map(|(bps, _)| bps / 1_000.0);
            let near = |(told, expect): (f64, f64)| (told - expect).abs() < expect * 0.05;
            assert_eq!(kbps.is_some(), expect.is_some(), "{name}: {kbps:?}");
            assert!(kbps.zip(expect).is_none_or(near), "{name}: {kbps:?}");
        }
    }

    #[test]
    fn a_receivers_estimate_that_is_not_repeated_is_let_go_of_slowly() {
        let mut fallback = Fallback::default();
        fallback.handle_remb(SECOND, 5e5);
        assert_eq!(fallback.patience(), Fallback::REMB_LIFE);
        for seconds in 2..=4 {
            fallback.handle_report(SECOND * seconds, (100.0, 0.0), || None, MAX);
            assert_eq!(fallback.bound(), Some((5e5, Limit::Remb)), "{seconds}");
        }
        fallback.handle_report(SECOND * 6, (100.0, 0.0), || None, MAX);
        assert_eq!(fallback.bound(), Some((5.25e5, Limit::Remb)));
        assert_eq!(fallback.patience(), Fallback::REPORT_LIFE);
        fallback.cut(0.7);
        assert_eq!(fallback.bound(), Some((5.25e5 * 0.7, Limit::Silence)));
        fallback.handle_remb(SECOND * 9, 6e5);
        fallback.handle_report(SECOND * 9, (300.0, 290.0), || Some(1e5), MAX);
        assert_eq!(fallback.bound(), Some((6e5, Limit::Remb)), "heard again: silence is no loss");
        fallback.handle_report(SECOND * 11, (100.0, 90.0), || Some(1e6), MAX);
        assert_eq!(fallback.bound().map(|(_, limit)| limit), Some(Limit::Loss));
    }

    #[test]
    fn padding_goes_on_while_the_receivers_estimate_grows() {
        /// Time that is padded in a minute, under an estimate that grows by so much a second up to so much.
        fn padded(growth: f64, top: f64) -> Duration {
            let mut fallback = Fallback::default();
            let mut bps: f64 = 2e5;
            let mut padded = Duration::ZERO;
            for n in 0..600 {
                let now = ms(n * 100);
                if n % 10 == 0 {
                    bps = (bps * growth).min(top);
                    fallback.handle_remb(now, bps);
                }
                if let Some(probe) = fallback.poll_climb(now, 2e6) {
                    assert_eq!(probe.rate.bps(), bps as u64);
                    padded += Climb::STEP;
                    assert_eq!(fallback.poll_timeout(2e6), Some(now + Climb::STEP));
                }
            }
            padded
        }
        // From 200 to 1,500 kb/s, which is enough.
        let grows = padded(1.08, 9e6);
        assert!((ms(25_000)..ms(28_000)).contains(&grows), "{grows:?}");
        // Now at once, and after 16 and 32 s.
        let fixed = padded(1.0, 9e6);
        assert!((ms(5_000)..ms(9_000)).contains(&fixed), "{fixed:?}");
        let mut fallback = Fallback::default();
        fallback.handle_remb(Duration::ZERO, 2e6);
        assert_eq!(fallback.poll_climb(Duration::ZERO, 2e6), None, "it is enough");
        fallback.handle_remb(SECOND, 1e6);
        assert_eq!(fallback.poll_climb(SECOND, 2e6), None, "it fell just now");
        assert_eq!(fallback.poll_timeout(2e6), Some(SECOND + Climb::AFTER_FALL));
        assert!(fallback.poll_climb(SECOND * 4, 2e6).is_some());
    }
}
