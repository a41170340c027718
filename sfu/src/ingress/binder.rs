//! Which encoding an SSRC belongs to.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::DropReason;
use crate::{
    rtp::{CodecMap, MediaKind, Mid, PayloadMeaning, Pt, Rid, Ssrc},
    wire::ExtensionValues,
};

/// A published track, as its peer numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TrackSlot(pub u16);

/// What a binder has to know of a track.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BoundTrack {
    /// The peer's number for it.
    pub slot: TrackSlot,
    /// Audio or video.
    pub kind: MediaKind,
    /// The m-line it arrives on.
    pub mid: Mid,
    /// Lowest quality first.
    pub encodings: Vec<BoundEncoding>,
}

/// What a binder has to know of an encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BoundEncoding {
    /// Absent without simulcast.
    pub rid: Option<Rid>,
    /// Signalled SSRC.
    pub ssrc: Option<Ssrc>,
    /// Signalled SSRC of its retransmissions.
    pub rtx_ssrc: Option<Ssrc>,
}

/// Where an SSRC's packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The track.
    pub slot: TrackSlot,
    /// Index into its encodings.
    pub encoding: u8,
    /// What the SSRC carries.
    pub role: Role,
}

/// What an SSRC carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Media.
    Media,
    /// Retransmissions (RFC 4588).
    Rtx,
}

/// Why a packet has no binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unbound {
    /// It may have one soon: [`SsrcBinder::park`] it.
    Park,
    /// It has none.
    Drop(DropReason),
}

/// A packet whose binding became known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParkedPacket {
    /// As it was given to [`SsrcBinder::park`].
    pub bytes: Box<[u8]>,
    /// When it arrived.
    pub received_at: Instant,
    ssrc: Ssrc,
}

/// Binds the SSRCs of one peer to the encodings of its tracks, in this order: signalled SSRC and FID, MID and RID, MID and
/// repaired RID, a payload type that only one track can mean. Never RID alone: two tracks may use the same.
///
/// Senders name MID and RID only until the first receiver report for an SSRC, so a binding is kept until its track goes
/// or another SSRC takes its place. Packets that cannot be bound yet, because media was faster than
/// signalling, are kept for a moment.
///
/// Drain [`Self::poll_replay`] after each packet that was bound for the first time and after [`Self::set_tracks`].
#[derive(Debug)]
pub struct SsrcBinder {
    tracks: Vec<BoundTrack>,
    /// Peers choose the keys: the standard library's keyed hash.
    bindings: HashMap<Ssrc, Entry>,
    /// The binding asked for last: media comes in bursts of one SSRC.
    latest: Option<(Ssrc, Binding)>,
    max_ssrcs: usize,
    parked: VecDeque<ParkedPacket>,
    /// A binding was learnt since the parked packets were last looked through.
    replay: bool,
    /// Parked packets, from the front, to be tried again whatever their SSRC: signalling changed.
    retry: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    binding: Binding,
    signalled: bool,
}

impl SsrcBinder {
    /// Packets kept at most.
    pub const MAX_PARKED: usize = 64;
    /// How long they are kept: about what a round of signalling takes.
    pub const PARK_TIME: Duration = Duration::from_millis(500);

    /// For a peer that may use `max_ssrcs` SSRCs, those of retransmissions included.
    pub fn new(max_ssrcs: usize) -> Self {
        Self {
            tracks: Vec::new(),
            bindings: HashMap::new(),
            latest: None,
            max_ssrcs,
            parked: VecDeque::new(),
            replay: false,
            retry: 0,
        }
    }

    /// Another number of SSRCs from now on. Where it is smaller signalled ones stay before learnt ones, lower encodings
    /// before higher ones. [`Self::set_tracks`] has to follow.
    pub fn set_max_ssrcs(&mut self, max_ssrcs: usize) {
        self.max_ssrcs = max_ssrcs;
        if self.bindings.len() > max_ssrcs {
            let mut kept: Vec<(Ssrc, Entry)> = self.bindings.drain().collect();
            kept.sort_unstable_by_key(|(ssrc, entry)| {
                let Binding { slot, encoding, role } = entry.binding;
                (!entry.signalled, encoding, role == Role::Rtx, slot.0, ssrc.0)
            });
            kept.truncate(max_ssrcs);
            self.bindings.extend(kept);
        }
        self.latest = None;
    }

    /// Replaces what the peer publishes. Bindings that were learnt are kept where slot, MID and RIDs are unchanged.
    pub fn set_tracks(&mut self, tracks: Vec<BoundTrack>) {
        let before = std::mem::replace(&mut self.tracks, tracks);
        let unchanged = |binding: &Binding| {
            let find = |tracks: &[BoundTrack]| {
                let track = tracks.iter().find(|track| track.slot == binding.slot)?;
                let encoding = track.encodings.get(usize::from(binding.encoding))?;
                Some((track.mid, track.kind, encoding.rid))
            };
            let now = find(&self.tracks);
            now.is_some() && now == find(&before)
        };
        self.bindings.retain(|_, entry| !entry.signalled && unchanged(&entry.binding));
        for track in &self.tracks {
            for (index, encoding) in track.encodings.iter().enumerate() {
                for (ssrc, role) in [(encoding.ssrc, Role::Media), (encoding.rtx_ssrc, Role::Rtx)] {
                    let Some(ssrc) = ssrc else { continue };
                    let binding = Binding { slot: track.slot, encoding: index as u8, role };
                    if self.bindings.len() < self.max_ssrcs || self.bindings.contains_key(&ssrc) {
                        self.bindings.insert(ssrc, Entry { binding, signalled: true });
                    }
                }
            }
        }
        self.latest = None;
        self.retry = self.parked.len();
    }

