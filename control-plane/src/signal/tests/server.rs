//! A server with everything but media, and a client that reads and writes frames.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::Engine as _;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol::{
    self as proto, signal_request::Message as Request, signal_response::Message as Response,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error as WsError, Message as WsMessage},
};

use crate::{
    auth::{Grants, Keys},
    node::{
        Node, Nodes,
        testing::{Held, TestNode},
    },
    room::{RoomPolicy, RoomRegistry},
    signal::{
        SignalConfig, SignalState, routes,
        session::tests::{client::OfferingClient, kind},
    },
    store::MemoryStore,
};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Server {
    pub(super) node: TestNode,
    pub(super) rooms: RoomRegistry,
    pub(super) signal: SignalState,
    keys: Arc<Keys>,
    address: SocketAddr,
    /// Everything of the control plane runs here: dropped, it is as if it was killed.
    runtime: Option<Runtime>,
}

impl Server {
    pub(super) async fn default() -> Self {
        Self::start(RoomPolicy::default(), SignalConfig::default()).await
    }

    pub(super) async fn start(policy: RoomPolicy, config: SignalConfig) -> Self {
        Self::over(TestNode::new(), Arc::new(Keys::development()), policy, config).await
    }

    async fn over(
        node: TestNode,
        keys: Arc<Keys>,
        policy: RoomPolicy,
        config: SignalConfig,
    ) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("runtime");
        let (of_server, at_keys) = (node.clone(), keys.clone());
        let started = runtime.spawn(async move {
            let (nodes, events) = Nodes::new();
            nodes.add(Node::embedded("test", of_server.service()));
            let store = Arc::new(MemoryStore::default());
            let rooms = RoomRegistry::start(nodes, events, store, policy);
            let signal = SignalState::new(rooms.clone(), at_keys, config);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("address");
            let router = routes(signal.clone());
            tokio::spawn(async move {
                axum::serve(listener, router).await.expect("serve");
            });
            (rooms, signal, address)
        });
        let (rooms, signal, address) = started.await.expect("started");
        Self { node, rooms, signal, keys, address, runtime: Some(runtime) }
    }

    /// A new control plane beside the living node. The old one is killed.
    pub(super) async fn restart(mut self) -> Self {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.node.cut_streams();
        let (node, keys) = (self.node.clone(), self.keys.clone());
        Self::over(node, keys, RoomPolicy::default(), SignalConfig::default()).await
    }

    pub(super) fn token(&self, room: &str, identity: &str) -> String {
        self.sign(&self.keys, room, identity)
    }

    pub(super) fn sign(&self, keys: &Keys, room: &str, identity: &str) -> String {
        let grants = Grants::to_join(room, identity);
        keys.mint(&grants, Duration::from_secs(600), SystemTime::now()).expect("token")
    }

    pub(super) fn token_with(&self, change: impl FnOnce(&mut Grants)) -> String {
        let mut grants = Grants::to_join("r", "ada");
        change(&mut grants);
        self.keys.mint(&grants, Duration::from_secs(600), SystemTime::now()).expect("token")
    }

    /// What a token grants that the server signed.
    pub(super) fn verify(&self, token: &str) -> Grants {
        self.keys.verify(token, SystemTime::now()).expect("a valid token")
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        self.get_with(path, "Connection: close\r\n").await
    }

    /// `headers`: lines, the last one ended too. They have to close the connection.
    pub(super) async fn get_with(&self, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("connect");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("response");
        let status =
            response.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("status");
        let body =
            response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (status, body)
    }

    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut(&Held) -> bool) {
        wait_for(what, || holds(&self.node.held())).await;
    }

    pub(super) async fn until_sessions(&self, count: usize) {
        wait_for(&format!("{count} sessions"), || self.signal.sessions() == count).await;
    }

    pub(super) fn peer_ufrag(&self, peer_id: &str) -> String {
        let held = self.node.held();
        let transport =
            held.peers.get(peer_id).and_then(|peer| peer.transport.clone()).expect("peer");
        transport.ice.expect("credentials").ufrag
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(super) fn add_track(cid: &str) -> proto::AddTrackRequest {
    proto::AddTrackRequest {
        cid: cid.into(),
        r#type: proto::TrackType::Video as i32,
        ..Default::default()
    }
}

/// An upgrade that was refused, with its status.
#[derive(Debug)]
pub(super) struct Refused(pub(super) u16);

pub(super) struct Client {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(super) peer: OfferingClient,
    pub(super) sid: String,
    /// The kind of the first message.
    pub(super) first: &'static str,
    room: String,
    identity: String,
    unread: VecDeque<Response>,
}

impl Client {
    pub(super) async fn connect(server: &Server, path: &str) -> Result<Self, Refused> {
        match tokio_tungstenite::connect_async(format!("{}{path}", server.url())).await {
            Ok((stream, _)) => Ok(Self {
                stream,
                peer: super::first_offer(),
                sid: String::new(),
                first: "",
                room: String::new(),
                identity: String::new(),
                unread: VecDeque::new(),
            }),
            Err(WsError::Http(response)) => Err(Refused(response.status().as_u16())),
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) async fn join_v0(server: &Server, room: &str, identity: &str) -> Self {
        let path = format!("/rtc?access_token={}&protocol=16", server.token(room, identity));
        let client = Self::connect(server, &path).await.expect("let in");
        client.welcomed(room, identity).await
    }

    pub(super) async fn join_v1(server: &Server, room: &str, identity: &str) -> Self {
        let mut peer = super::first_offer();
        let (id, sdp) = peer.offer().expect("first offer");
        let offer =
            proto::SessionDescription { r#type: "offer".into(), sdp, id, ..Default::default() };
        let request = proto::JoinRequest { publisher_offer: Some(offer), ..Default::default() };
        let mut client = Self::connect(server, &v1_path(server, room, identity, &request))
            .await
            .expect("let in");
        client.peer = peer;
        client.welcomed(room, identity).await
    }

    pub(super) async fn welcomed(mut self, room: &str, identity: &str) -> Self {
        let message = self.next().await;
        self.first = kind(&message);
        let Response::Join(join) = message else { panic!("{message:?}") };
        self.sid = join.participant.expect("participant").sid;
        (self.room, self.identity) = (room.to_owned(), identity.to_owned());
        self
    }

    /// Drops the socket and comes back on another.
    pub(super) async fn resume(self, server: &Server) -> Self {
        self.resume_after(server, Duration::ZERO).await
    }

    pub(super) async fn resume_after(self, server: &Server, away: Duration) -> Self {
        let Self { mut peer, sid, room, identity, stream, .. } = self;
        drop(stream);
        tokio::time::sleep(away).await;
        peer.roll_back();
        let request = proto::JoinRequest {
            reconnect: true,
            participant_sid: sid.clone(),
            ..Default::default()
        };
        let mut client = Self::connect(server, &v1_path(server, &room, &identity, &request))
            .await
            .expect("let in");
        let first = client.next().await;
        let client = Self { peer, sid, room, identity, first: kind(&first), ..client };
        assert_eq!(client.first, "reconnect", "{first:?}");
        client
    }

    pub(super) async fn send(&mut self, message: Request) {
        self.send_bytes(proto::SignalRequest { message: Some(message) }.encode_to_vec()).await;
    }

    /// A server that closes meanwhile is seen by who reads.
    pub(super) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        let _ = self.stream.send(WsMessage::Binary(Bytes::from(bytes))).await;
    }

    pub(super) async fn send_text(&mut self, text: &str) {
        let _ = self.stream.send(WsMessage::Text(text.into())).await;
    }

    pub(super) async fn offer(&mut self) {
        if let Some((id, sdp)) = self.peer.offer() {
            let offer =
                proto::SessionDescription { r#type: "offer".into(), sdp, id, ..Default::default() };
            self.send(Request::Offer(offer)).await;
        }
    }

    /// The answer to the open offer, applied.
    pub(super) async fn settle_answer(&mut self) -> proto::SessionDescription {
        let answer = self
            .expect("answer", |message| match message {
                Response::Answer(answer) => Some(answer.clone()),
                _ => None,
            })
            .await;
        if let Some((id, sdp)) = self.peer.answered(answer.id, &answer.sdp) {
            let offer =
                proto::SessionDescription { r#type: "offer".into(), sdp, id, ..Default::default() };
            self.send(Request::Offer(offer)).await;
        }
        answer
    }

    pub(super) async fn until_active(&mut self) {
        let sid = self.sid.clone();
        self.expect("ACTIVE", |message| match message {
            Response::Update(update) => update
                .participants
                .iter()
                .find(|p| p.sid == sid && p.state() == proto::participant_info::State::Active)
                .map(|_| ()),
            _ => None,
        })
        .await;
    }

    pub(super) async fn publish_camera(&mut self) -> String {
        self.send(Request::AddTrack(add_track("cam"))).await;
        self.peer.publish("video", "cam", &[]);
        self.offer().await;
        let published = self
            .expect("track_published", |message| match message {
                Response::TrackPublished(published) => Some(published.clone()),
                _ => None,
            })
            .await;
        self.settle_answer().await;
        published.track.expect("track").sid
    }

    /// Follows the server until the track is described.
    pub(super) async fn takes(&mut self, track: &str) -> bool {
        for _ in 0..100 {
            if self.peer.receiving.values().any(|taken| taken == track) {
                return true;
            }
            match self.next().await {
                Response::MediaSectionsRequirement(needed) => {
                    self.peer.add_sections(needed.num_audios, needed.num_videos);
                    self.offer().await;
                }
                Response::Answer(answer) => {
                    if let Some((id, sdp)) = self.peer.answered(answer.id, &answer.sdp) {
                        let offer = proto::SessionDescription {
                            r#type: "offer".into(),
                            sdp,
                            id,
                            ..Default::default()
                        };
                        self.send(Request::Offer(offer)).await;
                    }
                }
                _ => {}
            }
        }
        false
    }

    /// The first message that fits; others are kept for later calls.
    pub(super) async fn expect<T>(
        &mut self,
        what: &str,
        fits: impl Fn(&Response) -> Option<T>,
    ) -> T {
        let mut passed = VecDeque::new();
        loop {
            let message = match self.unread.pop_front() {
                Some(message) => message,
                None => match tokio::time::timeout(PATIENCE, self.read()).await {
                    Ok(Some(message)) => message,
                    Ok(None) => panic!("closed before {what}; got {:?}", names(&passed)),
                    Err(_) => panic!("never: {what}; got {:?}", names(&passed)),
                },
            };
            if let Some(found) = fits(&message) {
                passed.append(&mut self.unread);
                self.unread = passed;
                return found;
            }
            passed.push_back(message);
        }
    }

    /// Whether a pong comes in this time.
    pub(super) async fn pong_within(&mut self, time: Duration) -> bool {
        let pong = async {
            while let Some(message) = self.read().await {
                if matches!(message, Response::Pong(_)) {
                    return;
                }
            }
        };
        tokio::time::timeout(time, pong).await.is_ok()
    }

    pub(super) async fn next(&mut self) -> Response {
        self.expect("a message", |message| Some(message.clone())).await
    }

    pub(super) async fn expect_text(&mut self, contains: &str) -> String {
        let wait = async {
            while let Some(Ok(message)) = self.stream.next().await {
                if let WsMessage::Text(text) = message
                    && text.contains(contains)
                {
                    return text.to_string();
                }
            }
            panic!("closed before a text with {contains}");
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("no text with {contains}"))
    }

    pub(super) async fn expect_closed(&mut self) {
        let wait = async { while self.read().await.is_some() {} };
        tokio::time::timeout(PATIENCE, wait).await.expect("the server closes");
    }

    async fn read(&mut self) -> Option<Response> {
        loop {
            match self.stream.next().await? {
                Ok(WsMessage::Binary(bytes)) => {
                    let response =
                        proto::SignalResponse::decode(bytes.as_ref()).expect("a response");
                    return Some(response.message.expect("with a message"));
                }
                Ok(WsMessage::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

fn v1_path(server: &Server, room: &str, identity: &str, request: &proto::JoinRequest) -> String {
    let mut request = request.clone();
    request.connection_settings =
        Some(proto::ConnectionSettings { auto_subscribe: true, ..Default::default() });
    let wrapped =
        proto::WrappedJoinRequest { compression: 0, join_request: request.encode_to_vec() };
    let packed = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(wrapped.encode_to_vec());
    format!("/rtc/v1?access_token={}&join_request={packed}", server.token(room, identity))
}

fn names(messages: &VecDeque<Response>) -> Vec<&'static str> {
    messages.iter().map(kind).collect()
}

pub(super) async fn kinds_until(client: &mut Client, last: &'static str) -> Vec<&'static str> {
    let mut kinds = vec![client.first];
    while kinds.last() != Some(&last) {
        let message = client.next().await;
        kinds.push(kind(&message));
    }
    kinds
}
