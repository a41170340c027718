//! One shard whose peers have their SRTP keys without a handshake, so that tests say and read what no client library does.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    rtp::{
        Codec, CodecKind, CodecMap, Extension, ExtensionMap, MediaKind, Mid, Pt, SeqNo, Ssrc,
        TrackId,
    },
    transport::{DtlsVersions, SrtpEgress, SrtpIngress, SrtpKeys, SrtpProfile, fuzz_check},
    wire::RtpPacket,
};

mod fallback;
mod feedback;
mod floods;
mod frames;
mod repair;
mod reports;
mod rooms;

const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const ROOM: &str = "room";
const VP8: u8 = 96;
const OPUS: u8 = 111;
const FEC: u8 = 49;

/// A shard and its peers.
pub(super) struct Node {
    pub(super) now: Instant,
    pub(super) shard: Shard,
    keys: SrtpKeys,
    clients: Vec<Client>,
    /// What it said of late.
    pub(super) events: Vec<(Instant, Event)>,
}

struct Client {
    local: LocalTransport,
    egress: SrtpEgress,
    ingress: SrtpIngress,
}

impl Node {
    pub(super) fn new() -> Self {
        #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
        let now = Instant::now();
        let config = ShardConfig {
            id: ShardId(0),
            shards: 1,
            node_generation: 7,
            max_peers: 2_000,
            limits: DefaultLimits::default(),
            epoch: now,
        };
        let context = TransportContext::generate(DtlsVersions::Dtls12).unwrap();
        let (key, salt) = (vec![1; PROFILE.key_len()], vec![2; PROFILE.salt_len()]);
        let keys = SrtpKeys::new(PROFILE, &key, &salt).unwrap();
        let shard = Shard::new(config, context, [3; 32]);
        Self { now, shard, keys, clients: Vec::new(), events: Vec::new() }
    }

    /// A peer that is connected.
    pub(super) fn join(&mut self, spec: PeerSpec) -> usize {
        let number = self.clients.len();
        let (room, peer) = (RoomId::new(ROOM), peer_id(number));
        let command =
            Command::ApplyPeer { room: room.clone(), peer: peer.clone(), spec: Box::new(spec) };
        let Reply::Applied(Ok(local)) = self.shard.handle_command(self.now, command) else {
            panic!("refused");
        };
        let egress = SrtpEgress::new(&self.keys).unwrap();
        let ingress = SrtpIngress::new(&self.keys).unwrap();
        self.clients.push(Client { local, egress, ingress });
        self.check(number);
        self.shard.fuzz_connect(self.now, &room, &peer, &self.keys);
        self.drain();
        number
    }

    /// What the peer shall be from now on.
    pub(super) fn apply(&mut self, client: usize, spec: PeerSpec) {
        let (room, peer) = (RoomId::new(ROOM), peer_id(client));
        let command = Command::ApplyPeer { room, peer, spec: Box::new(spec) };
        let reply = self.shard.handle_command(self.now, command);
        assert!(matches!(reply, Reply::Applied(Ok(_))), "{reply:?}");
    }

    /// A check that nominates the client's path.
    pub(super) fn check(&mut self, client: usize) {
        let local = &self.clients[client].local;
        let name = format!("{}:remote", local.ufrag);
        let mut check = fuzz_check(&name, &local.pwd, &[0, 0x25, 0, 0]);
        self.shard.handle_datagram(self.now, path(client), &mut check);
    }

    /// A packet of a client; numbers stay below 2^16.
    pub(super) fn rtp(&mut self, client: usize, packet: &[u8]) {
        let mut sealed = self.seal(client, packet);
        self.shard.handle_datagram(self.now, path(client), &mut sealed);
    }

    /// The packet as it is on the wire.
    pub(super) fn seal(&self, client: usize, packet: &[u8]) -> Vec<u8> {
        let header_len = RtpPacket::parse(packet).unwrap().header.header_len;
        let seq = SeqNo(u16::from_be_bytes([packet[2], packet[3]]).into());
        let mut sealed = packet.to_vec();
        sealed.resize(sealed.len() + PROFILE.rtp_overhead(), 0);
        self.clients[client].egress.seal_rtp(seq, header_len, &mut sealed).unwrap();
        sealed
    }

    /// Feedback of a client.
    pub(super) fn rtcp(&mut self, client: usize, compound: &[u8]) {
        let mut sealed = compound.to_vec();
        sealed.resize(sealed.len() + PROFILE.rtcp_overhead(), 0);
        self.clients[client].egress.seal_rtcp(&mut sealed).unwrap();
        self.shard.handle_datagram(self.now, path(client), &mut sealed);
    }

    /// Lets time pass. Gives what left meanwhile, opened: of RTCP and RTP only.
    pub(super) fn run_for(&mut self, span: Duration) -> Vec<Sent> {
        self.runs_for(span).into_iter().flatten().collect()
    }

