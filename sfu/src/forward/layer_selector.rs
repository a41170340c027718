//! Which packets of a track a subscriber gets.

use super::layer_gate::{Gate, LayerGate};
use crate::{
    cache::{EncodingSet, FormatId, Layers, PacketMeta},
    rtp::MediaKind,
};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes to the subscriber, as the first one of a stream: after a pause, of another encoding, or of another
    /// stream in the same encoding.
    Open {
        /// Its marker bit.
        marker: bool,
    },
    /// It goes to the subscriber.
    Pass {
        /// Its marker bit: set where the layers above are left out.
        marker: bool,
    },
    /// Part of what the subscriber gets, left out by choice: its number is closed up.
    Skip,
    /// Nothing that the subscriber gets at the moment.
    Ignore,
}

/// Passes or drops the packets of one track for one subscriber.
///
/// Encodings are switched only at a keyframe of the one to come; until it is there, the old one passes on. The target
/// is the best encoding that is wanted and alive, so that a publisher who stops one is followed down, and up again.
/// Within an encoding that has layers, those up to what is wanted pass, from where they can be decoded on. Whoever
/// estimates bandwidth lowers what is wanted.
#[derive(Debug)]
#[repr(C)]
pub struct LayerSelector {
    state: State,
    wanted: Option<Layers>,
    kind: MediaKind,
    live: EncodingSet,
    /// Layers within the encoding that passes.
    gate: LayerGate,
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
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Switch {
    None,
    AtKeyframe(u8),
}

impl LayerSelector {
    /// Paused until something is wanted.
    pub fn new(kind: MediaKind) -> Self {
        Self {
            kind,
            wanted: None,
            live: EncodingSet::EMPTY,
            state: State::Paused,
            gate: LayerGate::default(),
        }
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

    /// The step of the track's ladder that passes: with one encoding its spatial layer, with several the encoding.
    pub fn current_layers(&self) -> Option<Layers> {
        let encoding = self.current()?;
        let target = self.gate.target().unwrap_or(Layers { spatial: 0, temporal: 0 });
        let several = self.live.highest().is_some_and(|highest| highest > 0) || encoding > 0;
        let spatial = if several { encoding } else { target.spatial };
        Some(Layers { spatial, temporal: target.temporal })
    }

    /// The layers within its encoding by which a packet of the current stream was decided; `None` where it has none.
    pub fn target_of(&self, meta: &PacketMeta) -> Option<Layers> {
        self.gate.target_at(meta.frame.layers?.frame)
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
    #[inline(always)]
    pub fn wants_keyframe(&self) -> Option<u8> {
        match self.state {
            _ if self.kind == MediaKind::Audio => None,
            State::Paused => None,
            State::Active { current, switch: Switch::None } => {
                self.gate.wants_keyframe(self.wanted?).then_some(current.encoding)
            }
            State::Starting { target }
            | State::Active { switch: Switch::AtKeyframe(target), .. } => Some(target),
        }
    }

    /// The encodings whose packets have an effect here.
    #[inline(always)]
    pub fn demanded(&self) -> EncodingSet {
        let none = EncodingSet::EMPTY;
        match self.state {
            State::Paused => none,
            State::Starting { target } => none.with(target),
            State::Active { current, switch: Switch::None } => none.with(current.encoding),
            State::Active { current, switch: Switch::AtKeyframe(target) } => {
                none.with(current.encoding).with(target)
            }
        }
    }

    /// Lets nothing more pass of an encoding that is to be left at a keyframe, rather than until then.
    pub fn abandon(&mut self) {
        if let State::Active { switch: Switch::AtKeyframe(target), .. } = self.state {
            self.state = State::Starting { target };
        }
    }

    /// Passes or drops a packet. A stream begins only where `is_news`: see [`super::RtpRewriter::is_news`].
    #[inline(always)]
    pub fn select(
        &mut self,
        meta: &PacketMeta,
        is_news: impl FnOnce(&PacketMeta) -> bool,
    ) -> Decision {
        if meta.padding {
            return self.select_padding(meta);
        }
        match self.state {
            State::Paused => Decision::Ignore,
            State::Starting { target } => self.select_starting(meta, target, is_news),
            State::Active { current, switch } => {
                if meta.encoding == current.encoding {
                    return self.select_current(meta, current, is_news);
                }
                if switch == Switch::AtKeyframe(meta.encoding) && self.opens(meta) && is_news(meta)
                {
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

    fn select_starting(
        &mut self,
        meta: &PacketMeta,
        target: u8,
        is_news: impl FnOnce(&PacketMeta) -> bool,
    ) -> Decision {
        let bound = self.wanted.map_or(0, |wanted| wanted.spatial);
        let fits = meta.encoding == target || meta.encoding <= bound;
        if !fits || !self.opens(meta) || !is_news(meta) {
            return Decision::Ignore;
        }
        self.enter(meta)
    }

    #[inline(always)]
    fn select_current(
        &mut self,
        meta: &PacketMeta,
        current: Current,
        is_news: impl FnOnce(&PacketMeta) -> bool,
    ) -> Decision {
        if meta.generation != current.generation || meta.format != current.format {
            return self.select_changed(meta, current, is_news(meta));
        }
        let Some(wanted) = self.wanted else { return Decision::Ignore };
        match self.gate.select(meta, wanted) {
            Gate::Pass { marker } => Decision::Pass { marker },
            Gate::Skip => Decision::Skip,
            Gate::Later => Decision::Ignore,
        }
    }

    /// Another stream took the encoding's place: its first frames may refer to what nobody has seen. What is left of the old one is
    /// of no use any more.
    #[cold]
    fn select_changed(&mut self, meta: &PacketMeta, current: Current, is_news: bool) -> Decision {
        // Audio may change its format from packet to packet (RED and not), on the same numbers.
        let same_numbers = self.kind == MediaKind::Audio && meta.generation == current.generation;
        if !is_news && !same_numbers {
            return Decision::Ignore;
        }
        if self.opens(meta) {
            let decision = self.enter(meta);
            return match decision {
                Decision::Open { marker } if same_numbers => Decision::Pass { marker },
                decision => decision,
            };
        }
        self.state = State::Starting { target: self.best().unwrap_or(meta.encoding) };
        Decision::Ignore
    }

    /// A subscriber can begin with this packet.
    fn opens(&self, meta: &PacketMeta) -> bool {
        self.kind == MediaKind::Audio || (meta.frame.start && meta.frame.keyframe)
    }

    fn enter(&mut self, meta: &PacketMeta) -> Decision {
        let current =
            Current { encoding: meta.encoding, generation: meta.generation, format: meta.format };
        self.state = State::Active { current, switch: Switch::None };
        self.aim();
        let wanted = self.wanted.unwrap_or(Layers { spatial: 0, temporal: 0 });
        self.gate.open(meta, wanted);
        match self.gate.select(meta, wanted) {
            Gate::Pass { marker } => Decision::Open { marker },
            // Not possible: a gate passes what it was opened with.
            Gate::Skip | Gate::Later => Decision::Ignore,
        }
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
