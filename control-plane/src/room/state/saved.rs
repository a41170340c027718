//! The room as it outlives the control plane: bytes that the media node keeps and never reads.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Read;
use std::time::Duration;

use flate2::{Compress, CompressError, Compression, FlushCompress, Status, read::ZlibDecoder};
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

/// Shorter than that, deflating would be most of what saving costs: it clears tables that are many times as long.
const DEFLATED_FROM: usize = 16 << 10;
/// Longer than that, deflating takes more than another thread costs.
const SLOW_FROM: usize = 64 << 10;
/// What JSON begins with, and zlib (RFC 1950 section 2.2) does not.
const JSON_BEGINS: u8 = b'{';

/// Changed with every incompatible change: a newer control plane does not guess.
const FORMAT: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    format: u32,
    sid: String,
    name: String,
    metadata: String,
    max_participants: u32,
    empty_timeout_ms: u64,
    departure_timeout_ms: u64,
    created_ms: i64,
    participants: Vec<Cow<'a, Participant>>,
}

/// A room in JSON.
pub(in crate::room) struct Written(Vec<u8>);

impl Written {
    /// Packing it takes some milliseconds: a room of some hundred people.
    pub(in crate::room) fn takes_long(&self) -> bool {
        self.0.len() >= SLOW_FROM
    }

    /// Deflated where it is long: attributes and metadata may be large, and compress well.
    pub(in crate::room) fn pack(self) -> Result<Vec<u8>, SavedError> {
        if self.0.len() >= DEFLATED_FROM { deflate(&self.0) } else { Ok(self.0) }
    }
}

/// Why saved bytes are no room.
#[derive(Debug, thiserror::Error)]
pub(in crate::room) enum SavedError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("cannot be deflated: {0}")]
    Deflate(#[from] CompressError),
    #[error("is no room: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("has format {0}, this server knows {FORMAT}")]
    Format(u32),
}

impl RoomState {
    /// The room as [`RoomState::restore`] takes it.
    pub(in crate::room) fn save(&self) -> Result<Vec<u8>, SavedError> {
        self.write()?.pack()
    }

    /// The first half of it: what is left takes longer, and needs no room.
    pub(in crate::room) fn write(&self) -> Result<Written, SavedError> {
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
            participants: self.participants.values().map(Cow::Borrowed).collect(),
        };
        Ok(Written(serde_json::to_vec(&saved)?))
    }

    /// Rebuilds a room. Everybody is without signalling and may resume; whose peers the node has not, goes when the
    /// caller says so.
    pub(in crate::room) fn restore(bytes: &[u8], now: Now) -> Result<Self, SavedError> {
        let value: serde_json::Value = if bytes.first() == Some(&JSON_BEGINS) {
            serde_json::from_slice(bytes)?
        } else {
            serde_json::from_reader(ZlibDecoder::new(bytes).take(MAX_INFLATED))?
        };
        let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format != u64::from(FORMAT) {
            return Err(SavedError::Format(u32::try_from(format).unwrap_or(u32::MAX)));
        }
        let saved: Saved<'_> = serde_json::from_value(value)?;
        let options = RoomOptions {
            metadata: saved.metadata,
            max_participants: saved.max_participants,
            empty_timeout: Duration::from_millis(saved.empty_timeout_ms),
            departure_timeout: Duration::from_millis(saved.departure_timeout_ms),
        };
        let mut state = Self::new(saved.sid, saved.name, options, now);
        state.created_ms = saved.created_ms;
        for participant in saved.participants {
            let mut participant = participant.into_owned();
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

thread_local! {
    /// Its tables are a third of a megabyte: making them costs more than clearing them.
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), true));
}

/// As zlib does it (RFC 1950), all at once: written to piece by piece, the library clears a buffer of 32 KiB for each piece.
fn deflate(bytes: &[u8]) -> Result<Vec<u8>, SavedError> {
    DEFLATE.with_borrow_mut(|deflate| {
        deflate.reset();
        let mut out = Vec::new();
        loop {
            out.reserve(bytes.len() / 4 + 64);
            let rest = bytes.get(deflate.total_in() as usize..).unwrap_or(&[]);
            if deflate.compress_vec(rest, &mut out, FlushCompress::Finish)? == Status::StreamEnd {
                return Ok(out);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deflated_inflates_whatever_its_size_and_however_often() {
        let mut noise = 1_u32;
        let mut noisy = |len: usize| -> Vec<u8> {
            let next = || {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            };
            std::iter::repeat_with(next).take(len).collect()
        };
        for len in [0, 1, 700, 100_000, 3_000_000, 5] {
            for bytes in [vec![b'a'; len], noisy(len)] {
                let mut inflated = Vec::new();
                let deflated = deflate(&bytes).unwrap();
                ZlibDecoder::new(&deflated[..]).read_to_end(&mut inflated).unwrap();
                assert!(inflated == bytes, "{len} bytes");
            }
        }
    }
}