    /// Where a packet belongs.
    pub fn resolve(
        &mut self,
        ssrc: Ssrc,
        pt: Pt,
        extensions: &ExtensionValues<'_>,
        codecs: &CodecMap,
    ) -> Result<Binding, Unbound> {
        if let Some((latest, binding)) = self.latest
            && latest == ssrc
        {
            return Ok(binding);
        }
        if let Some(entry) = self.bindings.get(&ssrc) {
            self.latest = Some((ssrc, entry.binding));
            return Ok(entry.binding);
        }
        let binding = self.learn(pt, extensions, codecs)?;
        // Another SSRC in the same place: the sender restarted, or had a collision (RFC 3550 section 8.2).
        self.bindings.retain(|_, entry| entry.binding != binding || entry.signalled);
        if self.bindings.len() >= self.max_ssrcs {
            return Err(Unbound::Drop(DropReason::TooManySsrcs));
        }
        self.bindings.insert(ssrc, Entry { binding, signalled: false });
        self.latest = Some((ssrc, binding));
        self.replay = true;
        Ok(binding)
    }

    /// The binding of an SSRC that RTCP names.
    pub fn binding(&self, ssrc: Ssrc) -> Option<Binding> {
        self.bindings.get(&ssrc).map(|entry| entry.binding)
    }

    /// Keeps a decrypted packet until its binding is known. The oldest goes when there is no room.
    pub fn park(&mut self, now: Instant, ssrc: Ssrc, packet: &[u8]) {
        self.handle_timeout(now);
        if self.parked.len() == Self::MAX_PARKED {
            self.parked.pop_front();
            self.retry = self.retry.saturating_sub(1);
        }
        self.parked.push_back(ParkedPacket { bytes: packet.into(), received_at: now, ssrc });
    }

    /// A packet from [`Self::poll_replay`] that still has no binding waits for the rest of its time.
    pub fn park_again(&mut self, packet: ParkedPacket) {
        // It left a place. All that is tried again goes through here in order, so they stay sorted by age.
        self.parked.push_back(packet);
    }

    /// A parked packet to be handled as if it arrived at its `received_at`: its SSRC is bound now, or signalling
    /// changed what it may be bound to. What still has no binding is to be given to [`Self::park_again`].
    pub fn poll_replay(&mut self) -> Option<ParkedPacket> {
        if let Some(retry) = self.retry.checked_sub(1) {
            self.retry = retry;
            if let Some(packet) = self.parked.pop_front() {
                return Some(packet);
            }
        }
        if !self.replay {
            return None;
        }
        let bound = self.parked.iter().position(|packet| self.bindings.contains_key(&packet.ssrc));
        let Some(index) = bound else {
            self.replay = false;
            return None;
        };
        self.parked.remove(index)
    }

    /// Forgets packets that waited too long. Returns how many.
    pub fn handle_timeout(&mut self, now: Instant) -> usize {
        let before = self.parked.len();
        let expired = |packet: &ParkedPacket| {
            now.saturating_duration_since(packet.received_at) >= Self::PARK_TIME
        };
        while self.parked.front().is_some_and(expired) {
            self.parked.pop_front();
            self.retry = self.retry.saturating_sub(1);
        }
        before - self.parked.len()
    }

    /// When the next parked packet has waited too long.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.parked.front().map(|packet| packet.received_at + Self::PARK_TIME)
    }

    fn learn(
        &self,
        pt: Pt,
        extensions: &ExtensionValues<'_>,
        codecs: &CodecMap,
    ) -> Result<Binding, Unbound> {
        let meaning = codecs.meaning(pt);
        let (kind, role) = match meaning {
            Some(PayloadMeaning::Media(codec)) => (codec.kind.media_kind(), Role::Media),
            Some(PayloadMeaning::Rtx(codec)) => (codec.kind.media_kind(), Role::Rtx),
            None => return Err(Unbound::Drop(DropReason::UnknownPayloadType)),
        };
        let track = match extensions.mid {
            Some(mid) => self.tracks.iter().find(|track| track.mid == mid),
            None => {
                let mut of_kind = self.tracks.iter().filter(|track| track.kind == kind);
                of_kind.next().filter(|_| of_kind.next().is_none())
            }
        };
        let Some(track) = track.filter(|track| track.kind == kind) else {
            return Err(Unbound::Park);
        };
        let rid = match role {
            Role::Media => extensions.rid,
            Role::Rtx => extensions.repaired_rid,
        };
        let encoding = match (&*track.encodings, rid) {
            // A RID alone says nothing; here the payload type would have to say the rest.
            (_, Some(_)) if extensions.mid.is_none() => None,
            ([only], rid) if rid.is_none() || only.rid.is_none() || only.rid == rid => Some(0),
            (encodings, Some(rid)) => {
                encodings.iter().position(|encoding| encoding.rid == Some(rid))
            }
            _ => None,
        };
        let Some(encoding) = encoding else { return Err(Unbound::Park) };
        Ok(Binding { slot: track.slot, encoding: encoding as u8, role })
    }
}

#[cfg(test)]
mod tests;
