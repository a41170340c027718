//! A client on real sockets: str0m in RTP mode, described to the node through its gRPC face.

use std::{
    collections::{HashMap, HashSet},
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use chappe_proto::node::v1::{
    self as pb, node_service_client::NodeServiceClient, node_service_server::NodeServiceServer,
};
use chappe_sfu::{
    config::{CandidateConfig, NodeConfig, Placement},
    control::{Node, NodeApi, NodeHandle},
};
use prost::Message;
use str0m::{
    Candidate, Event, Input, Output, Rtc,
    channel::{ChannelConfig, ChannelId, Reliability},
    config::Fingerprint,
    ice::IceCreds,
    media::MediaKind,
    net::{Protocol, Receive, TcpType},
    rtp::RtpWrite,
};

/// Payload types of str0m's defaults.
pub(crate) const OPUS: u8 = 111;
pub(crate) const VP8: u8 = 96;
const VP8_RTX: u8 = 97;
pub(crate) const H265: u8 = 102;
const H265_RTX: u8 = 103;

/// Every condition comes true within this, or the test fails. Generous: the machine is shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn now() -> Instant {
    #[allow(clippy::disallowed_methods)] // a client has a real clock
    Instant::now()
}

/// What carries datagrams.
enum Link {
    Udp(UdpSocket),
    /// RFC 4571, written here anew: the server's framing is not its own oracle.
    Tcp {
        stream: TcpStream,
        received: Vec<u8>,
    },
}

impl Link {
    fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        match self {
            Self::Udp(socket) => {
                // What does not leave is lost, like anywhere.
                let _ = socket.send_to(datagram, to);
            }
            Self::Tcp { stream, .. } => {
                let mut frame = (datagram.len() as u16).to_be_bytes().to_vec();
                frame.extend_from_slice(datagram);
                stream.set_nonblocking(false).unwrap();
                stream.write_all(&frame).unwrap();
                stream.set_nonblocking(true).unwrap();
            }
        }
    }

    fn receive(&mut self, remote: SocketAddr) -> Option<(SocketAddr, Vec<u8>)> {
        match self {
            Self::Udp(socket) => {
                let mut buffer = [0; 2_000];
                let (len, from) = socket.recv_from(&mut buffer).ok()?;
                Some((from, buffer[..len].to_vec()))
            }
            Self::Tcp { stream, received } => {
                let mut buffer = [0; 4_096];
                match stream.read(&mut buffer) {
                    Ok(len) => received.extend_from_slice(&buffer[..len]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                let length = usize::from(u16::from_be_bytes(*received.first_chunk()?));
                let frame = received.get(2..2 + length)?.to_vec();
                received.drain(..2 + length);
                Some((remote, frame))
            }
        }
    }
}

/// What the network does to a client's datagrams. By default it carries them.
#[derive(Default)]
pub(crate) struct Network {
    /// Of a hundred datagrams to a connected client so many are lost.
    pub(crate) downlink_loss: u64,
    /// Of the generator that chooses them.
    pub(crate) seed: u64,
    pub(crate) lost: u64,
    /// So many of the next media packets are preceded by a copy with a changed byte.
    pub(crate) corrupt: u64,
    /// So many of the next media packets are kept, as somebody on the path could.
    pub(crate) tap: usize,
    pub(crate) tapped: Vec<Vec<u8>>,
}

impl Network {
    fn loses(&mut self) -> bool {
        // Numerical Recipes' generator: any sequence without a pattern does.
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & 0xffff_ffff;
        let lost = (self.seed >> 8) % 100 < self.downlink_loss;
        self.lost += u64::from(lost);
        lost
    }

    /// What arrives before `datagram` does.
    fn interfere(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let media = matches!(datagram, [128..=191, second, ..] if !(192..=223).contains(second));
        if !media {
            return None;
        }
        if self.tap > 0 {
            self.tap -= 1;
            self.tapped.push(datagram.to_vec());
        }
        if self.corrupt == 0 {
            return None;
        }
        self.corrupt -= 1;
        let mut copy = datagram.to_vec();
        // The byte that says which codec, the number, the time, the payload, the tag: each gets its turn.
        let places = [1, 3, 7, datagram.len() / 2, datagram.len() - 1];
        copy[places[self.corrupt as usize % places.len()]] ^= 0x02;
        Some(copy)
    }
}

/// How often and how much a publication sends.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) every: Duration,
    /// Bytes of a payload.
    pub(crate) len: usize,
}

