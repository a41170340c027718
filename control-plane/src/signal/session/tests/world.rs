//! A session with a client on one side, a room with a node on the other, and a clock: everything in memory.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use chappe_proto::node::v1 as node;
use livekit_protocol::{
    self as proto, signal_request::Message as Request, signal_response::Message as Response,
};
use prost::Message as _;

use super::{
    super::{Effect, Reply, RoomCommand, Session, SessionConfig, SessionFacts},
    client::{AnsweringClient, OfferingClient},
};
use crate::{
    auth::Permissions,
    room::{
        Joined, ParticipantSid, PeerRole, Presence, PublishedInfo, RequestError, Resumed,
        RoomEvent, SubscribedTrack, TrackSid, TrackVariant,
    },
};

/// What the node knows of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct NodePeer {
    pub(super) revision: u64,
    pub(super) state: node::PeerState,
}

pub(super) struct World {
    pub(super) session: Session,
    pub(super) now: Instant,
    /// The uplink of two, or the only one.
    pub(super) offering: OfferingClient,
    pub(super) answering: AnsweringClient,
    /// The client answers offers and requirements by itself.
    pub(super) client_reacts: bool,
    pub(super) node: HashMap<PeerRole, NodePeer>,
    pub(super) commands: VecDeque<RoomCommand>,
    /// Everything the client got, in order.
    pub(super) inbox: Vec<Response>,
    unread: VecDeque<Response>,
    pub(super) published: BTreeMap<TrackSid, PublishedInfo>,
    pub(super) done: Vec<RoomCommand>,
    pub(super) ended: bool,
    pub(super) signal_closed: bool,
    /// The next node command fails.
    pub(super) node_fails: bool,
    /// The room refuses everything but tracks and media.
    pub(super) room_refuses: Option<RequestError>,
    /// Ended in the room.
    pub(super) forgotten: Vec<TrackSid>,
    /// When the client got a fresh token, and what it grants.
    pub(super) tokens: Vec<(Instant, Permissions)>,
    granted: u32,
}

pub(super) fn facts(two_peers: bool, now: Instant) -> SessionFacts {
    SessionFacts {
        sid: ParticipantSid::from("PA_self".to_owned()),
        identity: "ada".into(),
        two_peers,
        syncs_streams: false,
        may_be_offered_repair: true,
        permissions: Permissions::default(),
        unix_ms: 1_700_000_000_000,
        started: now,
        seed: 7,
    }
}

pub(super) fn participant(sid: &str, tracks: Vec<proto::TrackInfo>) -> proto::ParticipantInfo {
    proto::ParticipantInfo {
        sid: sid.into(),
        identity: format!("{sid}-identity"),
        tracks,
        ..Default::default()
    }
}

pub(super) fn track(sid: &str, video: bool) -> SubscribedTrack {
    track_in(sid, video, &[if video { "video/VP8" } else { "audio/opus" }])
}

