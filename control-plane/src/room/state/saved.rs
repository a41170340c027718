//! The room as it outlives the control plane: bytes that the media node keeps and never reads.

use std::io::{Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Now, RESUME_WITHIN, RoomState,
    participant::{Participant, Stage},
};
use crate::room::types::RoomOptions;

/// What the node takes (node.proto, ApplyRoomRequest).
pub(in crate::room) const MAX_SAVED: usize = 1 << 20;
/// Inflated bytes that are believed to be a room.
const MAX_INFLATED: u64 = 256 << 20;
/// Added to versions at a rebuild: changes that were told but not saved must not look newer than what is told next.
const VERSION_LEAP: u32 = 1_000;

/// Changed with every incompatible change: a newer control plane does not guess.
const FORMAT: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    sid: String,
    name: String,
    metadata: String,
    max_participants: u32,
    empty_timeout_ms: u64,
    departure_timeout_ms: u64,
    created_ms: i64,
    participants: Vec<Participant>,
}

/// Why saved bytes are no room.
#[derive(Debug, thiserror::Error)]
pub(in crate::room) enum SavedError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("is no room: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("has format {0}, this server knows {FORMAT}")]
    Format(u32),
}

impl RoomState {
    /// Deflated JSON: attributes and metadata may be large, and compress well.
    pub(in crate::room) fn save(&self) -> Result<Vec<u8>, SavedError> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let saved = Saved {
            format: FORMAT,
            sid: self.sid.clone(),
            name: self.name.clone(),
            metadata: self.options.metadata.clone(),
            max_participants: self.options.max_participants,
            empty_timeout_ms: milliseconds(self.options.empty_timeout),
            departure_timeout_ms: milliseconds(self.options.departure_timeout),
            created_ms: self.created_ms,
            participants: self.participants.values().cloned().collect(),
        };
        let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        serde_json::to_writer(&mut writer, &saved)?;
        writer.flush()?;
        Ok(writer.finish()?)
    }

    /// Rebuilds a room. Everybody is without signalling and may resume; whose peers the node has not, goes when the
    /// caller says so.
    pub(in crate::room) fn restore(bytes: &[u8], now: Now) -> Result<Self, SavedError> {
        let reader = flate2::read::ZlibDecoder::new(bytes).take(MAX_INFLATED);
        let value: serde_json::Value = serde_json::from_reader(reader)?;
        let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format != u64::from(FORMAT) {
            return Err(SavedError::Format(u32::try_from(format).unwrap_or(u32::MAX)));
        }
        let saved: Saved = serde_json::from_value(value)?;
        let options = RoomOptions {
            metadata: saved.metadata,
            max_participants: saved.max_participants,
            empty_timeout: Duration::from_millis(saved.empty_timeout_ms),
            departure_timeout: Duration::from_millis(saved.departure_timeout_ms),
        };
        let mut state = Self::new(saved.sid, saved.name, options, now);
        state.created_ms = saved.created_ms;
        for mut participant in saved.participants {
            participant.attached = false;
            participant.version = participant.version.saturating_add(VERSION_LEAP);
            participant.resume_by = Some(now.mono + RESUME_WITHIN);
            state.by_identity.insert(participant.identity.clone(), participant.sid.clone());
            state.participants.insert(participant.sid.clone(), participant);
        }
        if !state.participants.is_empty() {
            state.end_at = None;
        }
        state.settle_all();
        state.effects.clear();
        Ok(state)
    }

    /// Those whose media was connected or not when the room was saved; the caller knows which peers are still there.
    pub(in crate::room) fn restored_participants(
        &self,
    ) -> Vec<(crate::room::ParticipantSid, crate::room::PeerRole)> {
        let all = self.participants.values();
        all.map(|own| (own.sid.clone(), own.primary_peer())).collect()
    }

    pub(in crate::room) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::room) fn sid(&self) -> &str {
        &self.sid
    }

    /// Media of a restored participant was connected while nobody watched.
    pub(in crate::room) fn is_active(&self, sid: &crate::room::ParticipantSid) -> bool {
        self.participants.get(sid).is_some_and(|own| own.stage == Stage::Active)
    }
}
