//! A client on real sockets: str0m in RTP mode, described to the node through its gRPC face.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use chappe_proto::node::v1 as pb;
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

/// What a client publishes.
#[derive(Clone, Copy)]
struct Publication {
    ssrc: u32,
    pt: u8,
    every: Duration,
    ticks: u32,
    next_at: Instant,
    count: u64,
}

pub(crate) struct Client {
    pub(crate) room: String,
    pub(crate) peer: String,
    rtc: Rtc,
    link: Link,
    local: SocketAddr,
    remote: SocketAddr,
    pub(crate) shard_port: u32,
    pub(crate) revision: u64,
    pub(crate) connected: bool,
    publications: Vec<Publication>,
    /// Sequence numbers by SSRC, in the order of arrival.
    pub(crate) packets: HashMap<u32, Vec<u64>>,
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

pub(crate) type Api =
    chappe_proto::node::v1::node_service_client::NodeServiceClient<tonic::transport::Channel>;

impl Client {
    /// Joins over UDP (or ICE-TCP); `state` without a transport.
    pub(crate) async fn join(
        api: &mut Api,
        room: &str,
        peer: &str,
        tcp: bool,
        mut state: pb::PeerState,
    ) -> Self {
        let start = now();
        let mut rtc = Rtc::builder().set_rtp_mode(true).set_stats_interval(None).build(start);
        let mut direct = rtc.direct_api();
        direct.set_ice_controlling(true);
        let ice = direct.local_ice_credentials();
        let fingerprint = direct.local_dtls_fingerprint().clone();
        state.transport = Some(pb::Transport {
            remote_ice: Some(pb::IceCredentials { ufrag: ice.ufrag, pwd: ice.pass }),
            dtls_role: pb::DtlsRole::Passive.into(),
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
        let wanted = if tcp { pb::candidate::Protocol::Tcp } else { pb::candidate::Protocol::Udp };
        let candidate = transport
            .candidates
            .iter()
            .find(|c| c.protocol() == wanted && c.address == "127.0.0.1")
            .expect("a loopback candidate");
        let remote = SocketAddr::new(candidate.address.parse().unwrap(), candidate.port as u16);
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
        direct.start_dtls(true).unwrap();
        direct.start_sctp(true);
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
            shard_port,
            revision: 1,
            connected: false,
            publications: Vec::new(),
            packets: HashMap::new(),
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
            pt: if video { VP8 } else { OPUS },
            every: Duration::from_millis(if video { 33 } else { 20 }),
            ticks: if video { 3_000 } else { 960 },
            next_at: now(),
            count: 0,
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
            let Ok(contents) = datagram.as_slice().try_into() else { continue };
            let proto = self.protocol();
            let received = Receive { proto, source: from, destination: self.local, contents };
            self.rtc.handle_input(Input::Receive(now, received)).unwrap();
            self.drain();
        }
        self.rtc.handle_input(Input::Timeout(now)).unwrap();
        self.drain();
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
                Output::Timeout(_) => return,
                Output::Transmit(transmit) => {
                    self.link.send(transmit.destination, &transmit.contents)
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
        if !self.connected {
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
            let payload =
                if publication.pt == VP8 { vp8_keyframe(count) } else { vec![count as u8; 80] };
            let time = count as u32 * publication.ticks;
            let rtp =
                RtpWrite::new(publication.pt.into(), (1_000 + count).into(), time, now, payload);
            let rtp = rtp.marker(publication.pt == VP8).nackable(publication.pt == VP8);
            direct.stream_tx(&publication.ssrc.into()).unwrap().write_rtp(rtp);
        }
    }
}

/// A whole frame in one packet (RFC 7741): descriptor with a 15-bit picture id, keyframe header, filler.
fn vp8_keyframe(count: u64) -> Vec<u8> {
    let picture = (count as u16 & 0x7fff | 0x8000).to_be_bytes();
    let mut payload = vec![0x90, 0x80, picture[0], picture[1]];
    payload.extend([0x10, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
    payload.resize(1_000, 0xaa);
    payload
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
