//! A client comes back: to the session that waited for it, or (after a restart of the control plane) to one that is
//! rebuilt from what the media node kept.

use std::{collections::HashSet, io::Read as _, sync::Arc, time::Instant};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use livekit_protocol::{self as proto, signal_response::Message};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::{
    CutOnResume, Known, Session, SessionConfig, SessionFacts, deadline::Deadline, peer::Peer,
    publish::Publications, subscribe::Subscriptions, welcome::server_info,
};
use crate::{
    room::{PeerRole, Presence, Resumed},
    signal::sdp::Negotiator,
};

/// Owner state beyond this is compressed: the node takes 256 KiB.
const COMPRESS_ABOVE: usize = 32 * 1024;

/// Compressed owner state may not unpack to more than this.
const MAX_UNPACKED: u64 = 16 * 1024 * 1024;

/// What the node keeps for a session beside a peer.
#[derive(Deserialize)]
struct OwnerState {
    negotiator: Negotiator,
    #[serde(default)]
    publications: Publications,
    #[serde(default)]
    subscriptions: Subscriptions,
}

/// The same, borrowed: publications go with the uplink, subscriptions with the downlink.
#[derive(Serialize)]
struct OwnerStateRef<'a> {
    negotiator: &'a Negotiator,
    #[serde(skip_serializing_if = "Option::is_none")]
    publications: Option<&'a Publications>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<&'a Subscriptions>,
}

/// Why a session cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The node has no peer for it.
    #[error("the media node keeps no peer of this participant")]
    NoPeer,
    /// It had one PeerConnection and comes back with two, or the other way round.
    #[error("the participant had another number of peers")]
    OtherTopology,
    /// Written by another version, or damaged.
    #[error("the kept state cannot be read: {0}")]
    Unreadable(String),
}

impl Session {
    /// Rebuilds a session from what the media node kept, for a client that comes back after a restart.
    pub fn restore(
        facts: SessionFacts,
        config: SessionConfig,
        resumed: Resumed,
        now: Instant,
    ) -> Result<Self, RestoreError> {
        let mut uplink = None;
        let mut downlink = None;
        let mut publications = Publications::default();
        let mut subscriptions = Subscriptions::default();
        for (role, snapshot) in &resumed.peers {
            let bytes = snapshot
                .state
                .as_ref()
                .map(|state| state.owner_state.as_slice())
                .unwrap_or_default();
            let state = unpack(bytes)?;
            if *role != PeerRole::Subscriber {
                publications = state.publications;
            }
            if *role != PeerRole::Publisher {
                subscriptions = state.subscriptions;
            }
            let peer = Peer::restored(*role, state.negotiator, snapshot.clone());
            match role {
                PeerRole::Subscriber => downlink = Some(peer),
                PeerRole::Single | PeerRole::Publisher => uplink = Some(peer),
            }
        }
        let mut rng = StdRng::seed_from_u64(facts.seed);
        if facts.two_peers {
            // A client that has published nothing may have no uplink yet.
            if downlink.is_none() && uplink.is_none() {
                return Err(RestoreError::NoPeer);
            }
            let answering = Negotiator::answering(rng.random::<u64>() >> 2);
            let offering = Negotiator::offering(rng.random::<u64>() >> 2);
            uplink = uplink.or(Some(Peer::new(PeerRole::Publisher, answering)));
            downlink = downlink.or(Some(Peer::new(PeerRole::Subscriber, offering)));
        }
        let uplink = uplink.ok_or(RestoreError::NoPeer)?;
        if (uplink.role == PeerRole::Single) == facts.two_peers
            || downlink.is_some() != facts.two_peers
        {
            return Err(RestoreError::OtherTopology);
        }
        let mut session = Self::with_peers(facts, config, uplink, downlink, rng);
        session.publications = publications;
        session.publications.forget_told();
        session.subscriptions = subscriptions;
        session.assume_offer_seen();
        session.attach(resumed, now);
        Ok(session)
    }

    /// The client's new WebSocket is there: the first effect is the ReconnectResponse.
    pub fn handle_resume(&mut self, resumed: Resumed, now: Instant) {
        if !self.ended {
            self.attach(resumed, now);
        }
    }

