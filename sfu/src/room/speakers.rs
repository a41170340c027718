//! Who speaks in a room: the dominant speaker, and everybody who is heard.
//!
//! The election follows Volfin and Cohen, "Dominant speaker identification for multipoint videoconferencing" (2012), with
//! the parameters in use in the field: a speaker takes over when it beats the dominant one in the immediate (C1), the
//! medium (C2) and the long (C3) term at once. Differences: levels come in slots of 20 ms by arrival, not by packet; the
//! logarithms of activity scores are tables, so that all is integer arithmetic.
//!
//! Who is heard at all is decided apart: louder than [`HEARD`] for part of the last 400 ms.

use super::RouteKey;

/// What one slot of a [`LevelWindow`] stands for: the packet time of most senders.
pub const SLOT_MS: u64 = 20;

/// Levels of one track over a short time, in slots of 20 ms, oldest first. In -dBov (RFC 6464): 0 is loudest, 127 silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LevelWindow {
    len: u8,
    slots: [u8; Self::MAX],
}

impl LevelWindow {
    /// Slots of one window: 400 ms, a little more than the time between elections.
    pub const MAX: usize = 20;

    /// So many slots of silence, at most [`Self::MAX`].
    pub fn silent(len: usize) -> Self {
        Self { len: len.min(Self::MAX) as u8, slots: [SILENCE; Self::MAX] }
    }

    /// A packet of this level stands for these slots; what is beyond the window counts for its last. The loudest of a
    /// slot stays.
    pub fn note(&mut self, from: usize, to: usize, level: u8) {
        let to = to.min(Self::MAX - 1);
        for place in &mut self.slots[from.min(to)..=to] {
            *place = (*place).min(level);
        }
    }

    /// The same with another length, at most [`Self::MAX`].
    pub fn with_len(self, len: usize) -> Self {
        Self { len: len.min(Self::MAX) as u8, ..self }
    }

    /// Its slots.
    pub fn levels(&self) -> &[u8] {
        &self.slots[..usize::from(self.len)]
    }
}

const SILENCE: u8 = 127;

/// Slots that count: one second.
const LEVELS: usize = 50;
/// Values of an immediate, slots of a medium, mediums of a long (N1, N2, N3).
const N1: usize = 13;
const N2: usize = 5;
const N3: usize = 10;
/// Levels that make one immediate step.
const N1_STEP: u8 = 10;
/// An immediate above this counts for its medium, a medium above this for its long.
const MEDIUM_THRESHOLD: u8 = 7;
const LONG_THRESHOLD: u8 = 4;
/// By how much a challenger must beat the dominant speaker, 1/1024 of the logarithm: C1 = 3, C2 = 2, C3 = 0.
const C1: i32 = 3 << 10;
const C2: i32 = 2 << 10;
const C3: i32 = 0;

/// ln(score(v)) * 1024 with score(v) = ln C(n, v) + n ln(1/2) - ln l + l v, at least 1e-10; l = 0.78, 24, 47.
const IMMEDIATE: [i32; N1 + 1] =
    [-23578, -23578, -23578, -23578, -74, 852, 1243, 1456, 1571, 1613, 1583, 1463, 1179, 328];
const MEDIUM: [i32; N2 + 1] = [-23578, 3013, 3867, 4316, 4619, 4844];
const LONG: [i32; N3 + 1] = [-23578, 3739, 4573, 5023, 5332, 5567, 5757, 5916, 6053, 6172, 6277];

/// Slots after which the background level is looked at anew: 15 s.
const BACKGROUND_WINDOW: u16 = 750;

/// Louder than -35 dBov is speech rather than background; as other servers of the protocol have it.
const HEARD: u8 = SILENCE - 35;
/// Slots that decide who is heard: 400 ms.
const HEARD_SLOTS: usize = 20;
/// Loud slots of these that begin speech, and that let it go on: 40 % and 15 %.
const HEARD_FROM: usize = 8;
const HEARD_WHILE: usize = 3;