    /// The same, send by send.
    pub(super) fn runs_for(&mut self, span: Duration) -> Vec<Vec<Sent>> {
        let end = self.now + span;
        let mut runs = self.drain_runs();
        while let Some(at) = self.shard.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.shard.handle_timeout(self.now);
            runs.extend(self.drain_runs());
        }
        self.now = end;
        runs
    }

    /// Everything that a driver owes the shard.
    pub(super) fn drain(&mut self) -> Vec<Sent> {
        self.drain_runs().into_iter().flatten().collect()
    }

    fn drain_runs(&mut self) -> Vec<Vec<Sent>> {
        let mut sent = Vec::new();
        loop {
            while let Some(transmit) = self.shard.poll_transmit() {
                let segment = transmit.segment.unwrap_or(transmit.bytes.len());
                let run: Vec<_> = transmit.bytes.chunks(segment).map(<[u8]>::to_vec).collect();
                sent.push((transmit.path.remote.port(), run));
            }
            if !self.shard.step() {
                break;
            }
        }
        while let Some(event) = self.shard.poll_event() {
            self.events.push((self.now, event));
        }
        let open = |(port, run): (u16, Vec<Vec<u8>>)| -> Vec<Sent> {
            run.into_iter().filter_map(|bytes| self.open(port, bytes)).collect()
        };
        sent.into_iter().map(open).filter(|run| !run.is_empty()).collect()
    }

    fn open(&mut self, port: u16, mut bytes: Vec<u8>) -> Option<Sent> {
        let client = usize::from(port - FIRST_PORT);
        let ingress = &mut self.clients.get_mut(client)?.ingress;
        let (len, rtcp) = match classify(&bytes) {
            DatagramClass::Rtp => (ingress.unprotect_rtp(&mut bytes).unwrap(), false),
            DatagramClass::Rtcp => (ingress.unprotect_rtcp(&mut bytes).unwrap(), true),
            _ => return None,
        };
        bytes.truncate(len);
        Some(Sent { client, rtcp, bytes })
    }
}

/// Something that left.
pub(super) struct Sent {
    pub(super) client: usize,
    pub(super) rtcp: bool,
    pub(super) bytes: Vec<u8>,
}

const FIRST_PORT: u16 = 5_000;

pub(super) fn peer_id(number: usize) -> PeerId {
    PeerId::new(&format!("PA_{number}"))
}

fn path(client: usize) -> FiveTuple {
    FiveTuple {
        protocol: Protocol::Udp,
        local: ([192, 0, 2, 1], 7_882).into(),
        remote: ([198, 51, 100, 1], FIRST_PORT + client as u16).into(),
    }
}

/// A peer that knows VP8 and nothing is asked of.
pub(super) fn bare() -> PeerSpec {
    let vp8 = Codec {
        pt: Pt::new(VP8).unwrap(),
        rtx: Pt::new(VP8 + 1),
        kind: CodecKind::Vp8,
        clock_rate: 90_000,
        channels: 0,
        profile: "".into(),
        red_block: None,
        nack: true,
        pli: true,
        fir: true,
        transport_cc: true,
        remb: false,
    };
    let mut extensions = ExtensionMap::default();
    extensions.set(Extension::Mid, 4);
    PeerSpec {
        transport: TransportParams {
            remote_ice: Some(IceCredentials { ufrag: "remote".into(), pwd: "p".repeat(24) }),
            ..TransportParams::default()
        },
        fec: None,
        ccfb: false,
        codecs: CodecMap::new(vec![vp8]),
        send_extensions: extensions.clone(),
        receive_extensions: extensions,
        tracks: Vec::new(),
        subscriptions: Vec::new(),
        data: None,
        limits: Limits::default(),
        max_egress_bitrate: None,
    }
}

/// The same, and it knows Opus.
pub(super) fn with_opus() -> PeerSpec {
    let spec = bare();
    let opus = Codec {
        pt: Pt::new(OPUS).unwrap(),
        rtx: None,
        kind: CodecKind::Opus,
        clock_rate: 48_000,
        channels: 2,
        ..spec.codecs.iter().next().unwrap().clone()
    };
    let codecs = CodecMap::new(spec.codecs.iter().cloned().chain([opus]).collect());
    PeerSpec { codecs, ..spec }
}

/// A video of one encoding.
pub(super) fn video(track: &str, ssrc: u32) -> TrackSpec {
    let encoding = EncodingSpec { rid: None, ssrc: Some(Ssrc(ssrc)), rtx_ssrc: None };
    TrackSpec {
        id: TrackId::new(track),
        kind: MediaKind::Video,
        mid: Mid::new(b"v").unwrap(),
        encodings: vec![encoding],
        muted: false,
    }
}

/// What a peer takes.
pub(super) fn subscription(track: &str, ssrc: u32) -> SubscriptionSpec {
    SubscriptionSpec {
        track: TrackId::new(track),
        mid: Mid::new(b"s").unwrap(),
        ssrc: Ssrc(ssrc),
        rtx_ssrc: Some(Ssrc(ssrc + 1)),
        fec_ssrc: None,
        paused: false,
        max_spatial: None,
        max_temporal: None,
        max_fps: None,
        suppress_silence: false,
        add_redundancy: false,
        maintain_resolution: false,
        priority: 0,
    }
}