pub(super) fn track_in(sid: &str, video: bool, mime_types: &[&str]) -> SubscribedTrack {
    let kind = if video { proto::TrackType::Video } else { proto::TrackType::Audio };
    let variant = |(index, mime_type): (usize, &&str)| TrackVariant {
        node_track_id: if index == 0 { sid.to_owned() } else { format!("{sid}/{index}") },
        mime_type: (*mime_type).to_owned(),
    };
    SubscribedTrack {
        info: proto::TrackInfo { sid: sid.into(), r#type: kind as i32, ..Default::default() },
        publisher: ParticipantSid::from("PA_other".to_owned()),
        variants: mime_types.iter().enumerate().map(variant).collect(),
    }
}

pub(super) fn add_track(cid: &str, video: bool) -> proto::AddTrackRequest {
    let kind = if video { proto::TrackType::Video } else { proto::TrackType::Audio };
    proto::AddTrackRequest { cid: cid.into(), r#type: kind as i32, ..Default::default() }
}

impl World {
    pub(super) fn single() -> Self {
        Self::new(false, OfferingClient::new(3, 3))
    }

    pub(super) fn dual() -> Self {
        Self::new(true, OfferingClient::new(0, 0))
    }

    pub(super) fn new(two_peers: bool, offering: OfferingClient) -> Self {
        let now = Instant::now();
        let joined = Joined {
            sid: ParticipantSid::from("PA_self".to_owned()),
            room: proto::Room { sid: "RM_r".into(), name: "r".into(), ..Default::default() },
            participant: participant("PA_self", Vec::new()),
            others: vec![Presence::new(participant("PA_other", Vec::new())).into()],
            force_tcp: false,
        };
        let session = Session::join(facts(two_peers, now), SessionConfig::default(), joined, now);
        let mut world = Self {
            session,
            now,
            offering,
            answering: AnsweringClient::default(),
            client_reacts: true,
            node: HashMap::new(),
            commands: VecDeque::new(),
            inbox: Vec::new(),
            unread: VecDeque::new(),
            published: BTreeMap::new(),
            done: Vec::new(),
            ended: false,
            signal_closed: false,
            node_fails: false,
            room_refuses: None,
            forgotten: Vec::new(),
            tokens: Vec::new(),
            granted: 0,
        };
        world.drain();
        world
    }

    pub(super) fn request(&mut self, message: Request) {
        let request = proto::SignalRequest { message: Some(message) };
        self.session.handle_request(request, self.now);
        self.drain();
    }

    pub(super) fn room(&mut self, event: RoomEvent) {
        self.session.handle_room(event, self.now);
        self.drain();
    }

    pub(super) fn offer(&mut self) {
        if let Some((id, sdp)) = self.offering.offer() {
            self.send_offer(id, sdp);
        }
    }

    fn send_offer(&mut self, id: u32, sdp: String) {
        let offer =
            proto::SessionDescription { r#type: "offer".into(), sdp, id, ..Default::default() };
        self.request(Request::Offer(offer));
    }

    fn drain(&mut self) {
        while let Some(effect) = self.session.poll_effect() {
            match effect {
                Effect::Send(message) => {
                    self.inbox.push((*message).clone());
                    self.unread.push_back(*message);
                }
                Effect::Welcome(welcome) => {
                    let message = welcome.into_message();
                    self.inbox.push(message.clone());
                    self.unread.push_back(message);
                }
                Effect::Announce(news) => {
                    for bytes in &news.encoded {
                        let response = proto::SignalResponse::decode(bytes.clone()).unwrap();
                        let message = response.message.unwrap();
                        self.inbox.push(message.clone());
                        self.unread.push_back(message);
                    }
                }
                Effect::Room(command) => self.commands.push_back(command),
                Effect::RefreshToken(permissions) => {
                    self.tokens.push((self.now, permissions));
                    self.inbox.push(Response::RefreshToken("token".into()));
                }
                Effect::CloseSignal => self.signal_closed = true,
                Effect::End => self.ended = true,
            }
        }
    }

    /// The room and the node do one thing.
    pub(super) fn step_room(&mut self) -> bool {
        let Some(command) = self.commands.pop_front() else { return false };
        let reply = self.execute(command);
        self.session.handle_reply(reply, self.now);
        self.drain();
        true
    }

    fn execute(&mut self, command: RoomCommand) -> Reply {
        self.done.push(command.clone());
        match command {
            RoomCommand::ApplyPeer { role, delta } => {
                if std::mem::take(&mut self.node_fails) {
                    return Reply::Peer { role, outcome: Err(RequestError::Node("away".into())) };
                }
                let peer = self.node.entry(role).or_default();
                peer.apply(*delta);
                let transport = peer.local();
                Reply::Peer { role, outcome: Ok(transport) }
            }
            RoomCommand::AddTrack(request) => {
                self.granted += 1;
                let sid = if request.sid.is_empty() {
                    format!("TR_{}", self.granted)
                } else {
                    request.sid.clone()
                };
                let info = proto::TrackInfo { sid, r#type: request.r#type, ..Default::default() };
                Reply::Track { request, outcome: Ok(info) }
            }
            RoomCommand::PublishTrack { ref track, .. } if self.forgotten.contains(track) => {
                Reply::Done { command, outcome: Err(RequestError::NotFound("track".into())) }
            }
            RoomCommand::PublishTrack { ref track, ref info } => {
                for variant in &info.variants {
                    let known =
                        self.node.values().any(|peer| peer.has_track(&variant.node_track_id));
                    assert!(known, "published before the node knows {}", variant.node_track_id);
                }
                self.published.insert(track.clone(), info.clone());
                Reply::Done { command, outcome: Ok(()) }
            }
            RoomCommand::UnpublishTrack(ref track) => {
                self.published.remove(track);
                Reply::Done { command, outcome: Ok(()) }
            }
            command => {
                let outcome = self.room_refuses.clone().map_or(Ok(()), Err);
                Reply::Done { command, outcome }
            }
        }
    }

    /// The client reads one message.
    pub(super) fn step_client(&mut self) -> bool {
        let Some(message) = self.unread.pop_front() else { return false };
        if !self.client_reacts {
            return true;
        }
        match message {
            Response::Answer(answer) => {
                if let Some((id, sdp)) = self.offering.answered(answer.id, &answer.sdp) {
                    self.send_offer(id, sdp);
                }
            }
            Response::Offer(offer) => {
                let sdp = self.answering.answer(&offer.sdp);
                let answer = proto::SessionDescription {
                    r#type: "answer".into(),
                    sdp,
                    id: offer.id,
                    ..Default::default()
                };
                self.request(Request::Answer(answer));
            }
            Response::MediaSectionsRequirement(needed) => {
                self.offering.add_sections(needed.num_audios, needed.num_videos);
                self.offer();
            }
            _ => {}
        }
        true
    }

    /// Time goes on to the next deadline, at most this far.
    pub(super) fn step_time(&mut self, at_most: Duration) -> bool {
        let Some(next) = self.session.poll_timeout().filter(|next| *next <= self.now + at_most)
        else {
            return false;
        };
        self.now = self.now.max(next);
        self.session.handle_timeout(self.now);
        self.drain();
        true
    }

    /// Runs until nobody has anything left to do within half a second.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if !(self.step_room()
                || self.step_client()
                || self.step_time(Duration::from_millis(500)))
            {
                return;
            }
        }
        panic!("the session never comes to rest");
    }

    pub(super) fn lose_signal(&mut self) {
        self.session.handle_signal_lost();
        self.unread.clear();
        self.offering.roll_back();
        self.drain();
    }

    pub(super) fn resumed(&self, subscriptions: Vec<SubscribedTrack>) -> Resumed {
        let snapshot = |(role, peer): (&PeerRole, &NodePeer)| {
            let transport = Some(peer.local());
            let state = Some(peer.state.clone());
            (
                *role,
                node::PeerSnapshot {
                    revision: peer.revision,
                    state,
                    transport,
                    ..Default::default()
                },
            )
        };
        Resumed {
            room: proto::Room { sid: "RM_r".into(), ..Default::default() },
            participant: participant("PA_self", Vec::new()),
            others: vec![Presence::new(participant("PA_other", Vec::new())).into()],
            permissions: Permissions::default(),
            peers: self.node.iter().map(snapshot).collect(),
            subscriptions,
            departed: Vec::new(),
        }
    }

    pub(super) fn resume(&mut self, resumed: Resumed) {
        self.inbox.clear();
        self.session.handle_resume(resumed, self.now);
        self.drain();
    }

    /// The control plane starts anew: a session is rebuilt from what the node keeps.
    pub(super) fn restart(&mut self, two_peers: bool, subscriptions: Vec<SubscribedTrack>) {
        let resumed = self.resumed(subscriptions);
        self.offering.roll_back();
        self.unread.clear();
        self.commands.clear();
        self.inbox.clear();
        self.session = Session::restore(
            facts(two_peers, self.now),
            SessionConfig::default(),
            resumed,
            self.now,
        )
        .expect("restored");
        self.drain();
    }

    /// What arrives at the client, by mid.
    pub(super) fn receiving(&self) -> &BTreeMap<String, String> {
        if self.node.contains_key(&PeerRole::Subscriber) {
            &self.answering.receiving
        } else {
            &self.offering.receiving
        }
    }

    /// What the node sends to the client, by track.
    pub(super) fn sent(&self) -> BTreeMap<String, node::Subscription> {
        let subscriptions = self.node.values().flat_map(|peer| &peer.state.subscriptions);
        subscriptions
            .map(|subscription| (subscription.track_id.clone(), subscription.clone()))
            .collect()
    }

    pub(super) fn kinds(&self) -> Vec<&'static str> {
        self.inbox.iter().map(kind).collect()
    }

    pub(super) fn leave(&self) -> Option<&proto::LeaveRequest> {
        self.inbox.iter().find_map(|message| match message {
            Response::Leave(leave) => Some(leave),
            _ => None,
        })
    }
}

