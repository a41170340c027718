//! Two shards driven by operations: joins, leaves, checks, media, feedback, data, time, relay messages, garbage.
//!
//! DTLS and SCTP are stood in for (their crates draw randomness of their own): peers are given SRTP keys, and what their
//! channels would say is said. Everything behind that is the shard's own.
#![no_main]

use std::{
    cell::OnceCell,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_sfu::{
    rtp::{
        Bitrate, Codec, CodecKind, CodecMap, Extension, ExtensionMap, MediaKind, Mid, Pt, Rid,
        SeqNo, Ssrc, TrackId,
    },
    shard::{
        Command, DataSpec, DefaultLimits, EncodingSpec, FiveTuple, IceCredentials, Limits,
        LocalTransport, PeerId, PeerSpec, Protocol, RelayMessage, Reply, RoomId, Shard,
        ShardConfig, ShardId, SubscriptionSpec, TrackSpec, TransportContext, TransportParams,
    },
    transport::{
        ChannelId, DtlsVersions, SrtpEgress, SrtpKeys, SrtpProfile, TransportEvent, fuzz_check,
    },
    wire::RtpPacket,
};
use libfuzzer_sys::fuzz_target;

const PEERS: usize = 6;
const TRACKS_EACH: u32 = 3;
const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;

thread_local! {
    static CONTEXT: OnceCell<(TransportContext, Instant)> = const { OnceCell::new() };
}

struct World {
    now: Instant,
    shards: Vec<Shard>,
    keys: SrtpKeys,
    clients: Vec<Client>,
}

struct Client {
    room: RoomId,
    peer: PeerId,
    shard: usize,
    local: Option<LocalTransport>,
    egress: SrtpEgress,
    seq: u16,
}

/// One step: what, two arguments, a body.
struct Step<'a> {
    op: u8,
    a: u8,
    b: u8,
    body: &'a [u8],
}

impl<'a> Step<'a> {
    fn next(data: &mut &'a [u8]) -> Option<Self> {
        let ([op, a, b, len], rest) = data.split_first_chunk()?;
        let (body, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        *data = rest;
        Some(Self { op: *op, a: *a, b: *b, body })
    }
}

impl World {
    fn new() -> Self {
        let (context, now) = CONTEXT.with(|known| {
            let made = || {
                let context = TransportContext::generate(DtlsVersions::Dtls12).expect("keys");
                (context, Instant::now())
            };
            known.get_or_init(made).clone()
        });
        let shard = |id: u16| {
            let config = ShardConfig {
                id: ShardId(id),
                shards: 2,
                node_generation: 7,
                max_peers: 5,
                limits: DefaultLimits::default(),
                epoch: now,
            };
            Shard::new(config, context.clone(), [id as u8; 32])
        };
        let (key, salt) = (vec![1; PROFILE.key_len()], vec![2; PROFILE.salt_len()]);
        let keys = SrtpKeys::new(PROFILE, &key, &salt).expect("lengths of the profile");
        let client = |number: usize| Client {
            room: RoomId::new(if number == 5 { "other" } else { "room" }),
            peer: PeerId::new(&format!("PA_{number}")),
            shard: number % 2,
            local: None,
            egress: SrtpEgress::new(&keys).expect("keys of the profile"),
            seq: 0,
        };
        let clients = (0..PEERS).map(client).collect();
        Self { now, shards: (0..2).map(shard).collect(), clients, keys }
    }

    fn run(&mut self, step: &Step<'_>) {
        let number = usize::from(step.a) % PEERS;
        match step.op & 0x0f {
            0 | 1 => self.apply(number, step),
            2 => self.remove(number, step.b),
            3 => self.check(number, step),
            4 => self.connect(number),
            5 | 6 => self.media(number, step),
            7 => self.feedback(number, step),
            8 => {
                let path = path(number, step.b);
                let shard = self.clients[number].shard;
                self.shards[shard].handle_datagram(self.now, path, &mut step.body.to_vec());
            }
            9 => self.channel(number, step),
            10 => {
                self.drain();
                self.now += Duration::from_millis(u64::from(step.b) * 8);
                for shard in &mut self.shards {
                    shard.handle_timeout(self.now);
                }
            }
            11 => self.pump(usize::from(step.b)),
            12 => self.relay_noise(step),
            13 => self.send_data(number, step),
            14 => {
                let _ = self.shards[usize::from(step.a % 2)].step();
            }
            _ => self.drain(),
        }
    }

