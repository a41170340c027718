//! One round of sharing a peer's estimate out among what it receives.

use std::time::{Duration, Instant};

use super::{Congestion, Grant, Repair, Shared, Slots, Subscription};
use crate::{
    cache::{LadderStep, Layers},
    egress::{BitrateAllocator, Claim, RepairShare},
    ingress::PublishedTrack,
    rtp::{Bitrate, MediaKind},
};

/// Room for one round, kept for the next peer's.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    allocator: BitrateAllocator,
    claims: Vec<Claim>,
    /// By claim: the subscription, and where its choices end in `choices`.
    claimants: Vec<(u32, usize)>,
    choices: Vec<Layers>,
    ladder: Vec<LadderStep>,
    audio: Bitrate,
    /// The same without redundancy.
    sound: Bitrate,
}

/// What the estimate has to carry of a track before anything of it was measured: 180p, 360p and 720p as browsers send
/// them. Higher starts more carefully.
const UNMEASURED: [Bitrate; 3] =
    [Bitrate::from_kbps(150), Bitrate::from_kbps(500), Bitrate::from_kbps(1_500)];

/// Of an audio track: Opus with RED.
const UNMEASURED_AUDIO: Bitrate = Bitrate::from_kbps(64);

/// What an untried path is taken to carry, as a multiple of everybody's lowest layer: more than winning it is charged.
const UNTRIED: f64 = 1.1;

/// Part of a round trip that repair may wait to be good for losses in a row: what is lost first is still back well before it
/// could be sent again.
const REPAIR_WAIT: f64 = 0.4;

impl Sharing {
    /// Begins a round.
    pub(crate) fn begin(&mut self) {
        self.claims.clear();
        self.claimants.clear();
        self.choices.clear();
        self.audio = Bitrate::ZERO;
        self.sound = Bitrate::ZERO;
    }

