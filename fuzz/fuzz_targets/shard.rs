//! Two shards driven by operations: joins, leaves, checks, media, feedback, data, time, relay messages, garbage.
//!
//! An input begins with a byte that says what is there at the start: nothing, or a meeting of up to six peers that are connected,
//! publish and subscribe. Then come steps.
//!
//! DTLS and SCTP are stood in for (their crates draw randomness of their own): peers are given SRTP keys, and what their
//! channels would say is said. Everything behind that is the shard's own.
#![no_main]

#[path = "shared/captures.rs"]
mod captures;
#[path = "shard/media.rs"]
mod media;
#[path = "shard/seeds.rs"]
mod scenes;
#[path = "shared/seeds.rs"]
mod seeds;
#[path = "shard/spec.rs"]
mod spec;

use std::{
    cell::OnceCell,
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_sfu::{
    rtp::{Bitrate, ExtensionMap, MediaKind, RtpTs32, Seq16, SeqNo, Ssrc, TrackId},
    shard::{
        Command, DefaultLimits, FiveTuple, LocalTransport, PeerId, Protocol, RelayMessage, Reply,
        RoomId, Shard, ShardConfig, ShardId, TransportContext,
    },
    transport::{
        ChannelId, DtlsVersions, SrtpEgress, SrtpKeys, SrtpProfile, TransportEvent, fuzz_check,
    },
    wire::{
        NtpTime, RtpPacket,
        rtcp::{
            ArrivalTick, CcfbBlock, CompoundWriter, FirEntry, Pli, ReportBlock, SenderInfo,
            TransportFeedbackFields,
        },
    },
};
use libfuzzer_sys::fuzz_target;
use media::{Sources, Wish};
use spec::{extensions, spec};

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
    extensions: ExtensionMap,
}

struct Client {
    room: RoomId,
    peer: PeerId,
    shard: usize,
    local: Option<LocalTransport>,
    egress: SrtpEgress,
    sources: Sources,
    /// What it got since it connected: numbers of a stream are never used twice, since SRTP would use a nonce twice.
    numbers: HashSet<(Ssrc, u16)>,
    /// The last of it.
    got: VecDeque<Got>,
    reported: u8,
}

/// A packet that a client got.
#[derive(Clone, Copy)]
struct Got {
    ssrc: Ssrc,
    seq: u16,
    transport_cc: Option<u16>,
}

impl Client {
    const REMEMBERED: usize = 48;