    fn apply(&mut self, number: usize, step: &Step<'_>) {
        let client = &mut self.clients[number];
        let spec = Box::new(spec(number, step.b, step.body));
        let command =
            Command::ApplyPeer { room: client.room.clone(), peer: client.peer.clone(), spec };
        let reply = self.shards[client.shard].handle_command(self.now, command);
        if let Reply::Applied(Ok(local)) = reply {
            client.local = Some(local);
        }
    }

    fn remove(&mut self, number: usize, what: u8) {
        let Client { room, peer, shard, .. } = &self.clients[number];
        let (room, peer) = (room.clone(), peer.clone());
        let command = match what % 4 {
            0 => Command::RemoveRoom { room },
            1 => Command::ReportPeer { room, peer },
            _ => Command::RemovePeer { room, peer },
        };
        self.shards[*shard].handle_command(self.now, command);
    }

    fn check(&mut self, number: usize, step: &Step<'_>) {
        let client = &self.clients[number];
        let Some(local) = &client.local else { return };
        let name = format!("{}:remote", local.ufrag);
        // USE-CANDIDATE, mostly.
        let attributes = if step.body.is_empty() { &[0, 0x25, 0, 0][..] } else { step.body };
        let mut check = fuzz_check(&name, &local.pwd, attributes);
        let path = path(number, step.b);
        self.shards[client.shard].handle_datagram(self.now, path, &mut check);
    }

    fn connect(&mut self, number: usize) {
        let client = &self.clients[number];
        let shard = &mut self.shards[client.shard];
        shard.fuzz_connect(self.now, &client.room, &client.peer, &self.keys);
    }