    /// Takes the subscription at `slot` into the round; `speaks`: its track's publisher is heard.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        slot: u32,
        subscription: &Subscription,
        track: &mut PublishedTrack,
        speaks: bool,
    ) {
        let Some(wish) = subscription.wish() else { return };
        match track.kind() {
            MediaKind::Audio => {
                let measured = track.bitrate(now, 0);
                let unknown = measured == Bitrate::ZERO;
                // Each block of redundancy that is added is about as large as the sound itself. Some that is wished for
                // never leaves: what counts is what did.
                self.sound = self.sound + if unknown { UNMEASURED_AUDIO } else { measured };
                let with_redundancy = 1.0 + f64::from(subscription.egress.carried());
                let measured = measured.mul_f64(with_redundancy);
                self.audio = self.audio + if unknown { UNMEASURED_AUDIO } else { measured };
            }
            MediaKind::Video => {
                self.ladder.clear();
                track.ladder(now, &mut self.ladder);
                self.claim(slot, subscription, wish, speaks);
            }
        }
    }

    /// Ends the round: grants each video subscription what fits, and tells `changed` of each one whose grant is another
    /// now, with the one before. The deadline for the next round.
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        congestion: &mut Congestion,
        subscriptions: &mut Slots<Subscription>,
        mut changed: impl FnMut(&Subscription, Grant),
    ) -> Instant {
        let (lost, crowded) = (congestion.loss(), congestion.is_crowded(self.sound));
        for (_, subscription) in subscriptions.iter_mut() {
            subscription.egress.handle_path(lost, crowded);
        }
        let repair = congestion.repair();
        self.price_repair(repair, subscriptions);
        congestion.reprice(self.claims.iter().map(Claim::keeps).sum::<Bitrate>() + self.audio);
        let mut budget = congestion.budget().saturating_sub(self.audio);
        let before = self.claims.iter().map(Claim::cost).sum::<Bitrate>() + self.audio;
        if let Some(ceiling) = congestion.ceiling(now, before) {
            budget = budget.min(ceiling.saturating_sub(self.audio));
        }
        if congestion.is_untried() {
            // The first picture tells more about the path than a pause does.
            let least = self.claims.iter().map(Claim::least).sum::<Bitrate>();
            budget = budget.max(least.mul_f64(UNTRIED));
        }
        let least = self.claims.iter().max_by_key(|claim| claim.priority).map(Claim::least);
        let starved = least.is_some_and(|least| budget < least);
        if congestion.is_trying(now, starved) {
            budget = budget.max(least.unwrap_or(Bitrate::ZERO).mul_f64(UNTRIED));
        }
        self.allocator.allocate(now, budget, &mut self.claims);
        if self.claims.iter().any(|claim| claim.resumes(now)) {
            congestion.begin_try(now);
        }
        if !congestion.may_pause() {
            for (claim, (slot, _)) in self.claims.iter_mut().zip(&self.claimants) {
                let known = subscriptions.get(*slot as usize);
                if known.is_some_and(|known| known.granted() != Grant::Nothing) {
                    claim.hold(now);
                }
            }
        }
        let taken = self.claims.iter().map(Claim::cost).sum::<Bitrate>();
        let mut room = budget.saturating_sub(taken);
        let mut first = 0;
        for (claim, (slot, end)) in self.claims.iter().zip(&self.claimants) {
            let choices = self.choices.get(first..*end).unwrap_or(&[]);
            first = *end;
            let Some(subscription) = subscriptions.get_mut(*slot as usize) else { continue };
            subscription.claim = claim.clone();
            let grant = match claim.granted().and_then(|step| choices.get(usize::from(step))) {
                Some(layers) => Grant::UpTo(*layers),
                None if choices.is_empty() => {
                    match (subscription.granted(), subscription.current()) {
                        // It rests: a picture that does not move, a camera that is off.
                        (kept @ Grant::UpTo(_), Some(_)) => kept,
                        _ => Grant::UpTo(unseen(subscription.wish(), &mut room)),
                    }
                }
                None => Grant::Nothing,
            };
            let before = subscription.granted();
            subscription.grant(grant);
            if grant != before {
                changed(subscription, before);
            }
        }
        let used = self.claims.iter().map(Claim::cost).sum::<Bitrate>() + self.audio;
        self.share_repair(repair, congestion.room(used), subscriptions);
        let kept = self.claims.iter().filter(|claim| claim.granted().is_some());
        let least = kept.map(Claim::least).sum::<Bitrate>() + self.audio;
        let wanted = self.claims.iter().map(Claim::top).sum::<Bitrate>() + self.audio;
        let keeps = self.claims.iter().map(Claim::keeps).sum::<Bitrate>() + self.audio;
        congestion.allocated(now, Shared { least, before, used, keeps, wanted })
    }

    /// There is nothing to share any more: everybody gets what they wish.
    pub(crate) fn end(
        subscriptions: &mut Slots<Subscription>,
        mut changed: impl FnMut(&Subscription, Grant),
    ) {
        for (_, subscription) in subscriptions.iter_mut() {
            subscription.protect(None, Duration::ZERO);
            let before = subscription.granted();
            // Nothing is known of the path but what reports say.
            subscription.egress.handle_path(0.0, false);
            subscription.grant(Grant::All);
            if before != Grant::All {
                changed(subscription, before);
            }
        }
    }

    /// What is won has to have room for its repair.
    fn price_repair(&mut self, repair: Option<Repair>, subscriptions: &Slots<Subscription>) {
        for (claim, (slot, _)) in self.claims.iter_mut().zip(&self.claimants) {
            let known = subscriptions.get(*slot as usize);
            let takes = known.is_some_and(|known| known.egress.can_be_protected());
            let share = |Repair { loss, rtt }| RepairShare::of(loss, rtt, claim.top());
            let share = repair.filter(|_| takes).map(share);
            claim.set_repair(share);
        }
    }

    /// Repair gets what is left, each track as much of its own rate as each other, and no more than it is worth.
    fn share_repair(
        &self,
        repair: Option<Repair>,
        room: Bitrate,
        subscriptions: &mut Slots<Subscription>,
    ) {
        let mut protected = Bitrate::ZERO;
        for (claim, (slot, _)) in self.claims.iter().zip(&self.claimants) {
            let known = subscriptions.get(*slot as usize).filter(|_| repair.is_some());
            if known.is_some_and(|known| known.egress.can_be_protected()) {
                protected = protected + claim.cost();
            }
        }
        let wait = repair.map_or(Duration::ZERO, |repair| repair.rtt.mul_f64(REPAIR_WAIT));
        let fits = room.bps() as f64 / protected.bps().max(1) as f64;
        for (claim, (slot, _)) in self.claims.iter().zip(&self.claimants) {
            let Some(subscription) = subscriptions.get_mut(*slot as usize) else { continue };
            let kept = subscription.egress.is_protected();
            let share = repair.filter(|_| claim.granted().is_some()).and_then(|repair| {
                RepairShare::of(repair.loss, repair.rtt, claim.cost()).at_most(fits, kept)
            });
            subscription.protect(share, wait);
        }
    }

    /// What one subscription can have and what it costs.
    fn claim(&mut self, slot: u32, subscription: &Subscription, wish: Layers, speaks: bool) {
        let mut claim = subscription.claim.clone();
        // Among those of one priority, who speaks comes first.
        claim.priority = subscription.spec.priority.saturating_mul(2).saturating_add(speaks.into());
        let first = self.choices.len();
        let steps = steps(&self.ladder, wish, subscription.spec.maintain_resolution);
        self.choices.extend(steps.clone().map(|step| step.layers));
        let choices = &self.choices[first..];
        let kept = match subscription.granted() {
            Grant::UpTo(layers) => choices
                .iter()
                .rposition(|choice| {
                    (choice.spatial, choice.temporal) <= (layers.spatial, layers.temporal)
                })
                .map(|index| index as u8),
            Grant::All | Grant::Nothing => None,
        };
        claim.set_steps(steps.map(price), kept);
        self.claims.push(claim);
        self.claimants.push((slot, self.choices.len()));
    }
}

