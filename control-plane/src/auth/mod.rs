//! Keys, tokens, grants and permissions.
//!
//! A token is a JWT (HS256) with the claims of the wire protocol. [`Keys`] verifies and mints them, [`Grants`] is what
//! one says, [`Permissions`] what follows from it in a room.

mod error;
mod grants;
mod keys;

#[cfg(test)]
mod tests;

pub use error::AuthError;
pub use grants::{Grants, MAX_IDENTITY, MAX_ROOM_NAME};
pub use keys::{CLOCK_SKEW, KeyError, Keys, MIN_REFRESH_LIFE, token_of};
pub use livekit_token::VideoGrants;

/// What a participant may do in its room (defaults of the wire protocol: signalling.md section 14).
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Permissions {
    /// Publish tracks.
    pub can_publish: bool,
    /// Take tracks.
    pub can_subscribe: bool,
    /// Send data packets.
    pub can_publish_data: bool,
    /// Sources it may publish, as the token spells them ("camera", "microphone", ...); empty is all.
    pub can_publish_sources: Vec<String>,
    /// Change its own name, metadata and attributes.
    pub can_update_own_metadata: bool,
    /// Not shown to the others.
    pub hidden: bool,
    /// Records the room.
    pub recorder: bool,
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            can_publish: true,
            can_subscribe: true,
            can_publish_data: true,
            can_publish_sources: Vec::new(),
            can_update_own_metadata: false,
            hidden: false,
            recorder: false,
        }
    }
}