impl NodePeer {
    fn has_track(&self, id: &str) -> bool {
        self.state.tracks.iter().any(|track| track.track_id == id)
    }

    fn local(&self) -> node::LocalTransport {
        let generation =
            self.state.transport.as_ref().map_or(0, |transport| transport.ice_generation);
        node::LocalTransport {
            ice: Some(node::IceCredentials {
                ufrag: format!("node{generation}"),
                pwd: "abcdefghijklmnopqrstuvwx".into(),
            }),
            candidates: vec![node::Candidate {
                protocol: node::candidate::Protocol::Udp as i32,
                address: "192.0.2.1".into(),
                port: 7882,
                r#type: node::candidate::Type::Host as i32,
                priority: 1,
                foundation: "1".into(),
            }],
            fingerprint: Some(node::Fingerprint {
                algorithm: "sha-256".into(),
                digest: vec![7; 32],
            }),
            ice_generation: generation,
        }
    }

    fn apply(&mut self, delta: node::PeerDelta) {
        self.revision += 1;
        let state = &mut self.state;
        if let Some(owner_state) = delta.owner_state {
            state.owner_state = owner_state;
        }
        state.transport = delta.transport.or(state.transport.take());
        if let Some(list) = delta.codecs {
            state.codecs = list.codecs;
        }
        if let Some(list) = delta.extensions {
            state.extensions = list.extensions;
        }
        state.data = delta.data.or(state.data.take());
        state.max_egress_bitrate = delta.max_egress_bitrate.unwrap_or(state.max_egress_bitrate);
        state.tracks.retain(|track| !delta.remove_track_ids.contains(&track.track_id));
        for track in delta.put_tracks {
            state.tracks.retain(|known| known.track_id != track.track_id);
            state.tracks.push(track);
        }
        state
            .subscriptions
            .retain(|known| !delta.remove_subscription_track_ids.contains(&known.track_id));
        for put in delta.put_subscriptions {
            if let Some(known) =
                state.subscriptions.iter().find(|known| known.track_id == put.track_id)
            {
                assert!(
                    known.mid != put.mid || known.ssrc == put.ssrc,
                    "an SSRC changes only with its mid"
                );
            }
            state.subscriptions.retain(|known| known.track_id != put.track_id);
            state.subscriptions.push(put);
        }
        let mut mids: Vec<_> =
            state.subscriptions.iter().map(|subscription| &subscription.mid).collect();
        mids.sort();
        let all = mids.len();
        mids.dedup();
        assert_eq!(mids.len(), all, "two tracks are sent on one m-line");
    }
}

pub(in crate::signal) fn kind(message: &Response) -> &'static str {
    match message {
        Response::Join(_) => "join",
        Response::Answer(_) => "answer",
        Response::Offer(_) => "offer",
        Response::Update(_) => "update",
        Response::TrackPublished(_) => "track_published",
        Response::Leave(_) => "leave",
        Response::Mute(_) => "mute",
        Response::SpeakersChanged(_) => "speakers_changed",
        Response::RoomUpdate(_) => "room_update",
        Response::RefreshToken(_) => "refresh_token",
        Response::Pong(_) => "pong",
        Response::PongResp(_) => "pong_resp",
        Response::Reconnect(_) => "reconnect",
        Response::RequestResponse(_) => "request_response",
        Response::SubscriptionResponse(_) => "subscription_response",
        Response::MediaSectionsRequirement(_) => "media_sections_requirement",
        Response::SubscribedQualityUpdate(_) => "subscribed_quality_update",
        Response::TrackUnpublished(_) => "track_unpublished",
        _ => "other",
    }
}
