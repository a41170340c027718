//! How good a participant's connection is: a score from what its node measures, and a level that others are told.
//! `docs/quality.md` says where the numbers come from.

use std::collections::HashMap;

use chappe_proto::node::v1 as node;
use livekit_protocol::{self as proto, ConnectionQuality as Level};

use super::RoomState;
use crate::room::types::*;

/// Nothing was heard for so long: the connection is lost, whatever was said before. Who has no media to send is heard by
/// its checks of consent, each 4 to 6 s (RFC 7675 section 5.1).
const LOST_AFTER_MS: u32 = 8_000;
/// Evaluations in a row that lower a level, and that raise it: bad news travels faster.
const LOWER_AFTER: u8 = 2;
const RAISE_AFTER: u8 = 3;
/// Ratings of the E-model above which users are satisfied, and below which most are not (ITU-T G.107 annex B).
const EXCELLENT_FROM: f64 = 80.0;
const GOOD_FROM: f64 = 60.0;
/// What there is without delay and loss (G.107 with default values).
const BEST: f64 = 93.2;
/// Coding, packets and a small buffer, ms.
const FIXED_DELAY: f64 = 40.0;
/// Rating lost where none of the wanted layers arrives.
const LAYERS_WEIGHT: f64 = 40.0;

/// Rating of a path, 0 to 93.2: the simplified E-model of Cole and Rosenbluth (2001), and a share for missing layers.
fn rating(stats: &node::PeerStats) -> f64 {
    let loss_of = |side: &Option<node::DirectionStats>| {
        side.as_ref().and_then(|side| side.loss_permille).unwrap_or(0)
    };
    let jitter_of =
        |side: &Option<node::DirectionStats>| side.as_ref().map_or(0, |side| side.jitter_us);
    // Either direction spoils a conversation.
    let loss = f64::from(loss_of(&stats.ingress).max(loss_of(&stats.egress))) / 1_000.0;
    let jitter = f64::from(jitter_of(&stats.ingress).max(jitter_of(&stats.egress))) / 1_000.0;
    let delay = f64::from(stats.rtt_us.unwrap_or(0)) / 2_000.0 + 2.0 * jitter + FIXED_DELAY;
    let by_delay = 0.024 * delay + 0.11 * (delay - 177.3).max(0.0);
    let by_loss = 30.0 * (1.0 + 15.0 * loss.min(1.0)).ln();
    let by_layers = match stats.layers_wanted {
        0 => 0.0,
        wanted => {
            let given = f64::from(stats.layers_given.min(wanted)) / f64::from(wanted);
            LAYERS_WEIGHT * (1.0 - given)
        }
    };
    (BEST - by_delay - by_loss - by_layers).max(0.0)
}

/// Mean opinion score, 1 to 4.4 (G.107 annex B), as the wire protocol's clients show it.
fn opinion(rating: f64) -> f32 {
    let score = 1.0 + 0.035 * rating + rating * (rating - 60.0) * (100.0 - rating) * 7e-6;
    score.clamp(1.0, 4.5) as f32
}

fn level_of(rating: f64) -> Level {
    match rating {
        _ if rating >= EXCELLENT_FROM => Level::Excellent,
        _ if rating >= GOOD_FROM => Level::Good,
        _ => Level::Poor,
    }
}

/// From bad to good; the wire's numbers are not in this order.
fn rank(level: Level) -> u8 {
    match level {
        Level::Lost => 0,
        Level::Poor => 1,
        Level::Good => 2,
        Level::Excellent => 3,
    }
}

/// One participant's connection. It may have two peers: the worse counts.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Connection {
    /// Ratings by peer; `None` is lost.
    ratings: HashMap<PeerRole, Option<f64>>,
    /// As others are told.
    level: Option<Level>,
    score: f32,
    /// Evaluations in a row that said better, or worse.
    better: u8,
    worse: u8,
}

impl Connection {
    /// True where others have to be told.
    fn update(&mut self, role: PeerRole, stats: &node::PeerStats) -> bool {
        let lost = stats.silent_ms >= LOST_AFTER_MS;
        self.ratings.insert(role, (!lost).then(|| rating(stats)));
        let ratings: Option<Vec<f64>> = self.ratings.values().copied().collect();
        let worst = ratings.map(|all| all.into_iter().fold(BEST, f64::min));
        let level = worst.map_or(Level::Lost, level_of);
        self.score = worst.map_or(1.0, opinion);
        let Some(told) = self.level else {
            self.level = Some(level);
            return true;
        };
        self.better = if rank(level) > rank(told) { self.better + 1 } else { 0 };
        self.worse = if rank(level) < rank(told) { self.worse + 1 } else { 0 };
        let settled = level == Level::Lost && told != Level::Lost
            || told == Level::Lost && level != Level::Lost
            || self.worse >= LOWER_AFTER
            || self.better >= RAISE_AFTER;
        if settled {
            self.level = Some(level);
            (self.better, self.worse) = (0, 0);
        }
        settled
    }

    /// As others are told; `None` before anything was measured.
    pub(super) fn info(&self, sid: &ParticipantSid) -> Option<proto::ConnectionQualityInfo> {
        let quality = self.level? as i32;
        Some(proto::ConnectionQualityInfo {
            participant_sid: sid.to_string(),
            quality,
            score: self.score,
        })
    }
}