/// What a client publishes.
#[derive(Clone, Copy)]
struct Publication {
    ssrc: u32,
    pt: u8,
    every: Duration,
    ticks: u32,
    len: usize,
    next_at: Instant,
    /// Frames.
    count: u64,
    packets: u64,
}

/// A packet as it arrived.
pub(crate) struct Kept {
    pub(crate) seq: u64,
    pub(crate) time: u32,
    pub(crate) marker: bool,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Client {
    pub(crate) room: String,
    pub(crate) peer: String,
    rtc: Rtc,
    link: Link,
    local: SocketAddr,
    remote: SocketAddr,
    /// Where the node takes ICE-TCP.
    remote_tcp: Option<SocketAddr>,
    pub(crate) shard_port: u32,
    pub(crate) revision: u64,
    pub(crate) connected: bool,
    publications: Vec<Publication>,
    /// Sequence numbers by SSRC, in the order of arrival.
    pub(crate) packets: HashMap<u32, Vec<u64>>,
    /// Numbers that publishers stamped their payloads with, by SSRC, in the order of arrival.
    pub(crate) stamps: HashMap<u32, Vec<u64>>,
    /// Packets by SSRC, of those that have an entry.
    pub(crate) kept: HashMap<u32, Vec<Kept>>,
    /// Media is sent. Off: publications wait with their first packet.
    pub(crate) sending: bool,
    /// What the network does to datagrams.
    pub(crate) network: Network,
    /// Where each STUN request went, by transaction id.
    asked: HashMap<[u8; 12], SocketAddr>,
    /// Addresses that answered STUN requests.
    pub(crate) answered: HashSet<SocketAddr>,
    /// Addresses that anything came from.
    pub(crate) senders: HashSet<SocketAddr>,
    /// When str0m wants its turn.
    wake_at: Instant,
    /// Labels of open channels.
    channels: HashMap<String, ChannelId>,
    opened: Vec<String>,
    credentials: Vec<String>,
    /// Payloads of user packets.
    pub(crate) texts: Vec<(String, String)>,
}

/// What every peer of these tests negotiates.
pub(crate) fn state(address: &str) -> pb::PeerState {
    let codec =
        |payload_type: u8, rtx: Option<u8>, kind: pb::CodecKind, clock_rate, channels| pb::Codec {
            payload_type: payload_type.into(),
            rtx_payload_type: rtx.map(u32::from),
            kind: kind.into(),
            clock_rate,
            channels,
            nack: rtx.is_some(),
            pli: rtx.is_some(),
            ..pb::Codec::default()
        };
    let extension = |kind: pb::ExtensionKind, id| pb::HeaderExtension {
        kind: kind.into(),
        id,
        send: true,
        receive: true,
    };
    let stamp =
        livekit_protocol::DataPacket { participant_identity: address.into(), ..Default::default() };
    pb::PeerState {
        codecs: vec![
            codec(OPUS, None, pb::CodecKind::Opus, 48_000, 2),
            codec(VP8, Some(VP8_RTX), pb::CodecKind::Vp8, 90_000, 0),
            codec(H265, Some(H265_RTX), pb::CodecKind::H265, 90_000, 0),
        ],
        extensions: vec![
            extension(pb::ExtensionKind::Mid, 4),
            extension(pb::ExtensionKind::AudioLevel, 1),
        ],
        data: Some(pb::Data {
            address: address.into(),
            stamp: stamp.encode_to_vec(),
            may_send: true,
            may_receive: true,
            node_opens: false,
        }),
        ..pb::PeerState::default()
    }
}

/// A node's configuration for tests.
pub(crate) fn config(shards: u16) -> NodeConfig {
    NodeConfig {
        shards,
        pin_threads: false,
        udp_port: 0,
        tcp_port: Some(0),
        candidates: CandidateConfig { include_loopback: true, ..CandidateConfig::default() },
        placement: if shards > 1 { Placement::RoundRobin } else { Placement::Home },
        ..NodeConfig::default()
    }
}

/// A node and its control plane's side of it.
pub(crate) async fn node(config: NodeConfig) -> (NodeHandle, Api) {
    let node = Node::start(config).await.unwrap();
    let api = Api::new(node.service());
    (node, api)
}

/// Numbers of the metrics with this name (and label), summed over the shards.
pub(crate) fn metric(node: &NodeHandle, name: &str, label: &str) -> u64 {
    let text = node.metrics();
    let lines = text.lines().filter(|line| line.contains(label));
    let of_line = |line: &str| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<u64>().ok();
    lines.filter_map(of_line).sum()
}

pub(crate) type Api = NodeServiceClient<NodeServiceServer<NodeApi>>;

impl Client {
    /// Joins over UDP (or ICE-TCP); `state` without a transport, but perhaps the node's DTLS role in one.
    pub(crate) async fn join(
        api: &mut Api,
        room: &str,
        peer: &str,
        tcp: bool,
        state: pb::PeerState,
    ) -> Self {
        Self::join_at(api, room, peer, tcp, state, |told| told).await
    }

