//! The payload formats that a track was seen in.

use crate::rtp::Codec;

/// Which of a track's [`Formats`] a payload is in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FormatId(pub u8);

/// The payload formats of one track, in the order in which they were first seen. Only ever grows: a packet in a
/// cache or on a relay keeps its meaning.
#[derive(Clone, Debug, Default)]
pub struct Formats {
    codecs: Vec<Codec>,
}

impl Formats {
    /// A track changes its format rarely; more than this is no use of a track.
    pub const MAX: usize = 16;

    /// The id of `codec`, given now if it has none; `None` when the table is full.
    pub fn intern(&mut self, codec: &Codec) -> Option<FormatId> {
        let known = self.codecs.iter().position(|seen| {
            // The publisher's own payload types do not matter to its subscribers, but RED has to name its blocks.
            seen.same_format(codec) && seen.red_block == codec.red_block
        });
        let index = match known {
            Some(index) => index,
            None if self.codecs.len() < Self::MAX => {
                self.codecs.push(codec.clone());
                self.codecs.len() - 1
            }
            None => return None,
        };
        Some(FormatId(index as u8))
    }

    /// What `id` stands for.
    pub fn get(&self, id: FormatId) -> Option<&Codec> {
        self.codecs.get(usize::from(id.0))
    }

    /// How many there are: a change tells that a new one was seen.
    pub fn len(&self) -> usize {
        self.codecs.len()
    }

    /// No packet was seen yet.
    pub fn is_empty(&self) -> bool {
        self.codecs.is_empty()
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = (FormatId, &Codec)> {
        self.codecs.iter().enumerate().map(|(index, codec)| (FormatId(index as u8), codec))
    }
}
