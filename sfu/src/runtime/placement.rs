//! Which shard a new peer goes to.

use crate::config::Placement;

/// A room leaves its home shard when that has so many more peers than another. A smaller figure balances better, a larger
/// one relays less: one relayed packet costs about as much as one subscriber more.
const SPREAD: usize = 50;

/// The rule, with what it has to remember.
#[derive(Debug)]
pub(crate) struct Placer {
    rule: Placement,
    next: usize,
}

impl Placer {
    /// A rule without a past.
    pub(crate) fn new(rule: Placement) -> Self {
        Self { rule, next: 0 }
    }

    /// The shard of a new peer, given the peers on each shard and where its room began.
    pub(crate) fn place(&mut self, loads: &[usize], home: Option<usize>) -> usize {
        match self.rule {
            Placement::RoundRobin => {
                let shard = self.next % loads.len().max(1);
                self.next = shard + 1;
                shard
            }
            Placement::Home => {
                let least = loads.iter().enumerate().min_by_key(|(_, load)| **load);
                let Some((least, least_load)) = least else { return 0 };
                let at_home = home.and_then(|home| Some((home, *loads.get(home)?)));
                match at_home {
                    Some((home, load)) if load <= least_load + SPREAD => home,
                    _ => least,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_stays_together_until_its_shard_is_full() {
        let mut placer = Placer::new(Placement::Home);
        assert_eq!(placer.place(&[3, 1, 2], None), 1, "a new room goes where there is room");
        assert_eq!(placer.place(&[3, 1, 2], Some(0)), 0);
        assert_eq!(placer.place(&[SPREAD, 0], Some(0)), 0);
        assert_eq!(placer.place(&[SPREAD + 1, 0], Some(0)), 1, "it spreads");
        assert_eq!(placer.place(&[5], Some(7)), 0, "a home that is not there");
    }

    #[test]
    fn round_robin_uses_all() {
        let mut placer = Placer::new(Placement::RoundRobin);
        let placed: Vec<_> = (0..5).map(|_| placer.place(&[0, 0], Some(0))).collect();
        assert_eq!(placed, [0, 1, 0, 1, 0]);
    }
}