/// What a subscriber who wishes `wish` can be put on, the lowest first.
///
/// A larger picture that moves less smoothly than the smaller one below it is no better one, unless `maintain_resolution`:
/// temporal layers are left out of the lowest spatial layer only.
fn steps(
    ladder: &[LadderStep],
    wish: Layers,
    maintain_resolution: bool,
) -> impl Iterator<Item = &LadderStep> + Clone {
    let within = move |step: &&LadderStep| {
        step.layers.spatial <= wish.spatial && step.layers.temporal <= wish.temporal
    };
    let lowest = ladder.iter().find(within).map(|step| step.layers.spatial);
    let smooth = move |step: &&LadderStep| {
        let Layers { spatial, temporal } = step.layers;
        let peers = ladder.iter().filter(within).filter(|peer| peer.layers.spatial == spatial);
        Some(spatial) == lowest || peers.map(|peer| peer.layers.temporal).max() == Some(temporal)
    };
    // Above the wish is better than nothing: a publisher without layers sends one quality to everybody.
    let above = ladder.first().filter(|_| lowest.is_none());
    ladder
        .iter()
        .filter(within)
        .filter(move |step| maintain_resolution || smooth(step))
        .chain(above)
}

/// Where a track opens of which nothing came yet, out of the `room` that is left. The lowest layer is always let in: to go up
/// from there costs less than a picture that stands because too much was let in.
fn unseen(wish: Option<Layers>, room: &mut Bitrate) -> Layers {
    let top = wish.map_or(u8::MAX, |wish| wish.spatial);
    let usual = (0_u8..).zip(UNMEASURED).take_while(|(spatial, _)| *spatial <= top);
    let fits = usual.take_while(|(_, price)| price <= room).last();
    let (spatial, price) = fits.unwrap_or((0, UNMEASURED[0]));
    *room = room.saturating_sub(price);
    let all = usize::from(spatial) + 1 == UNMEASURED.len();
    Layers { spatial: if all { u8::MAX } else { spatial }, temporal: u8::MAX }
}

fn price(step: &LadderStep) -> Bitrate {
    if step.bitrate > Bitrate::ZERO {
        return step.bitrate;
    }
    let index = usize::from(step.layers.spatial).min(UNMEASURED.len() - 1);
    UNMEASURED[index]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::FrameRate;

    #[test]
    fn a_track_opens_on_what_there_is_room_for() {
        let wish = |spatial| Some(Layers { spatial, temporal: u8::MAX });
        // Room in kb/s, what is wished, the spatial layer up to which it opens, what is left.
        let cases = [
            (5_000, wish(u8::MAX), u8::MAX, 3_500),
            (5_000, wish(1), 1, 4_500),
            (5_000, None, u8::MAX, 3_500),
            (1_400, wish(2), 1, 900),
            (400, wish(2), 0, 250),
            (100, wish(2), 0, 0),
            (0, wish(0), 0, 0),
        ];
        for (room, wish, opens, left) in cases {
            let mut rest = Bitrate::from_kbps(room);
            let layers = unseen(wish, &mut rest);
            assert_eq!((layers.spatial, layers.temporal), (opens, u8::MAX), "{room} {wish:?}");
            assert_eq!(rest, Bitrate::from_kbps(left), "{room} {wish:?}");
        }
    }

    #[test]
    fn what_a_subscriber_can_be_put_on() {
        struct Case {
            name: &'static str,
            ladder: &'static [(u8, u8)],
            wish: (u8, u8),
            maintain_resolution: bool,
            expect: &'static [(u8, u8)],
        }
        const L2T3: &[(u8, u8)] = &[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
        const ALL: (u8, u8) = (u8::MAX, u8::MAX);
        let case = |name, ladder, wish, maintain_resolution, expect| Case {
            name,
            ladder,
            wish,
            maintain_resolution,
            expect,
        };
        let cases = [
            case("a camera", L2T3, ALL, false, &[(0, 0), (0, 1), (0, 2), (1, 2)]),
            case("a screen", L2T3, ALL, true, L2T3),
            case("a slow wish", L2T3, (9, 1), false, &[(0, 0), (0, 1), (1, 1)]),
            case("a small wish", L2T3, (0, 9), false, &[(0, 0), (0, 1), (0, 2)]),
            case(
                "the lowest stopped",
                &[(1, 0), (1, 1), (2, 0), (2, 1)],
                ALL,
                false,
                &[(1, 0), (1, 1), (2, 1)],
            ),
            case("no layers above", &[(0, 0), (0, 1)], ALL, false, &[(0, 0), (0, 1)]),
            case("all above the wish", &[(1, 0), (1, 1)], (0, 0), false, &[(1, 0)]),
            case("nothing", &[], ALL, false, &[]),
        ];
        for Case { name, ladder, wish, maintain_resolution, expect } in cases {
            let layers = |&(spatial, temporal)| Layers { spatial, temporal };
            let ladder: Vec<_> = ladder
                .iter()
                .map(|at| LadderStep {
                    layers: layers(at),
                    bitrate: Bitrate::ZERO,
                    frame_rate: FrameRate::ZERO,
                })
                .collect();
            let got: Vec<_> = steps(&ladder, layers(&wish), maintain_resolution)
                .map(|step| (step.layers.spatial, step.layers.temporal))
                .collect();
            assert_eq!(got, expect, "{name}");
        }
    }
}