    /// Joins by another address than it is told.
    pub(crate) async fn join_at(
        api: &mut Api,
        room: &str,
        peer: &str,
        tcp: bool,
        mut state: pb::PeerState,
        other: impl FnOnce(SocketAddr) -> SocketAddr,
    ) -> Self {
        let start = now();
        let mut rtc = Rtc::builder().set_rtp_mode(true).set_stats_interval(None).build(start);
        let mut direct = rtc.direct_api();
        direct.set_ice_controlling(true);
        let ice = direct.local_ice_credentials();
        let fingerprint = direct.local_dtls_fingerprint().clone();
        let active = pb::DtlsRole::Active;
        let node_begins = state.transport.is_some_and(|transport| transport.dtls_role() == active);
        let node_role = if node_begins { active } else { pb::DtlsRole::Passive };
        state.transport = Some(pb::Transport {
            remote_ice: Some(pb::IceCredentials { ufrag: ice.ufrag, pwd: ice.pass }),
            dtls_role: node_role.into(),
            remote_fingerprints: vec![pb::Fingerprint {
                algorithm: "sha-256".into(),
                digest: fingerprint.bytes,
            }],
            sctp: Some(pb::Sctp { remote_port: 5_000, remote_max_message_size: 0 }),
            force_tcp: tcp,
            ..pb::Transport::default()
        });
        let request = pb::ApplyPeerRequest {
            room_id: room.into(),
            peer_id: peer.into(),
            epoch: 1,
            revision: 1,
            change: Some(pb::apply_peer_request::Change::State(state)),
        };
        let transport = api.apply_peer(request).await.unwrap().into_inner().transport.unwrap();
        let told = |wanted: pb::candidate::Protocol| {
            let mut candidates = transport.candidates.iter();
            let loopback =
                candidates.find(|c| c.protocol() == wanted && c.address == "127.0.0.1")?;
            Some(SocketAddr::new(loopback.address.parse().unwrap(), loopback.port as u16))
        };
        let remote_tcp = told(pb::candidate::Protocol::Tcp);
        let remote = if tcp { remote_tcp } else { told(pb::candidate::Protocol::Udp) };
        let remote = other(remote.expect("a loopback candidate"));
        let shard_port = transport
            .candidates
            .iter()
            .find(|c| c.protocol() == pb::candidate::Protocol::Udp)
            .unwrap()
            .port;
        let (link, local) = connect(remote, tcp);
        rtc.add_local_candidate(candidate_of(local, tcp, TcpType::Active));
        rtc.add_remote_candidate(candidate_of(remote, tcp, TcpType::Passive));
        let mut direct = rtc.direct_api();
        let ice = transport.ice.unwrap();
        let own = direct.local_ice_credentials();
        let credentials = vec![own.ufrag, own.pass, ice.ufrag.clone(), ice.pwd.clone()];
        direct.set_remote_ice_credentials(IceCreds { ufrag: ice.ufrag, pass: ice.pwd });
        let theirs = transport.fingerprint.unwrap();
        direct.set_remote_fingerprint(Fingerprint {
            hash_func: theirs.algorithm,
            bytes: theirs.digest,
        });
        direct.start_dtls(!node_begins).unwrap();
        direct.start_sctp(!node_begins);
        for (label, ordered, reliability) in [
            ("_reliable", true, Reliability::Reliable),
            ("_lossy", false, Reliability::MaxRetransmits { retransmits: 0 }),
        ] {
            let label = label.to_owned();
            direct.create_data_channel(ChannelConfig {
                label,
                ordered,
                reliability,
                ..ChannelConfig::default()
            });
        }
        Self {
            room: room.into(),
            peer: peer.into(),
            rtc,
            link,
            local,
            remote,
            remote_tcp,
            shard_port,
            revision: 1,
            connected: false,
            publications: Vec::new(),
            packets: HashMap::new(),
            stamps: HashMap::new(),
            kept: HashMap::new(),
            sending: true,
            network: Network::default(),
            asked: HashMap::new(),
            answered: HashSet::new(),
            senders: HashSet::new(),
            wake_at: start,
            channels: HashMap::new(),
            opened: Vec::new(),
            credentials,
            texts: Vec::new(),
        }
    }

