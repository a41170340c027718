//! Values by small numbers that stay theirs.

/// A list with places that are free. Unlike a slab, a place is found without a look at it: what is in it can be asked for before
/// its turn comes ([`crate::prefetch`]).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Slots<T> {
    places: Vec<Option<T>>,
    /// Numbers of empty places.
    free: Vec<usize>,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// Where the next value goes.
    pub(crate) fn vacant(&self) -> usize {
        self.free.last().copied().unwrap_or(self.places.len())
    }

    /// Puts a value in, and gives its number.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        let slot = self.vacant();
        match self.places.get_mut(slot) {
            Some(place) => {
                self.free.pop();
                *place = Some(value);
            }
            None => self.places.push(Some(value)),
        }
        slot
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, slot: usize) -> Option<T> {
        let value = self.places.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(value)
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&T> {
        self.places.get(slot)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.places.get_mut(slot)?.as_mut()
    }

    /// The place with this number, whatever is in it.
    #[inline(always)]
    pub(crate) fn place(&self, slot: usize) -> Option<&Option<T>> {
        self.places.get(slot)
    }

    /// One above the highest number in use, or more.
    pub(crate) fn end(&self) -> usize {
        self.places.len()
    }

    /// All of them, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.places.iter().enumerate().filter_map(|(slot, place)| Some((slot, place.as_ref()?)))
    }

    /// The same, to change them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(slot, place)| Some((slot, place.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_with_its_value_and_goes_to_the_next_one_afterwards() {
        let mut slots = Slots::new();
        assert_eq!([slots.insert('a'), slots.insert('b'), slots.insert('c')], [0, 1, 2]);
        assert_eq!((slots.remove(1), slots.remove(1), slots.remove(9)), (Some('b'), None, None));
        assert_eq!((slots.get(1), slots.get(2), slots.end()), (None, Some(&'c'), 3));
        assert_eq!(slots.place(1), Some(&None));
        assert_eq!((slots.vacant(), slots.insert('d'), slots.vacant()), (1, 1, 3));
        if let Some(value) = slots.get_mut(2) {
            *value = 'e';
        }
        for (_, value) in slots.iter_mut() {
            value.make_ascii_uppercase();
        }
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(0, &'A'), (1, &'D'), (2, &'E')]);
        assert_eq!(slots.insert('f'), 3);
    }
}
