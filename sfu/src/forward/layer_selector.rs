//! Which packets of a track a subscriber gets.

use crate::{
    cache::{EncodingSet, FormatId, Layers, PacketMeta},
    rtp::MediaKind,
};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes to the subscriber, as the first one of a stream: after a pause, of another encoding, or of another
    /// stream in the same encoding.
    Open,
    /// It goes to the subscriber.
    Pass,
    /// Part of what the subscriber gets, left out by choice: its number is closed up.
    Skip,
    /// Nothing that the subscriber gets at the moment.
    Ignore,
}

/// Passes or drops the packets of one track for one subscriber.
///
/// Encodings are switched only at a keyframe of the one to come; until it is there, the old one passes on. The target
/// is the best encoding that is wanted and alive, so that a publisher who stops one is followed down, and up again.
/// Whoever estimates bandwidth lowers what is wanted.
#[derive(Debug)]
pub struct LayerSelector {
    kind: MediaKind,
    wanted: Option<Layers>,
    live: EncodingSet,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Paused,
    /// Nothing passed yet since the pause: whichever wanted encoding has a keyframe first is taken.
    Starting {
        target: u8,
    },
    Active {
        current: Current,
        switch: Switch,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Current {
    encoding: u8,
    generation: u8,
    format: FormatId,
    /// Highest temporal layer that passes.
    temporal: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Switch {
    None,
    AtKeyframe(u8),
}

impl LayerSelector {
    /// Paused until something is wanted.
    pub fn new(kind: MediaKind) -> Self {
        Self { kind, wanted: None, live: EncodingSet::EMPTY, state: State::Paused }
    }

    /// The highest layers to pass; `None` pauses.
    pub fn set_wanted(&mut self, wanted: Option<Layers>) {
        self.wanted = wanted;
        self.aim();
    }

    /// Which encodings of the track have packets at the moment.
    pub fn set_live(&mut self, live: EncodingSet) {
        if live != self.live {
            self.live = live;
            self.aim();
        }
    }

    /// What is wanted at most.
    pub fn wanted(&self) -> Option<Layers> {
        self.wanted
    }

    /// The encoding that passes.
    pub fn current(&self) -> Option<u8> {
        match self.state {
            State::Active { current, .. } => Some(current.encoding),
            State::Paused | State::Starting { .. } => None,
        }
    }

    /// The encoding that passes or will, at its next keyframe.
    pub fn target(&self) -> Option<u8> {
        match self.state {
            State::Paused => None,
            State::Starting { target }
            | State::Active { switch: Switch::AtKeyframe(target), .. } => Some(target),
            State::Active { current, switch: Switch::None } => Some(current.encoding),
        }
    }

    /// The encoding whose keyframe is waited for. Ask for it as often as you like: requests are merged at the
    /// publisher's side.
    pub fn wants_keyframe(&self) -> Option<u8> {
        match self.state {
            _ if self.kind == MediaKind::Audio => None,
            State::Paused | State::Active { switch: Switch::None, .. } => None,
            State::Starting { target }
            | State::Active { switch: Switch::AtKeyframe(target), .. } => Some(target),
        }
    }

    /// The encodings whose packets have an effect here.
    pub fn demanded(&self) -> EncodingSet {
        [self.current(), self.target()]
            .into_iter()
            .flatten()
            .fold(EncodingSet::EMPTY, EncodingSet::with)
    }

    /// Passes or drops a packet.
    pub fn select(&mut self, meta: &PacketMeta) -> Decision {
        if meta.padding {
            return self.select_padding(meta);
        }
        match self.state {
            State::Paused => Decision::Ignore,
            State::Starting { target } => self.select_starting(meta, target),
            State::Active { current, switch } => {
                if meta.encoding == current.encoding {
                    return self.select_current(meta, current);
                }
                if switch == Switch::AtKeyframe(meta.encoding) && self.opens(meta) {
                    return self.enter(meta);
                }
                Decision::Ignore
            }
        }
    }

    fn select_padding(&self, meta: &PacketMeta) -> Decision {
        match self.state {
            State::Active { current, .. }
                if meta.encoding == current.encoding && meta.generation == current.generation =>
            {
                Decision::Skip
            }
            _ => Decision::Ignore,
        }
    }

    fn select_starting(&mut self, meta: &PacketMeta, target: u8) -> Decision {
        let bound = self.wanted.map_or(0, |wanted| wanted.spatial);
        let fits = meta.encoding == target || meta.encoding <= bound;
        if !fits || !self.opens(meta) {
            return Decision::Ignore;
        }
        self.enter(meta)
    }

    fn select_current(&mut self, meta: &PacketMeta, mut current: Current) -> Decision {
        if meta.generation != current.generation || meta.format != current.format {
            // Another stream took the encoding's place: its first frames may refer to what nobody has seen. What is
            // left of the old one is of no use any more.
            let newer = meta.generation.wrapping_sub(current.generation) < 128;
            if !newer {
                return Decision::Ignore;
            }
            if self.opens(meta) {
                // Audio may change its format from packet to packet (RED and not), on the same numbers.
                let same_numbers =
                    self.kind == MediaKind::Audio && meta.generation == current.generation;
                let decision = self.enter(meta);
                return if same_numbers { Decision::Pass } else { decision };
            }
            self.state = State::Starting { target: self.best().unwrap_or(meta.encoding) };
            return Decision::Ignore;
        }
        let bound = self.wanted.map_or(0, |wanted| wanted.temporal);
        if meta.frame.start && bound != current.temporal {
            if bound < current.temporal || meta.frame.keyframe {
                current.temporal = bound;
            } else if (current.temporal + 1..=bound).contains(&meta.frame.temporal)
                && meta.frame.temporal_switch
            {
                current.temporal = meta.frame.temporal;
            }
            if let State::Active { current: kept, .. } = &mut self.state {
                *kept = current;
            }
        }
        if meta.frame.temporal > current.temporal { Decision::Skip } else { Decision::Pass }
    }

    /// A subscriber can begin with this packet.
    fn opens(&self, meta: &PacketMeta) -> bool {
        self.kind == MediaKind::Audio || (meta.frame.start && meta.frame.keyframe)
    }

    fn enter(&mut self, meta: &PacketMeta) -> Decision {
        let current = Current {
            encoding: meta.encoding,
            generation: meta.generation,
            format: meta.format,
            temporal: self.wanted.map_or(0, |wanted| wanted.temporal),
        };
        self.state = State::Active { current, switch: Switch::None };
        self.aim();
        Decision::Open
    }

    /// The encoding to have.
    fn best(&self) -> Option<u8> {
        let bound = self.wanted?.spatial;
        // Above the bound is better than nothing: a publisher without simulcast has one encoding for everybody.
        self.live.highest_up_to(bound).or(self.live.lowest())
    }

    /// Makes the state follow what is wanted and alive.
    fn aim(&mut self) {
        let Some(wanted) = self.wanted else {
            self.state = State::Paused;
            return;
        };
        match (&mut self.state, self.live.highest_up_to(wanted.spatial).or(self.live.lowest())) {
            (state @ (State::Paused | State::Starting { .. }), best) => {
                *state = State::Starting { target: best.unwrap_or(0) };
            }
            (State::Active { current, switch }, Some(best)) if best != current.encoding => {
                *switch = Switch::AtKeyframe(best);
            }
            (State::Active { switch, .. }, _) => *switch = Switch::None,
        }
    }
}

#[cfg(test)]
mod tests;