impl RoomState {
    /// A node measured the path of one of a participant's peers.
    pub(in crate::room) fn path_stats(
        &mut self,
        sid: &ParticipantSid,
        role: PeerRole,
        stats: &node::PeerStats,
    ) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if !participant.connection.update(role, stats) {
            return;
        }
        let Some(participant) = self.participants.get(sid) else { return };
        if !participant.permissions.hidden && !self.is_one_of_a_crowd(participant) {
            self.quality_changed(sid);
        } else if let Some(info) = participant.connection.info(sid) {
            let update = proto::ConnectionQualityUpdate { updates: vec![info] };
            self.tell(sid, RoomEvent::ConnectionQuality(update));
        }
    }

    /// What is known of a participant without asking its node.
    pub(in crate::room) fn report(&self, identity: &str) -> Option<ParticipantReport> {
        let participant = self.participants.get(&self.sid_of(identity)?)?;
        let publishers = self
            .participants
            .values()
            .flat_map(|one| one.tracks.keys().map(|track| (track.clone(), one.identity.clone())));
        let Connection { level, score, .. } = participant.connection;
        Some(ParticipantReport {
            sid: participant.sid.clone(),
            quality: level,
            score,
            peers: Vec::new(),
            publishers: publishers.collect(),
        })
    }

    /// Participants by level, those of whom nothing is known left out: lost, poor, good, excellent.
    pub(in crate::room) fn levels(&self) -> [usize; 4] {
        let mut levels = [0; 4];
        for level in self.participants.values().filter_map(|one| one.connection.level) {
            levels[usize::from(rank(level))] += 1;
        }
        levels
    }

    /// Tells a participant who is new here, or was away, how the others are connected.
    pub(super) fn tell_qualities(&mut self, to: &ParticipantSid) {
        let shown = self.participants.values().filter(|one| {
            one.sid == *to || !one.permissions.hidden && !self.is_one_of_a_crowd(one)
        });
        let updates: Vec<_> = shown.filter_map(|one| one.connection.info(&one.sid)).collect();
        if !updates.is_empty() {
            let update = proto::ConnectionQualityUpdate { updates };
            self.tell(to, RoomEvent::ConnectionQuality(update));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(rtt_ms: u32, loss: u32, jitter_ms: u32) -> node::PeerStats {
        let side = node::DirectionStats { loss_permille: Some(loss), jitter_us: jitter_ms * 1_000 };
        node::PeerStats {
            rtt_us: Some(rtt_ms * 1_000),
            ingress: Some(node::DirectionStats::default()),
            egress: Some(side),
            ..Default::default()
        }
    }

    #[test]
    fn paths_and_what_people_think_of_them() {
        struct Case {
            name: &'static str,
            stats: node::PeerStats,
            level: Level,
        }
        let layers = |given, wanted| node::PeerStats {
            layers_given: given,
            layers_wanted: wanted,
            ..stats(30, 0, 2)
        };
        let cases = [
            Case { name: "a local network", stats: stats(2, 0, 1), level: Level::Excellent },
            Case { name: "an ocean", stats: stats(150, 5, 5), level: Level::Excellent },
            Case { name: "some loss", stats: stats(60, 40, 10), level: Level::Good },
            Case { name: "much loss", stats: stats(60, 150, 10), level: Level::Poor },
            Case { name: "a satellite", stats: stats(620, 0, 10), level: Level::Good },
            Case { name: "late and lossy", stats: stats(620, 50, 30), level: Level::Poor },
            Case { name: "nothing measured", stats: Default::default(), level: Level::Excellent },
            Case { name: "all layers", stats: layers(6, 6), level: Level::Excellent },
            Case { name: "half of the layers", stats: layers(3, 6), level: Level::Good },
            Case { name: "hardly a picture", stats: layers(0, 6), level: Level::Poor },
        ];
        for case in cases {
            let rating = rating(&case.stats);
            assert_eq!(level_of(rating), case.level, "{}: {rating}", case.name);
        }
        assert!((opinion(BEST) - 4.41).abs() < 0.01 && opinion(0.0) == 1.0);
    }

    #[test]
    fn levels_fall_soon_and_rise_late() {
        let (good, bad) = (stats(10, 0, 1), stats(60, 150, 10));
        let silent = node::PeerStats { silent_ms: 9_000, ..good.clone() };
        let mut connection = Connection::default();
        let steps = [
            ("the first", &good, true, Level::Excellent),
            ("a moment of loss", &bad, false, Level::Excellent),
            ("is over", &good, false, Level::Excellent),
            ("loss", &bad, false, Level::Excellent),
            ("that stays", &bad, true, Level::Poor),
            ("better", &good, false, Level::Poor),
            ("still", &good, false, Level::Poor),
            ("for good", &good, true, Level::Excellent),
            ("silence", &silent, true, Level::Lost),
            ("goes on", &silent, false, Level::Lost),
            ("and ends", &bad, true, Level::Poor),
        ];
        for (name, stats, told, level) in steps {
            assert_eq!(connection.update(PeerRole::Single, stats), told, "{name}");
            assert_eq!(connection.level, Some(level), "{name}");
        }
    }

    #[test]
    fn the_worse_of_two_peers_counts() {
        let mut connection = Connection::default();
        let bad = stats(60, 150, 10);
        assert!(connection.update(PeerRole::Publisher, &stats(10, 0, 1)));
        assert!(!connection.update(PeerRole::Subscriber, &bad));
        assert!(connection.update(PeerRole::Publisher, &stats(10, 0, 1)));
        assert_eq!(connection.level, Some(Level::Poor));
    }
}