/// Most speakers that are told: nobody watches more rings.
const MAX_TOLD: usize = 20;
/// A level that moved by so many steps of 3 dB is told again.
const TOLD_STEPS: u32 = 2;
/// Elections without any word of a track, after which it counts as silent: another shard's levels may come late once.
const PATIENCE: u8 = 2;
/// Slots between two elections.
const ELECTION_SLOTS: usize = 15;

/// One who is heard now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Speaking {
    /// Its track.
    pub(crate) route: RouteKey,
    /// Linear amplitude, smoothed: 65,535 is as loud as can be.
    pub(crate) level: u16,
    /// It leads the conversation.
    pub(crate) dominant: bool,
}

/// The audio tracks of a room.
#[derive(Debug, Default)]
pub(crate) struct Speakers {
    voices: Vec<Voice>,
    dominant: Option<RouteKey>,
    /// As told last; meaningless before the first election.
    told: Vec<Speaking>,
    /// Something was told: without, an election by another shard may stand.
    has_told: bool,
    /// For the next election.
    spare: Vec<Speaking>,
}

impl Speakers {
    /// No track is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.voices.is_empty()
    }

    /// The tracks in order of publication.
    pub(crate) fn route_at(&self, index: usize) -> Option<RouteKey> {
        self.voices.get(index).map(|voice| voice.route)
    }

    /// An audio track is published.
    pub(crate) fn add(&mut self, route: RouteKey) {
        if self.voices.iter().all(|known| known.route != route) {
            self.voices.push(Voice::new(route));
        }
    }

    /// It is gone. Who spoke on it is told silent by the next election.
    pub(crate) fn remove(&mut self, route: RouteKey) {
        self.voices.retain(|voice| voice.route != route);
        if self.dominant == Some(route) {
            self.dominant = None;
        }
    }

    /// How loud a track was.
    pub(crate) fn feed(&mut self, route: RouteKey, window: &LevelWindow) {
        if let Some(voice) = self.voices.iter_mut().find(|voice| voice.route == route) {
            voice.feed(window);
            voice.unheard = 0;
        }
    }

    /// Elects; true where [`Self::speaking`] is not what it was, and the first time.
    pub(crate) fn elect(&mut self) -> bool {
        for voice in &mut self.voices {
            voice.unheard = voice.unheard.saturating_add(1);
            if voice.unheard > PATIENCE {
                voice.feed(&LevelWindow::silent(ELECTION_SLOTS));
            }
            voice.evaluate();
        }
        self.challenge();
        let mut now = std::mem::take(&mut self.spare);
        now.clear();
        now.extend(self.voices.iter().filter(|voice| voice.heard).map(|voice| Speaking {
            route: voice.route,
            level: voice.level,
            dominant: self.dominant == Some(voice.route),
        }));
        now.sort_unstable_by_key(|one| (!one.dominant, std::cmp::Reverse(one.level), one.route));
        now.truncate(MAX_TOLD);
        let same = |told: &Speaking| {
            now.iter().any(|one| {
                let steps = step(one.level).abs_diff(step(told.level));
                one.route == told.route && one.dominant == told.dominant && steps < TOLD_STEPS
            })
        };
        let changed = !self.has_told || now.len() != self.told.len() || !self.told.iter().all(same);
        self.has_told = true;
        self.spare = if changed { std::mem::replace(&mut self.told, now) } else { now };
        changed
    }

    /// Who is heard, the dominant speaker first, then the loudest.
    pub(crate) fn speaking(&self) -> &[Speaking] {
        &self.told
    }

    /// Another shard elects from now on.
    pub(crate) fn forget(&mut self) {
        self.dominant = None;
        self.has_told = false;
    }

    fn challenge(&mut self) {
        let leader = self.voices.iter().find(|voice| Some(voice.route) == self.dominant);
        let Some(leader) = leader else {
            // The first one: whoever was heard most of late.
            let heard = self.voices.iter().filter(|voice| voice.heard);
            let first = heard.max_by_key(|voice| (voice.medium, voice.long, voice.level));
            self.dominant = first.map(|voice| voice.route);
            return;
        };
        let beats = |voice: &&Voice| {
            voice.heard
                && voice.immediate - leader.immediate > C1
                && voice.medium - leader.medium > C2
                && voice.long - leader.long > C3
        };
        let challengers = self.voices.iter().filter(beats);
        if let Some(voice) = challengers.max_by_key(|voice| voice.medium) {
            self.dominant = Some(voice.route);
        }
    }
}

