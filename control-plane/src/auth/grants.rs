use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use livekit_protocol::participant_info::Kind;
use livekit_token::{Claims, VideoGrants};

use super::{AuthError, Permissions};

/// Longest identity, bytes.
pub const MAX_IDENTITY: usize = 256;
/// Longest room name, bytes.
pub const MAX_ROOM_NAME: usize = 256;

/// What a verified token says.
#[derive(Clone, PartialEq, Debug)]
pub struct Grants {
    /// Key that signed it.
    pub api_key: String,
    /// `sub`
    pub identity: String,
    /// For people to read.
    pub name: String,
    /// Standard, agent, ...
    pub kind: Kind,
    /// Application data.
    pub metadata: String,
    /// Application data by key.
    pub attributes: HashMap<String, String>,
    /// The `video` claim.
    pub video: VideoGrants,
    /// `exp`
    pub expires_at: SystemTime,
}

impl Grants {
    /// Grants to join a room with every default, as development tokens have them.
    #[must_use]
    pub fn to_join(room: &str, identity: &str) -> Self {
        Self {
            api_key: String::new(),
            identity: identity.to_owned(),
            name: identity.to_owned(),
            kind: Kind::Standard,
            metadata: String::new(),
            attributes: HashMap::new(),
            video: VideoGrants {
                room_join: true,
                room: room.to_owned(),
                can_update_own_metadata: Some(true),
                ..VideoGrants::default()
            },
            expires_at: UNIX_EPOCH,
        }
    }

    pub(super) fn from_claims(claims: Claims) -> Self {
        let kind = match claims.kind.as_str() {
            _ if claims.video.agent => Kind::Agent,
            _ if claims.video.recorder => Kind::Egress,
            kind => Kind::from_str_name(&kind.to_ascii_uppercase()).unwrap_or(Kind::Standard),
        };
        let expires_in = Duration::from_secs(u64::try_from(claims.exp).unwrap_or(u64::MAX));
        Self {
            api_key: claims.iss,
            identity: claims.sub,
            name: claims.name,
            kind,
            metadata: claims.metadata,
            attributes: claims.attributes,
            video: claims.video,
            expires_at: UNIX_EPOCH.checked_add(expires_in).unwrap_or(UNIX_EPOCH),
        }
    }

    /// What the participant may do in its room.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let video = &self.video;
        Permissions {
            can_publish: video.can_publish(),
            can_subscribe: video.can_subscribe(),
            can_publish_data: video.can_publish_data(),
            can_publish_sources: video
                .can_publish_sources
                .iter()
                .map(|source| source.to_ascii_lowercase())
                .collect(),
            can_update_own_metadata: video.can_update_own_metadata(),
            hidden: video.hidden,
            recorder: video.recorder,
        }
    }

    /// The room that the token lets its holder join.
    pub fn join_room(&self) -> Result<&str, AuthError> {
        if !self.video.room_join {
            return Err(AuthError::MissingGrant("roomJoin"));
        }
        if self.video.room.is_empty() {
            return Err(AuthError::NoRoom);
        }
        if self.identity.is_empty() {
            return Err(AuthError::NoIdentity);
        }
        bounded("room name", &self.video.room, MAX_ROOM_NAME)?;
        bounded("identity", &self.identity, MAX_IDENTITY)?;
        Ok(&self.video.room)
    }

    /// Creating and deleting rooms.
    pub fn require_room_create(&self) -> Result<(), AuthError> {
        if self.video.room_create { Ok(()) } else { Err(AuthError::MissingGrant("roomCreate")) }
    }

    /// Listing rooms.
    pub fn require_room_list(&self) -> Result<(), AuthError> {
        if self.video.room_list { Ok(()) } else { Err(AuthError::MissingGrant("roomList")) }
    }

    /// Managing one room and its participants.
    pub fn require_room_admin(&self, room: &str) -> Result<(), AuthError> {
        if !self.video.room_admin {
            return Err(AuthError::MissingGrant("roomAdmin"));
        }
        if self.video.room == room { Ok(()) } else { Err(AuthError::OtherRoom) }
    }

    pub(super) fn to_claims(&self, api_key: &str, expires: u64, not_before: u64) -> Claims {
        let kind = match self.kind {
            Kind::Standard => String::new(),
            kind => kind.as_str_name().to_ascii_lowercase(),
        };
        Claims {
            exp: usize::try_from(expires).unwrap_or(usize::MAX),
            nbf: usize::try_from(not_before).unwrap_or(0),
            iss: api_key.to_owned(),
            sub: self.identity.clone(),
            name: self.name.clone(),
            kind,
            video: self.video.clone(),
            metadata: self.metadata.clone(),
            attributes: self.attributes.clone(),
            ..Claims::default()
        }
    }

    /// The same token with other permissions.
    pub(super) fn with_permissions(&self, permissions: &Permissions) -> Self {
        let mut grants = self.clone();
        let video = &mut grants.video;
        video.can_publish = Some(permissions.can_publish);
        video.can_subscribe = Some(permissions.can_subscribe);
        video.can_publish_data = Some(permissions.can_publish_data);
        video.can_publish_sources.clone_from(&permissions.can_publish_sources);
        video.can_update_own_metadata = Some(permissions.can_update_own_metadata);
        video.hidden = permissions.hidden;
        video.recorder = permissions.recorder;
        grants
    }
}

fn bounded(what: &'static str, text: &str, limit: usize) -> Result<(), AuthError> {
    if text.len() > limit { Err(AuthError::TooLong { what, limit }) } else { Ok(()) }
}