    /// Tells the node a change, and counts the revision up.
    pub(crate) async fn change(&mut self, api: &mut Api, delta: pb::PeerDelta) {
        let request = pb::ApplyPeerRequest {
            room_id: self.room.clone(),
            peer_id: self.peer.clone(),
            epoch: 1,
            revision: self.revision + 1,
            change: Some(pb::apply_peer_request::Change::Delta(pb::PeerDelta {
                base_revision: self.revision,
                ..delta
            })),
        };
        api.apply_peer(request).await.unwrap();
        self.revision += 1;
    }

    /// Sends audio (every 20 ms) or video (every 33 ms) from now on.
    pub(crate) async fn publish(&mut self, api: &mut Api, track_id: &str, video: bool, ssrc: u32) {
        let (every, len) = if video { (33, 1_000) } else { (20, 80) };
        let pace = Pace { every: Duration::from_millis(every), len };
        self.publish_at(api, track_id, video, ssrc, pace).await;
    }

    /// Sends [`h265_unit`]s (every 33 ms) from now on.
    pub(crate) async fn publish_h265(&mut self, api: &mut Api, track_id: &str, ssrc: u32) {
        let pace = Pace { every: Duration::from_millis(33), len: 0 };
        self.publish_as(api, track_id, H265, ssrc, pace).await;
    }

    /// Like [`Self::publish`], at a pace of the caller's.
    pub(crate) async fn publish_at(
        &mut self,
        api: &mut Api,
        track_id: &str,
        video: bool,
        ssrc: u32,
        pace: Pace,
    ) {
        self.publish_as(api, track_id, if video { VP8 } else { OPUS }, ssrc, pace).await;
    }

    async fn publish_as(&mut self, api: &mut Api, track_id: &str, pt: u8, ssrc: u32, pace: Pace) {
        let video = pt != OPUS;
        let mid = format!("p{ssrc}");
        let (kind, media) = if video {
            (pb::MediaKind::Video, MediaKind::Video)
        } else {
            (pb::MediaKind::Audio, MediaKind::Audio)
        };
        let rtx_ssrc = if video { ssrc + 1 } else { 0 };
        let track = pb::Track {
            track_id: track_id.into(),
            kind: kind.into(),
            mid: mid.clone(),
            encodings: vec![pb::Encoding { ssrc, rtx_ssrc, ..pb::Encoding::default() }],
            muted: false,
        };
        self.change(api, pb::PeerDelta { put_tracks: vec![track], ..pb::PeerDelta::default() })
            .await;
        let mut direct = self.rtc.direct_api();
        direct.declare_media(mid.as_str().into(), media);
        let rtx = video.then(|| (ssrc + 1).into());
        direct.declare_stream_tx(ssrc.into(), rtx, mid.as_str().into(), None).set_unpaced(true);
        self.publications.push(Publication {
            ssrc,
            pt,
            every: pace.every,
            ticks: (if video { 90 } else { 48 }) * pace.every.as_millis() as u32,
            len: pace.len,
            next_at: now(),
            count: 0,
            packets: 0,
        });
    }

    /// Takes a track under an SSRC of its own.
    pub(crate) async fn subscribe(
        &mut self,
        api: &mut Api,
        track_id: &str,
        video: bool,
        ssrc: u32,
    ) {
        let mid = format!("s{ssrc}");
        let mut direct = self.rtc.direct_api();
        direct.declare_media(
            mid.as_str().into(),
            if video { MediaKind::Video } else { MediaKind::Audio },
        );
        let rtx = video.then(|| (ssrc + 1).into());
        direct.expect_stream_rx(ssrc.into(), rtx, mid.as_str().into(), None);
        let subscription = pb::Subscription {
            track_id: track_id.into(),
            mid,
            ssrc,
            rtx_ssrc: if video { ssrc + 1 } else { 0 },
            fec_ssrc: 0,
            ..pb::Subscription::default()
        };
        self.change(
            api,
            pb::PeerDelta { put_subscriptions: vec![subscription], ..pb::PeerDelta::default() },
        )
        .await;
    }

