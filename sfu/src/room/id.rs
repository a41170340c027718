//! Names that the control plane gave. In place up to 23 bytes, which those of rooms and peers are: an event's copy then counts no references, which
//! the control side, on another core, would count down again.

use std::fmt;

use smol_str::SmolStr;

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(SmolStr);

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

/// A shard of this node, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
