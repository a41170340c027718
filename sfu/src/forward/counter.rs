//! Small counters of a payload or an extension across changes of their source.

/// A counter of `BITS` bits from which nothing is skipped: it only moves where streams change.
#[derive(Debug)]
pub(super) struct Counter<const BITS: u32> {
    offset: u16,
    /// Highest value given out.
    highest: Option<u16>,
}

impl<const BITS: u32> Counter<BITS> {
    const MASK: u16 = u16::MAX >> (u16::BITS - BITS);

    /// The first stream keeps its own numbers.
    pub(super) fn new<T: Into<u16>>(first: Option<T>) -> Self {
        Self { offset: 0, highest: first.map(Into::into) }
    }

    /// The next value given out follows the highest so far.
    pub(super) fn start<T: Into<u16>>(&mut self, first: Option<T>) {
        let Some(first) = first.map(Into::into) else { return };
        let next = self.highest.map_or(first, |highest| highest.wrapping_add(1));
        self.offset = next.wrapping_sub(first) & Self::MASK;
        self.highest = Some(next & Self::MASK);
    }

    pub(super) fn map<T: Into<u16> + TryFrom<u16> + Default>(&mut self, value: T) -> T {
        let out = value.into().wrapping_add(self.offset) & Self::MASK;
        let ahead = self.highest.is_none_or(|highest| {
            (1..=Self::MASK / 2).contains(&(out.wrapping_sub(highest) & Self::MASK))
        });
        if ahead {
            self.highest = Some(out);
        }
        T::try_from(out).unwrap_or_default()
    }
}