    /// Sends a text to everybody.
    pub(crate) fn say(&mut self, text: &str, reliable: bool) {
        let user = livekit_protocol::UserPacket { payload: text.into(), ..Default::default() };
        let packet = livekit_protocol::DataPacket {
            value: Some(livekit_protocol::data_packet::Value::User(user)),
            ..Default::default()
        };
        let channel = self.channels[if reliable { "_reliable" } else { "_lossy" }];
        let mut channel = self.rtc.channel(channel).expect("an open channel");
        assert!(channel.write(true, &packet.encode_to_vec()).unwrap());
        self.wake_at = now();
    }

    /// Has one packet of a payload type and an SSRC that the node was told nothing of.
    pub(crate) fn send_stray(&mut self, payload_type: u8, ssrc: u32, number: u64) {
        let mut direct = self.rtc.direct_api();
        if direct.stream_tx(&ssrc.into()).is_none() {
            let mid = format!("x{ssrc}");
            direct.declare_media(mid.as_str().into(), MediaKind::Audio);
            direct
                .declare_stream_tx(ssrc.into(), None, mid.as_str().into(), None)
                .set_unpaced(true);
        }
        let time = number as u32 * 960;
        let rtp = RtpWrite::new(payload_type.into(), number.into(), time, now(), vec![7; 40]);
        direct.stream_tx(&ssrc.into()).unwrap().write_rtp(rtp);
        self.wake_at = now();
    }

    /// Sends any bytes from the client's own address.
    pub(crate) fn send_raw(&mut self, datagram: &[u8]) {
        self.link.send(self.remote, datagram);
    }

    /// Where the node receives this client.
    pub(crate) fn node_address(&self) -> SocketAddr {
        self.remote
    }

    /// Learns of another address of the node.
    pub(crate) fn hear_of(&mut self, remote: SocketAddr) {
        self.rtc.add_remote_candidate(candidate_of(remote, false, TcpType::Passive));
    }

    /// Leaves its socket for another one, as when the network changes.
    pub(crate) fn change_socket(&mut self) {
        let (link, local) = connect(self.remote, false);
        let mut direct = self.rtc.direct_api();
        assert!(direct.invalidate_candidate(&candidate_of(self.local, false, TcpType::Active)));
        self.rtc.add_local_candidate(candidate_of(local, false, TcpType::Active));
        assert_ne!(self.local, local);
        (self.link, self.local) = (link, local);
        self.wake_at = now();
    }

    /// Leaves its UDP socket for a connection of ICE-TCP: a path of lower priority.
    pub(crate) fn move_to_tcp(&mut self) {
        let remote = self.remote_tcp.expect("the node takes ICE-TCP");
        let (link, local) = connect(remote, true);
        let left = candidate_of(self.local, false, TcpType::Active);
        assert!(self.rtc.direct_api().invalidate_candidate(&left));
        self.rtc.add_local_candidate(candidate_of(local, true, TcpType::Active));
        self.rtc.add_remote_candidate(candidate_of(remote, true, TcpType::Passive));
        (self.link, self.local, self.remote) = (link, local, remote);
        self.wake_at = now();
    }

    /// User name of its checks, and what they should be signed with.
    pub(crate) fn check_username(&self) -> String {
        format!("{}:{}", self.credentials[2], self.credentials[0])
    }

    /// Whether all of the first `count` stamped payloads of a stream have arrived, each once.
    pub(crate) fn has_all(&self, ssrc: u32, count: u64) -> bool {
        let mut stamps = self.stamps.get(&ssrc).cloned().unwrap_or_default();
        stamps.sort_unstable();
        stamps.iter().copied().take(count as usize).eq(1..=count)
    }

