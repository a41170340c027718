//! Names that the control plane gave.

use std::{fmt, sync::Arc};

use crate::prefetch::prefetch;

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the id as the control plane spelled it.
            pub fn new(text: &str) -> Self {
                Self(text.into())
            }

            /// As the control plane spelled it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

opaque_id! {
    /// A room, unique on the node. Opaque.
    RoomId
}

opaque_id! {
    /// A peer, unique in its room. Opaque.
    PeerId
}

impl PeerId {
    /// What cloning it counts in lies before the text, mostly in the same line.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        if let Some(text) = self.0.as_bytes().first() {
            prefetch(text);
        }
    }
}

/// A shard of this node, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