    fn media(&mut self, number: usize, step: &Step<'_>) {
        let client = &mut self.clients[number];
        client.seq = client.seq.wrapping_add(1 + u16::from(step.b >> 6));
        let pt = [96, 97, 111, 98][usize::from(step.b & 3)] | (step.b << 4 & 0x80);
        let ssrc = 1_000 * number as u32 + u32::from(step.b >> 2 & 7);
        let extended = step.body.first().map_or(0, |first| first & 0x3f);
        let mut packet = vec![0x80 | extended, pt];
        packet.extend(client.seq.to_be_bytes());
        packet.extend(u32::from(client.seq).wrapping_mul(960).to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend(step.body.get(1..).unwrap_or_default());
        let header_len = RtpPacket::parse(&packet).map_or(12, |packet| packet.header.header_len);
        packet.resize(packet.len() + PROFILE.rtp_overhead(), 0);
        let seq = SeqNo(client.seq.into());
        if client.egress.seal_rtp(seq, header_len, &mut packet).is_ok() {
            self.shards[client.shard].handle_datagram(self.now, path(number, 0), &mut packet);
        }
    }

    fn feedback(&mut self, number: usize, step: &Step<'_>) {
        let client = &mut self.clients[number];
        let mut packet = vec![0x80 | step.b & 0x1f, 200 + (step.b >> 5)];
        packet.extend(step.body);
        packet.resize(packet.len().max(8) + PROFILE.rtcp_overhead(), 0);
        if client.egress.seal_rtcp(&mut packet).is_ok() {
            self.shards[client.shard].handle_datagram(self.now, path(number, 0), &mut packet);
        }
    }

    fn channel(&mut self, number: usize, step: &Step<'_>) {
        let Client { room, peer, shard, .. } = &self.clients[number];
        let channel = ChannelId(u16::from(step.b & 3));
        let event = match step.b >> 2 & 3 {
            0 => TransportEvent::ChannelOpen {
                channel,
                label: ["_reliable", "_lossy", "other"][usize::from(step.b >> 4) % 3].to_owned(),
                ordered: true,
                by_peer: true,
            },
            1 if step.b > 0xf0 => TransportEvent::ChannelClosed(channel),
            1 if step.b > 0xe0 => TransportEvent::DataLost,
            _ => TransportEvent::Message {
                channel,
                binary: true,
                bytes: Bytes::copy_from_slice(step.body),
            },
        };
        self.shards[*shard].fuzz_event(self.now, room, peer, event);
    }

    fn relay_noise(&mut self, step: &Step<'_>) {
        let (to, from) = (usize::from(step.a & 1), ShardId(u16::from(step.a & 1 ^ 1)));
        let (route, encoding) = (u32::from(step.b >> 3), step.b & 7);
        let room = RoomId::new("room");
        let message = match step.a >> 1 & 7 {
            0 => RelayMessage::Keyframe { route, encoding },
            1 => RelayMessage::Unpublish { route },
            2 => RelayMessage::DataLost { room },
            3 => RelayMessage::Enter { room, answer: step.b & 1 == 1 },
            4 => RelayMessage::Leave { room },
            5 => RelayMessage::Publish {
                route,
                room,
                track: TrackId::new(&format!("t{}", step.b & 15)),
                kind: if step.b & 1 == 0 { MediaKind::Audio } else { MediaKind::Video },
                encodings: 1 + step.b % 4,
                publisher: PeerId::new(&format!("PA_{}", step.b >> 4)),
            },
            _ => RelayMessage::Spent(Vec::new()),
        };
        self.shards[to].handle_relay(self.now, from, message);
    }

    fn send_data(&mut self, number: usize, step: &Step<'_>) {
        let client = &self.clients[number];
        let destinations = if step.b & 2 == 0 { vec![] } else { vec!["PA_1".into()] };
        let command = Command::SendData {
            room: client.room.clone(),
            packet: Bytes::copy_from_slice(step.body),
            reliable: step.b & 1 == 0,
            destinations,
        };
        self.shards[client.shard].handle_command(self.now, command);
    }

    /// So many messages cross, each way.
    fn pump(&mut self, limit: usize) {
        for (from, to) in [(0, 1), (1, 0)] {
            for _ in 0..limit {
                let Some(message) = self.shards[from].poll_relay(ShardId(to as u16)) else { break };
                self.shards[to].handle_relay(self.now, ShardId(from as u16), message);
            }
        }
    }

    /// Everything that a driver owes the shards.
    fn drain(&mut self) {
        self.pump(256);
        for shard in &mut self.shards {
            let mut steps = 0;
            loop {
                while let Some(transmit) = shard.poll_transmit() {
                    assert!(!transmit.bytes.is_empty() && transmit.bytes.len() <= 65_535);
                }
                if !shard.step() {
                    break;
                }
                steps += 1;
                assert!(steps < 100_000, "a shard of six peers comes to an end");
            }
            while shard.poll_event().is_some() {}
            shard.fuzz_check();
            let _ = shard.poll_timeout();
        }
    }
}

fn path(number: usize, other: u8) -> FiveTuple {
    // Two paths each, and now and then another peer's.
    let number = if other == 255 { 0 } else { number };
    FiveTuple {
        protocol: Protocol::Udp,
        local: ([192, 0, 2, 1], 7_882).into(),
        remote: ([198, 51, 100, number as u8], 5_000 + u16::from(other == 7)).into(),
    }
}

fn spec(number: usize, bits: u8, body: &[u8]) -> PeerSpec {
    let codec = |pt: u8, rtx: Option<u8>, kind, clock_rate, channels| Codec {
        pt: Pt::new(pt).expect("seven bits"),
        rtx: rtx.and_then(Pt::new),
        kind,
        clock_rate,
        channels,
        profile: "".into(),
        red_block: None,
        nack: rtx.is_some(),
        pli: rtx.is_some(),
        fir: rtx.is_some(),
        transport_cc: true,
        remb: false,
    };
    let mut extensions = ExtensionMap::default();
    for (extension, id) in [
        (Extension::AudioLevel, 1),
        (Extension::AbsSendTime, 2),
        (Extension::TransportCc, 3),
        (Extension::Mid, 4),
        (Extension::Rid, 10),
        (Extension::RepairedRid, 11),
    ] {
        extensions.set(extension, id);
    }
    let mut codecs = vec![
        codec(111, None, CodecKind::Opus, 48_000, 2),
        codec(96, Some(97), CodecKind::Vp8, 90_000, 0),
    ];
    if body.first().is_some_and(|byte| byte & 1 == 1) {
        codecs.push(codec(98, None, CodecKind::Vp9, 90_000, 0));
    }
    let first = 1_000 * number as u32;
    let track = |index: u32| {
        let kind = if index == 0 { MediaKind::Audio } else { MediaKind::Video };
        let simulcast = index == 2;
        let encodings = (0..if simulcast { 2 } else { 1 }).map(|layer| EncodingSpec {
            rid: simulcast.then(|| Rid::new(&b"qh"[layer..=layer]).expect("a letter")),
            ssrc: (!simulcast).then_some(Ssrc(first + index)),
            rtx_ssrc: (index == 1).then_some(Ssrc(first + 4)),
        });
        TrackSpec {
            id: TrackId::new(&format!("t{}", number as u32 * TRACKS_EACH + index)),
            kind,
            mid: Mid::new(format!("{index}").as_bytes()).expect("a digit"),
            encodings: encodings.collect(),
            muted: bits & 0x40 != 0 && index == 0,
        }
    };
    let subscriptions = (0..PEERS as u32 * TRACKS_EACH).filter(|index| {
        let wanted = body.get(1 + *index as usize / 8).copied().unwrap_or(0xff);
        index / TRACKS_EACH != number as u32 && wanted >> (index % 8) & 1 == 1
    });
    let subscription = |index: u32| SubscriptionSpec {
        track: TrackId::new(&format!("t{index}")),
        mid: Mid::new(format!("s{index}").as_bytes()).expect("short"),
        ssrc: Ssrc(50_000 + 2 * index),
        rtx_ssrc: (index % 3 != 0).then_some(Ssrc(50_001 + 2 * index)),
        paused: bits & 0x20 != 0 && index % 2 == 0,
        max_spatial: (bits & 0x10 != 0).then_some(0),
        max_temporal: None,
        max_fps: None,
        suppress_silence: false,
        add_redundancy: false,
        maintain_resolution: false,
        priority: 0,
    };
    let address = format!("PA_{number}");
    let mut stamp = vec![0x22, address.len() as u8];
    stamp.extend(address.as_bytes());
    PeerSpec {
        transport: TransportParams {
            remote_ice: Some(IceCredentials { ufrag: "remote".into(), pwd: "p".repeat(24) }),
            ice_generation: u32::from(body.first().copied().unwrap_or(0) >> 1 & 1),
            ..TransportParams::default()
        },
        fec: None,
        ccfb: false,
        codecs: CodecMap::new(codecs),
        send_extensions: extensions.clone(),
        receive_extensions: extensions,
        tracks: (0..TRACKS_EACH).filter(|index| bits >> index & 1 == 1).map(track).collect(),
        subscriptions: subscriptions.map(subscription).collect(),
        data: (bits & 8 != 0).then(|| DataSpec {
            address: address.as_str().into(),
            stamp: stamp.into(),
            may_send: true,
            may_receive: true,
            node_opens: false,
        }),
        limits: Limits::default(),
        max_egress_bitrate: (bits & 0x80 != 0).then(|| Bitrate::from_bps(300_000)),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut world = World::new();
    let mut rest = data;
    while let Some(step) = Step::next(&mut rest) {
        world.run(&step);
        // Slices are cut: not every step is followed by a drain.
        if step.op & 0x80 == 0 {
            world.drain();
        }
    }
    // Goodbye to all: nothing is left of them.
    for room in ["room", "other"] {
        for shard in &mut world.shards {
            shard.handle_command(world.now, Command::RemoveRoom { room: RoomId::new(room) });
        }
    }
    for _ in 0..4 {
        world.drain();
    }
    for shard in &world.shards {
        assert_eq!(shard.peers(), 0);
    }
});