    fn get(&mut self, datagram: &[u8], extensions: &ExtensionMap) {
        let Ok(packet) = RtpPacket::parse(datagram) else { return };
        // RTCP on the same port (RFC 5761 section 4).
        if (192..=223).contains(&datagram[1]) {
            return;
        }
        let (ssrc, seq) = (packet.header.ssrc, packet.header.seq.0);
        assert!(self.numbers.insert((ssrc, seq)), "{ssrc:?}, {seq} twice");
        // Long before numbers wrap.
        if self.numbers.len() > 20_000 {
            self.numbers.clear();
        }
        if self.got.len() == Self::REMEMBERED {
            self.got.pop_front();
        }
        let transport_cc = packet.extension_values(extensions).transport_cc;
        self.got.push_back(Got { ssrc, seq, transport_cc });
    }
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
            sources: Sources::default(),
            numbers: HashSet::new(),
            got: VecDeque::new(),
            reported: 0,
        };
        let clients = (0..PEERS).map(client).collect();
        let extensions = extensions();
        Self { now, shards: (0..2).map(shard).collect(), clients, keys, extensions }
    }

    /// A meeting: the low three bits say of how many, the others what they agreed on.
    fn begin(&mut self, bits: u8) {
        let step = |op, a, b, body| Step { op, a, b, body };
        // Feedback of RFC 8888, FlexFEC, REMB; wishes of subscribers.
        let features = [bits >> 3 & 0x1e, 0, if bits & 0x80 != 0 { 0x2b } else { 0 }];
        for number in 0..bits & 7 {
            // All tracks and data.
            self.run(&step(0, number, 0x0f, &features));
            self.run(&step(3, number, 0, &[]));
            self.run(&step(4, number, 0, &[]));
        }
        self.drain();
    }

    fn run(&mut self, step: &Step<'_>) {
        let number = usize::from(step.a) % PEERS;
        match step.op & 0x0f {
            0 => self.apply(number, step),
            1 => self.report(number, step),
            2 => self.remove(number, step.b),
            3 => self.check(number, step),
            4 => self.connect(number),
            5 => self.noise(number, step),
            6 => self.media(number, step),
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
        let client = &mut self.clients[number];
        client.numbers.clear();
        let shard = &mut self.shards[client.shard];
        shard.fuzz_connect(self.now, &client.room, &client.peer, &self.keys);
    }

    /// A burst of packets as encoders make them. The body: format, where a byte is changed and how, level (see [`Wish`]).
    fn media(&mut self, number: usize, step: &Step<'_>) {
        let of = |at: usize| step.body.get(at).copied().unwrap_or(0);
        let first = 1_000 * number as u32;
        for index in 0..1 + (step.b >> 5) {
            let wish = Wish {
                stream: step.b & 3,
                key: step.b & 8 != 0 && index == 0,
                format: of(0),
                at: of(1),
                xor: if index == 0 { of(2) } else { 0 },
                level: of(3),
            };
            let packet = self.clients[number].sources.packet(first, wish, &self.extensions);
            let is_lost = step.b & 4 != 0 && index == 0;
            if !is_lost {
                self.send(number, packet);
            }
        }
        let sources = &mut self.clients[number].sources;
        // What was lost, or not, comes again, or is repaired.
        let repair = match step.b & 0x10 {
            0 => None,
            _ if of(4) & 1 == 0 => sources.again(first, (step.b >> 5).into()),
            _ => sources.repair(first, 1 + usize::from(step.b >> 5)),
        };
        if let Some(packet) = repair {
            self.send(number, packet);
        }
    }

    /// A packet with any bytes behind the fixed header.
    fn noise(&mut self, number: usize, step: &Step<'_>) {
        let ssrc = Ssrc(1_000 * number as u32 + u32::from(step.b >> 2 & 7));
        let seq = self.clients[number].sources.next_seq(ssrc, 1 + u16::from(step.b >> 6));
        let (_, pt) = media::PTS[usize::from(step.b) % media::PTS.len()];
        let extended = step.body.first().map_or(0, |first| first & 0x3f);
        let mut packet = vec![0x80 | extended, pt + (step.b >> 5 & 1) | (step.b << 4 & 0x80)];
        packet.extend(seq.to_be_bytes());
        packet.extend(u32::from(seq).wrapping_mul(960).to_be_bytes());
        packet.extend(ssrc.0.to_be_bytes());
        packet.extend(step.body.get(1..).unwrap_or_default());
        self.send(number, packet);
    }

    fn send(&mut self, number: usize, mut packet: Vec<u8>) {
        let client = &mut self.clients[number];
        let header_len = RtpPacket::parse(&packet).map_or(12, |packet| packet.header.header_len);
        let seq = SeqNo(u16::from_be_bytes([packet[2], packet[3]]).into());
        packet.resize(packet.len() + PROFILE.rtp_overhead(), 0);
        if client.egress.seal_rtp(seq, header_len, &mut packet).is_ok() {
            self.shards[client.shard].handle_datagram(self.now, path(number, 0), &mut packet);
        }
    }

    /// What a browser reports of the packets that it got; bits of the body say which were lost, bytes how late they were.
    fn report(&mut self, number: usize, step: &Step<'_>) {
        let of = |at: usize| step.body.get(at).copied().unwrap_or(0);
        let client = &mut self.clients[number];
        let sender = Ssrc(1_000 * number as u32 + 1);
        let Some(last) = client.got.back().copied() else { return };
        // The last stream but so many.
        let back = usize::from(step.b >> 4);
        let media = client.got.iter().rev().nth(back).map_or(last.ssrc, |got| got.ssrc);
        let lost = |index: usize| of(index / 8) >> (index % 8) & 1 != 0;
        let same: Vec<_> = client.got.iter().filter(|got| got.ssrc == media).collect();
        let mut buf = [0; 1_200];
        let mut writer = CompoundWriter::new(&mut buf);
        let written = match step.b & 7 {
            0 => {
                let lost = same.iter().enumerate().filter(|(index, _)| lost(*index));
                writer.nack(sender, media, lost.map(|(_, got)| Seq16(got.seq)))
            }
            1 => {
                let numbered: Vec<_> =
                    client.got.iter().filter_map(|got| got.transport_cc).collect();
                let Some(base_seq) = numbered.first().copied() else { return };
                let count = usize::from(numbered[numbered.len() - 1].wrapping_sub(base_seq)) + 1;
                let mut at = 0;
                let arrivals: Vec<_> = (0..count.min(1_000))
                    .map(|index| {
                        at += i64::from(of(6 + index)) * 4;
                        (!lost(index)).then_some(ArrivalTick(at))
                    })
                    .collect();
                client.reported = client.reported.wrapping_add(1);
                let feedback_count = client.reported;
                let fields = TransportFeedbackFields { sender, media, base_seq, feedback_count };
                writer.transport_cc(&fields, &arrivals).map(|_| ())
            }
            2 => {
                let Some(begin) = same.first().map(|got| Seq16(got.seq)) else { return };
                let now = self.now;
                let late = |index: usize| Duration::from_millis(of(6 + index).into());
                let arrivals: Vec<_> = (0..same.len())
                    .map(|index| (!lost(index)).then(|| now + late(index)))
                    .collect();
                let block = CcfbBlock { ssrc: media, begin, arrivals: &arrivals };
                writer.ccfb(sender, 77, &block, |at| at - now).map(|_| ())
            }
            3 => {
                let block = ReportBlock {
                    ssrc: media,
                    fraction_lost: of(0),
                    cumulative_lost: of(1).into(),
                    highest_seq: last.seq.into(),
                    jitter: of(2).into(),
                    last_sr: u32::from(of(3)) << 16,
                    delay_since_last_sr: u32::from(of(4)) << 8,
                };
                writer.receiver_report(sender, &[block])
            }
            4 => writer.pli(&Pli { sender, media }),
            5 => writer.fir(sender, &[FirEntry { ssrc: media, seq: of(0) }]),
            6 => writer.remb(sender, Bitrate::from_bps(1 << (of(0) % 48)), &[media]),
            _ => {
                let info = SenderInfo {
                    ssrc: Ssrc(sender.0 - 1 + u32::from(of(0) & 1)),
                    ntp: NtpTime(u64::from(of(1)) << 32),
                    rtp_timestamp: RtpTs32(u32::from(of(2)) << 10),
                    packet_count: 1,
                    octet_count: 1,
                };
                writer.sender_report(&info, &[])
            }
        };
        let len = writer.len();
        if written.is_ok() && len > 0 {
            self.send_rtcp(number, buf[..len].to_vec());
        }
    }

    fn feedback(&mut self, number: usize, step: &Step<'_>) {
        let mut packet = vec![0x80 | step.b & 0x1f, 200 + (step.b >> 5)];
        packet.extend(step.body);
        packet.resize(packet.len().max(8), 0);
        self.send_rtcp(number, packet);
    }

    fn send_rtcp(&mut self, number: usize, mut packet: Vec<u8>) {
        let client = &mut self.clients[number];
        packet.resize(packet.len() + PROFILE.rtcp_overhead(), 0);
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
                    let size = transmit.segment.unwrap_or(transmit.bytes.len());
                    for datagram in transmit.bytes.chunks(size) {
                        // The stream says whose it is: a path may have been another's before.
                        let ssrc = datagram
                            .get(8..12)
                            .map_or([0; 4], |ssrc| [ssrc[0], ssrc[1], ssrc[2], ssrc[3]]);
                        let number = u32::from_be_bytes(ssrc).wrapping_sub(50_000) / 1_000;
                        if let Some(client) = self.clients.get_mut(number as usize) {
                            client.get(datagram, &self.extensions);
                        }
                    }
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

fuzz_target!(init: seeds::write(scenes::all), |data: &[u8]| {
    let mut world = World::new();
    let Some((beginning, mut rest)) = data.split_first() else { return };
    world.begin(*beginning);
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