    /// Stream as it arrived: none twice, and each under the number that its place in the stream gives it, whatever the
    /// network lost or had sent again. Returns how many are missing before the last one.
    #[track_caller]
    pub(crate) fn missing(&self, ssrc: u32) -> u64 {
        let (stamps, seqs) = (&self.stamps[&ssrc], &self.packets[&ssrc]);
        let offsets: HashSet<_> =
            seqs.iter().zip(stamps).map(|(seq, stamp)| seq.wrapping_sub(*stamp)).collect();
        assert_eq!(offsets.len(), 1, "{ssrc}: numbers {seqs:?} of payloads {stamps:?}");
        let distinct: HashSet<_> = stamps.iter().collect();
        assert_eq!(distinct.len(), stamps.len(), "{ssrc}: twice in {stamps:?}");
        let (first, last) = (stamps.iter().min().unwrap(), stamps.iter().max().unwrap());
        last + 1 - first - stamps.len() as u64
    }

    /// Packets sent so far as an SSRC.
    pub(crate) fn sent(&self, ssrc: u32) -> u64 {
        let mut publications = self.publications.iter();
        publications.find(|publication| publication.ssrc == ssrc).map_or(0, |it| it.packets)
    }

    /// What must not be logged: user names and passwords of both sides.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.credentials.clone()
    }

    pub(crate) fn data_ready(&self) -> bool {
        self.opened.len() == 2
    }

    pub(crate) fn received(&self, ssrc: u32) -> usize {
        self.packets.get(&ssrc).map_or(0, Vec::len)
    }

    /// Does what is due; whether anything was.
    fn pump(&mut self) -> bool {
        let now = now();
        let mut busy = false;
        self.send_media(now);
        while let Some((from, datagram)) = self.link.receive(self.remote) {
            busy = true;
            if self.connected && self.network.downlink_loss > 0 && self.network.loses() {
                continue;
            }
            self.senders.insert(from);
            if let Some((true, transaction)) = stun(&datagram) {
                let asked = self.asked.get(&transaction).expect("an answer to a request");
                assert_eq!(from, *asked, "an answer comes from where the request went");
                self.answered.insert(from);
            }
            let Ok(contents) = datagram.as_slice().try_into() else { continue };
            let proto = self.protocol();
            let received = Receive { proto, source: from, destination: self.local, contents };
            self.rtc.handle_input(Input::Receive(now, received)).unwrap();
            self.drain();
        }
        if now >= self.wake_at {
            self.rtc.handle_input(Input::Timeout(now)).unwrap();
            self.drain();
        }
        busy
    }

    fn protocol(&self) -> Protocol {
        match self.link {
            Link::Udp(_) => Protocol::Udp,
            Link::Tcp { .. } => Protocol::Tcp,
        }
    }

    fn drain(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return;
                }
                Output::Transmit(transmit) => {
                    if let Some(copy) = self.network.interfere(&transmit.contents) {
                        self.link.send(transmit.destination, &copy);
                    }
                    if let Some((false, transaction)) = stun(&transmit.contents) {
                        self.asked.insert(transaction, transmit.destination);
                    }
                    self.link.send(transmit.destination, &transmit.contents);
                }
                Output::Event(event) => self.handle(event),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::RtpPacket(packet) => {
                let ssrc: u32 = *packet.header.ssrc;
                self.packets.entry(ssrc).or_default().push(*packet.seq_no);
                if let Some(kept) = self.kept.get_mut(&ssrc) {
                    kept.push(Kept {
                        seq: *packet.seq_no,
                        time: packet.header.timestamp,
                        marker: packet.header.marker,
                        payload: packet.payload.to_vec(),
                    });
                }
                if let Some(stamp) = packet.payload.last_chunk() {
                    self.stamps.entry(ssrc).or_default().push(u64::from_be_bytes(*stamp));
                }
            }
            Event::ChannelOpen(id, label) => {
                self.channels.insert(label.clone(), id);
                self.opened.push(label);
            }
            Event::ChannelData(data) => {
                let packet = livekit_protocol::DataPacket::decode(data.data.as_slice()).unwrap();
                if let Some(livekit_protocol::data_packet::Value::User(user)) = packet.value {
                    let text = String::from_utf8(user.payload).unwrap();
                    self.texts.push((packet.participant_identity, text));
                }
            }
            _ => {}
        }
    }

    fn send_media(&mut self, now: Instant) {
        if !self.connected || !self.sending {
            return;
        }
        let mut direct = self.rtc.direct_api();
        for publication in &mut self.publications {
            if now < publication.next_at {
                continue;
            }
            publication.next_at = now + publication.every;
            publication.count += 1;
            let count = publication.count;
            let payloads = if publication.pt == H265 {
                h265_unit(count)
            } else {
                let mut payload =
                    if publication.pt == VP8 { vp8_keyframe(count) } else { Vec::new() };
                payload.resize(publication.len - 8, 0xaa);
                payload.extend(count.to_be_bytes());
                vec![payload]
            };
            self.wake_at = now;
            let video = publication.pt != OPUS;
            let time = count as u32 * publication.ticks;
            let last = payloads.len() - 1;
            for (index, payload) in payloads.into_iter().enumerate() {
                publication.packets += 1;
                let seq = (1_000 + publication.packets).into();
                let rtp = RtpWrite::new(publication.pt.into(), seq, time, now, payload);
                let rtp = rtp.marker(video && index == last).nackable(video);
                direct.stream_tx(&publication.ssrc.into()).unwrap().write_rtp(rtp);
            }
        }
    }
}