    fn attach(&mut self, resumed: Resumed, now: Instant) {
        self.attached = true;
        self.facts.permissions = resumed.permissions;
        let cut = self.cut_on_resume.take();
        if cut == Some(CutOnResume::BeforeMessages) {
            self.close_signal();
            return;
        }
        self.send(Message::Reconnect(proto::ReconnectResponse {
            ice_servers: self.config.ice_servers.clone(),
            client_configuration: None,
            server_info: Some(server_info(&self.config)),
            last_message_seq: 0,
        }));
        self.send_absent(resumed.departed, &resumed.others);
        self.remember(&resumed.others);
        self.publications.compare(&resumed.participant.tracks);
        let mut everybody: Vec<_> = resumed.others.iter().map(|other| (***other).clone()).collect();
        everybody.push(resumed.participant);
        self.send_participants(everybody);
        self.send(Message::RoomUpdate(proto::RoomUpdate { room: Some(resumed.room) }));
        if cut == Some(CutOnResume::AfterMessages) {
            // What was missed meanwhile waits for the resume that lasts.
            self.close_signal();
            return;
        }
        for message in std::mem::take(&mut self.missed) {
            self.send(message);
        }
        let demands: Vec<_> = self.demands.values().cloned().collect();
        for demand in demands {
            self.send(demand);
        }
        self.refresh_token(now);
        self.forget_requests();
        self.deadlines.clear(Deadline::Answer);

        // The last answer may have been lost with the WebSocket that it went out on.
        let lost = self.uplink.negotiator.answer_lost();
        self.subscriptions.displace(&lost);
        let peer = self.downlink.as_mut().unwrap_or(&mut self.uplink);
        self.subscriptions.reconcile(resumed.subscriptions, &mut peer.negotiator);
        if let Some(downlink) = &mut self.downlink {
            // The client restarts ICE on its uplink by itself; this side is ours.
            downlink.negotiator.abandon_offer();
            if downlink.is_created() {
                downlink.negotiator.restart_ice();
            }
        }
        self.begin_downlink();
        self.update_downlink(now);
        self.advance_uplink(now);
    }

    /// Whoever left while the WebSocket was away.
    fn send_absent(&mut self, departed: Vec<proto::ParticipantInfo>, others: &[Arc<Presence>]) {
        let here: HashSet<_> = others.iter().map(|other| other.sid.as_str()).collect();
        let gone = |sid: &str| !here.contains(sid) && departed.iter().all(|other| other.sid != sid);
        let as_gone = |(sid, known): (&String, &Known)| proto::ParticipantInfo {
            sid: sid.clone(),
            identity: known.identity.to_string(),
            state: proto::participant_info::State::Disconnected as i32,
            version: known.version + 1,
            ..Default::default()
        };
        let mut absent: Vec<_> = self
            .known
            .iter()
            .filter(|(sid, _)| **sid != *self.facts.sid.0 && gone(sid))
            .map(as_gone)
            .collect();
        absent.extend(departed);
        self.send_participants(absent);
    }

    /// What the node is to keep beside this peer.
    pub(super) fn owner_state(&self, peer: &Peer) -> Vec<u8> {
        let state = OwnerStateRef {
            negotiator: &peer.negotiator,
            publications: (peer.role != PeerRole::Subscriber).then_some(&self.publications),
            subscriptions: (peer.role != PeerRole::Publisher).then_some(&self.subscriptions),
        };
        match serde_json::to_vec(&state) {
            Ok(json) if json.len() > COMPRESS_ABOVE => pack(&json).unwrap_or(json),
            Ok(json) => json,
            // The state is plain data; without it only a restart of the control plane is harder.
            Err(error) => {
                tracing::error!(%error, "cannot write a session's state");
                Vec::new()
            }
        }
    }
}

fn pack(json: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Write as _;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(json)?;
    encoder.finish()
}

fn unpack(bytes: &[u8]) -> Result<OwnerState, RestoreError> {
    let mut unpacked = Vec::new();
    let json = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut decoder = GzDecoder::new(bytes).take(MAX_UNPACKED);
        decoder
            .read_to_end(&mut unpacked)
            .map_err(|error| RestoreError::Unreadable(error.to_string()))?;
        &unpacked
    } else {
        bytes
    };
    serde_json::from_slice(json).map_err(|error| RestoreError::Unreadable(error.to_string()))
}
