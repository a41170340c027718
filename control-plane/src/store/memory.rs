//! The store of a single control plane.

use std::time::{SystemTime, UNIX_EPOCH};

use dashmap::DashMap;

use super::{Lease, Store, StoreFuture};

/// Ownership in this process's memory. Epochs follow the wall clock, so that they grow over a restart.
#[derive(Debug, Default)]
pub struct MemoryStore {
    epochs: DashMap<String, u64>,
}

impl Store for MemoryStore {
    fn claim<'a>(&'a self, room_sid: &'a str, above: u64) -> StoreFuture<'a, Lease> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut last = self.epochs.entry(room_sid.to_owned()).or_insert(0);
        let epoch = now.max(last.saturating_add(1)).max(above.saturating_add(1));
        *last = epoch;
        drop(last);
        Box::pin(async move { Ok(Lease { epoch }) })
    }

    fn release<'a>(&'a self, room_sid: &'a str) -> StoreFuture<'a, ()> {
        self.epochs.remove(room_sid);
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn epochs_grow_with_each_claim_and_above_the_nodes() {
        let store = MemoryStore::default();
        let first = store.claim("RM_a", 0).await.unwrap();
        let second = store.claim("RM_a", 0).await.unwrap();
        assert!(second.epoch > first.epoch);
        let ahead = second.epoch + 1_000_000_000;
        assert!(store.claim("RM_a", ahead).await.unwrap().epoch > ahead);
    }
}