/// How often an [`h265_unit`] is an intra picture.
pub(crate) const H265_INTRA_EACH: u64 = 10;

/// The packets of one access unit (RFC 7798): parameter sets in an aggregation packet and an IDR picture in fragments, or
/// a trailing picture in a single packet. Each ends with the unit's number.
pub(crate) fn h265_unit(number: u64) -> Vec<Vec<u8>> {
    const TRAIL_R: u8 = 1;
    const IDR: u8 = 19;
    let nal = |kind: u8, len: usize| {
        // The first bit of a slice says that it is the picture's first.
        let mut nal = vec![kind << 1, 1, 0x80];
        nal.resize(len - 8, number as u8);
        nal.extend(number.to_be_bytes());
        nal
    };
    if number % H265_INTRA_EACH != 1 {
        return vec![nal(TRAIL_R, 600)];
    }
    let mut sets = vec![48 << 1, 1];
    for (kind, len) in [(32, 24), (33, 40), (34, 16)] {
        sets.extend((len as u16).to_be_bytes());
        sets.extend(nal(kind, len));
    }
    let picture = nal(IDR, 2_502);
    let parts = picture[2..].chunks(1_000);
    let last = parts.len() - 1;
    let fragment = |(index, part): (usize, &[u8])| {
        let (start, end) = (u8::from(index == 0) << 7, u8::from(index == last) << 6);
        [&[49 << 1, 1, start | end | IDR], part].concat()
    };
    std::iter::once(sets).chain(parts.enumerate().map(fragment)).collect()
}

/// A whole frame in one packet (RFC 7741): descriptor with a 15-bit picture id, keyframe header.
pub(crate) fn vp8_keyframe(count: u64) -> Vec<u8> {
    let picture = (count as u16 & 0x7fff | 0x8000).to_be_bytes();
    let mut payload = vec![0x90, 0x80, picture[0], picture[1]];
    payload.extend([0x10, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
    payload
}

/// Whether a Binding message is a success response (else a request), and its transaction id: RFC 8489 section 5.
fn stun(datagram: &[u8]) -> Option<(bool, [u8; 12])> {
    let answer = match datagram.first_chunk()? {
        [0, 1] => false,
        [1, 1] => true,
        _ => return None,
    };
    Some((answer, *datagram.get(8..)?.first_chunk()?))
}

fn candidate_of(address: SocketAddr, tcp: bool, role: TcpType) -> Candidate {
    if tcp {
        Candidate::builder().tcp().host(address).tcptype(role).build().unwrap()
    } else {
        Candidate::host(address, "udp").unwrap()
    }
}

fn connect(remote: SocketAddr, tcp: bool) -> (Link, SocketAddr) {
    if tcp {
        let stream = TcpStream::connect(remote).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let local = stream.local_addr().unwrap();
        (Link::Tcp { stream, received: Vec::new() }, local)
    } else {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let local = socket.local_addr().unwrap();
        (Link::Udp(socket), local)
    }
}

/// Runs the clients until `done`; fails the test when that takes too long.
pub(crate) async fn drive(
    clients: &mut [&mut Client],
    what: &str,
    mut done: impl FnMut(&[&mut Client]) -> bool,
) {
    let give_up = now() + PATIENCE;
    while !done(clients) {
        assert!(now() < give_up, "not in time: {what}");
        let mut busy = false;
        for client in &mut *clients {
            busy |= client.pump();
        }
        if busy {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