/// 3 dB steps of an amplitude.
fn step(level: u16) -> u32 {
    (u32::from(level) * u32::from(level)).checked_ilog2().unwrap_or(0)
}

#[derive(Debug)]
struct Voice {
    route: RouteKey,
    /// Loudness, 0 silent .. 127 loudest, newest first.
    levels: [u8; LEVELS],
    /// The background, and its next estimate with the slots it comes from.
    background: u8,
    next_background: u8,
    background_slots: u16,
    immediate: i32,
    medium: i32,
    long: i32,
    heard: bool,
    level: u16,
    /// Elections since the last word.
    unheard: u8,
}

impl Voice {
    fn new(route: RouteKey) -> Self {
        Self {
            route,
            levels: [0; LEVELS],
            background: 0,
            next_background: u8::MAX,
            background_slots: 0,
            immediate: IMMEDIATE[0],
            medium: MEDIUM[0],
            long: LONG[0],
            heard: false,
            level: 0,
            unheard: 0,
        }
    }

    fn feed(&mut self, window: &LevelWindow) {
        for level in window.levels() {
            self.levels.copy_within(..LEVELS - 1, 1);
            self.levels[0] = SILENCE - (*level).min(SILENCE);
            self.learn_background(self.levels[0]);
        }
    }

    /// The quietest sound of the last 15 s or so; silence says nothing of a room's noise.
    fn learn_background(&mut self, level: u8) {
        if level == 0 {
            return;
        }
        if self.background == 0 || level < self.background {
            self.background = level;
            (self.next_background, self.background_slots) = (u8::MAX, 0);
            return;
        }
        self.next_background = self.next_background.min(level);
        self.background_slots += 1;
        if self.background_slots >= BACKGROUND_WINDOW {
            let product = u32::from(self.background) * u32::from(self.next_background);
            self.background = product.isqrt().min(u32::from(SILENCE)) as u8;
            (self.next_background, self.background_slots) = (u8::MAX, 0);
        }
    }

    fn evaluate(&mut self) {
        let floor = self.background.saturating_add(N1_STEP);
        let immediate = |level: u8| if level < floor { 0 } else { (level / N1_STEP).min(N1 as u8) };
        let above = |threshold: u8| move |value: &u8| *value > threshold;
        let mut mediums = [0_u8; N3];
        for (medium, levels) in mediums.iter_mut().zip(self.levels.chunks(N2)) {
            let immediates = levels.iter().map(|level| immediate(*level));
            *medium = immediates.filter(above(MEDIUM_THRESHOLD)).count() as u8;
        }
        let long = mediums.iter().copied().filter(above(LONG_THRESHOLD)).count();
        self.immediate = IMMEDIATE[usize::from(immediate(self.levels[0]))];
        self.medium = MEDIUM[usize::from(mediums[0])];
        self.long = LONG[long];

        let recent = &self.levels[..HEARD_SLOTS];
        let loud = recent.iter().filter(|level| **level >= HEARD).count();
        self.heard = loud >= if self.heard { HEARD_WHILE } else { HEARD_FROM };
        let sum: u32 = recent.iter().map(|level| u32::from(AMPLITUDE[usize::from(*level)])).sum();
        let mean = sum / HEARD_SLOTS as u32;
        self.level = (u32::from(self.level).midpoint(mean)) as u16;
    }
}

/// Linear amplitude of a loudness: 65,535 * 10^((loudness - 127) / 20).
const AMPLITUDE: [u16; 128] = {
    /// 10^(-1/20) * 2^32.
    const DECIBEL: u64 = 3_827_893_632;
    let mut table = [0; 128];
    let mut amplitude: u64 = 65_535 << 16;
    let mut loudness = 127;
    while loudness > 0 {
        table[loudness] = (amplitude >> 16) as u16;
        amplitude = (amplitude * DECIBEL) >> 32;
        loudness -= 1;
    }
    table
};

#[cfg(test)]
mod tests;
