//! Lists that are told again and again: each is filled anew once whoever was told let go of it, so that telling allocates
//! nothing after the first few times.

use std::sync::Arc;

/// Lists that are kept; what is told beside these costs an allocation.
const KEPT: usize = 64;

/// Lists of one kind.
#[derive(Debug)]
pub(super) struct Lists<T>(Vec<Arc<Vec<T>>>);

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Lists<T> {
    /// A list of these.
    pub(super) fn list(&mut self, items: impl Iterator<Item = T>) -> Arc<Vec<T>> {
        for kept in &mut self.0 {
            if let Some(list) = Arc::get_mut(kept) {
                list.clear();
                list.extend(items);
                return Arc::clone(kept);
            }
        }
        let list = Arc::new(items.collect());
        if self.0.len() < KEPT {
            self.0.push(Arc::clone(&list));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_filled_anew_when_nobody_has_it_any_more() {
        let mut lists = Lists::default();
        let first = lists.list(0..20);
        let second = lists.list(0..3);
        assert_eq!((first.len(), &**second), (20, [0, 1, 2].as_slice()));
        let place = (Arc::as_ptr(&first), first.as_ptr());
        drop(first);
        let third = lists.list(5..7);
        assert_eq!((Arc::as_ptr(&third), third.as_ptr()), place, "the same memory");
        assert_eq!(&**third, [5, 6]);
        let many: Vec<_> = (0..200).map(|n| lists.list(n..=n)).collect();
        assert_eq!((lists.0.len(), many[199][0], &**second), (KEPT, 199, [0, 1, 2].as_slice()));
    }
}
