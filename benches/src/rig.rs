//! One shard driven by hand, on a virtual clock: what a turn costs without threads, sockets and the kernel.
//!
//! The shard is the node's own, its peers joined by ICE and DTLS as any others; what it has to send is counted and thrown
//! away. Everything that is fed to it is made before, by [`Rig::prepare`], so that [`Rig::turn`] is nothing but the shard.

use std::{
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use chappe_sfu::{
    rtp::{Codec, CodecKind, CodecMap, Extension, ExtensionMap, MediaKind, Mid, Pt, Ssrc, TrackId},
    shard::{
        Command, Counters, DefaultLimits, DtlsRole, EncodingSpec, Fingerprint, FiveTuple,
        IceCredentials, Limits, LocalTransport, PeerId, PeerSpec, Protocol, Reply, RoomId, Shard,
        ShardConfig, ShardId, SubscriptionSpec, TrackSpec, TransportContext, TransportParams,
    },
    transport::DtlsVersions,
};

use crate::{
    floor,
    handshake::{Handshake, Identity},
    packet::{self, AUDIO, MID, Place, Stamp, TRANSPORT_CC, VIDEO, VIDEO_RTX},
    room::{of_ssrc, ssrc},
    rtcp,
    srtp::{Profile, Session},
    stun,
};

/// Who is there and what flows.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Peers that publish one track each.
    pub publishers: usize,
    /// Peers that receive all of them.
    pub subscribers: usize,
    /// Packets of a frame.
    pub frame_packets: usize,
    /// Bytes of a payload; see [`packet::size`].
    pub payload: usize,
    /// Sizes within a frame differ by a byte.
    pub uneven: bool,
    /// Packets a second of each publisher.
    pub rate: f64,
    /// Opus instead of VP8.
    pub audio: bool,
    /// Transport-wide feedback ten times a second.
    pub feedback: bool,
    /// Of a hundred packets so many are asked for again.
    pub nack_percent: f64,
    /// The only profile that clients offer; all where not given.
    pub profile: Option<Profile>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            publishers: 1,
            subscribers: 500,
            frame_packets: 4,
            payload: 1_100,
            uneven: false,
            rate: 120.0,
            audio: false,
            feedback: false,
            nack_percent: 0.0,
            profile: None,
        }
    }
}

/// What left the shard.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Output {
    /// RTP packets, retransmissions too.
    pub packets: u64,
    /// Runs, each a system call.
    pub sends: u64,
    /// Of everything.
    pub bytes: u64,
}

impl Output {
    /// What was added to an earlier reading.
    pub fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets - before.packets,
            sends: self.sends - before.sends,
            bytes: self.bytes - before.bytes,
        }
    }

    /// Packets of one send.
    pub fn run_length(self) -> f64 {
        self.packets as f64 / self.sends.max(1) as f64
    }
}

/// Inputs of one turn.
#[derive(Debug)]
pub struct Inputs {
    now: Instant,
    datagrams: Vec<(FiveTuple, Vec<u8>)>,
}

#[derive(Debug)]
struct Client {
    path: FiveTuple,
    session: Session,
    username: String,
    key: hmac::Key,
    checks: u64,
    /// Highest number of each stream that it tells of, by publisher.
    highest: Vec<u32>,
    /// When the packets left that it did not tell of yet, microseconds: they carry transport-wide numbers in this order.
    arrivals: Vec<Option<u64>>,
    /// Packets that it told of.
    told: u64,
    reports: u64,
}

#[derive(Debug)]
struct Publisher {
    client: usize,
    index: u32,
    frame: u32,
}

/// A shard with everybody joined.
#[derive(Debug)]
pub struct Rig {
    setup: Setup,
    shard: Shard,
    begun: Instant,
    now: Instant,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    frame: u64,
    visited: u64,
    output: Output,
    random: u64,
}

/// Of all clients.
const UFRAG: &str = "clientside";

/// How often a client is visited: feedback and NACKs; see [`Rig::visit`].
const VISITS_PER_SECOND: f64 = 10.0;

/// Datagrams that the node reads in one system call.
const RECEIVED_AT_ONCE: usize = 32;

impl Rig {
    /// Joins everybody.
    pub fn new(setup: Setup) -> Result<Self, String> {
        let begun = Instant::now();
        let context =
            TransportContext::generate(DtlsVersions::Dtls12).map_err(|error| error.to_string())?;
        let config = ShardConfig {
            id: ShardId(0),
            shards: 1,
            node_generation: 7,
            max_peers: 1 << 20,
            limits: DefaultLimits::default(),
            epoch: begun,
        };
        let mut rig = Self {
            setup,
            shard: Shard::new(config, context, [7; 32]),
            begun,
            now: begun,
            clients: Vec::new(),
            publishers: Vec::new(),
            frame: 0,
            visited: 0,
            output: Output::default(),
            random: 0x9e37_79b9_7f4a_7c15,
        };
        let identity = Identity::generate(setup.profile)?;
        for place in 0..setup.subscribers + setup.publishers {
            let publishes = place.checked_sub(setup.subscribers);
            rig.join(place, publishes, &identity)?;
            if let Some(publisher) = publishes {
                let client = rig.clients.len() - 1;
                debug_assert_eq!(publisher, rig.publishers.len());
                rig.publishers.push(Publisher { client, index: 1_000, frame: 0 });
            }
        }
        Ok(rig)
    }

    /// The same, some virtual seconds later.
    pub fn warmed_up(setup: Setup, seconds: Duration) -> Result<Self, String> {
        let mut rig = Self::new(setup)?;
        for _ in 0..(seconds.as_secs_f64() / rig.interval().as_secs_f64()) as u64 {
            let inputs = rig.prepare();
            rig.turn(inputs);
        }
        Ok(rig)
    }

    /// The shard's own counters.
    pub fn counters(&self) -> &Counters {
        self.shard.counters()
    }

    /// What left so far.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Packets that all subscribers together should get in a turn.
    pub fn packets_per_turn(&self) -> u64 {
        let Setup { publishers, subscribers, frame_packets, .. } = self.setup;
        (publishers * subscribers * frame_packets) as u64
    }

    /// The most packets of media that one subscriber gets in so many seconds.
    fn packets_of_a_client(&self, seconds: f64) -> usize {
        let Setup { publishers, rate, frame_packets, .. } = self.setup;
        publishers * ((seconds * rate) as usize + frame_packets)
    }

    /// Profile that was agreed on.
    pub fn profile(&self) -> Profile {
        self.clients[0].session.profile
    }

    /// From one frame to the next.
    pub fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.setup.frame_packets as f64 / self.setup.rate)
    }

    /// What arrives until the next turn: a frame of each publisher, and the reports and checks that are due.
    pub fn prepare(&mut self) -> Inputs {
        let mut inputs = self.prepare_rest();
        for publisher in 0..self.publishers.len() {
            self.publish(publisher, &mut inputs.datagrams);
        }
        inputs
    }

    /// The same time without media.
    pub fn prepare_rest(&mut self) -> Inputs {
        self.frame += 1;
        let now = self.begun + Duration::from_secs(1) + self.interval() * self.frame as u32;
        let mut datagrams = Vec::new();
        let elapsed = (now - self.begun).as_secs_f64();
        let due = (elapsed * VISITS_PER_SECOND * self.clients.len() as f64) as u64;
        // In the first turn as in any other.
        let most = (self.interval().as_secs_f64() * VISITS_PER_SECOND * self.clients.len() as f64)
            .ceil() as u64;
        self.visited = self.visited.max(due.saturating_sub(most));
        while self.visited < due {
            let place = (self.visited % self.clients.len() as u64) as usize;
            self.visit(place, &mut datagrams);
            self.visited += 1;
        }
        Inputs { now, datagrams }
    }

    /// Wakes the shard for each of its deadlines until then, feeds all of it and takes what the shard has to send, as the
    /// node's loop does.
    #[inline(never)]
    pub fn turn(&mut self, mut inputs: Inputs) {
        while let Some(due) = self.shard.poll_timeout().filter(|due| *due < inputs.now) {
            self.now = self.now.max(due);
            self.shard.handle_timeout(self.now);
            self.drain();
        }
        self.now = inputs.now;
        // In batches, as they come out of a socket; the node has another for RTCP.
        for batch in inputs.datagrams.chunks_mut(RECEIVED_AT_ONCE) {
            let rtcp = batch.iter().filter(|(_, datagram)| is_rtcp(datagram));
            self.shard.expect_rtcp(rtcp.map(|(path, _)| *path));
            for (path, datagram) in batch {
                self.shard.handle_datagram(inputs.now, *path, datagram);
            }
        }
        self.shard.handle_timeout(inputs.now);
        self.drain();
    }

    /// The same under another name, which tools that count can tell from the warm-up.
    #[inline(never)]
    pub fn counted_turn(&mut self, inputs: Inputs) {
        black_box(&self.frame);
        self.turn(inputs);
    }

    fn drain(&mut self) {
        let Self { shard, output, clients, now, begun, .. } = self;
        let at = (*now - *begun).as_micros() as u64;
        loop {
            while let Some(transmit) = shard.poll_transmit() {
                output.sends += 1;
                output.bytes += transmit.bytes.len() as u64;
                let segment = transmit.segment.unwrap_or(transmit.bytes.len());
                let count = transmit.bytes.len().div_ceil(segment);
                // The run's last packet tells enough of it: the streams of a run take turns, numbers grow.
                let last = transmit.bytes.get((count - 1) * segment..).unwrap_or(&[]);
                if is_rtp(last) {
                    output.packets += count as u64;
                    if let Some(client) = clients.get_mut(place_of(transmit.path.remote)) {
                        client.note(at, count, last);
                    }
                }
                black_box(transmit.bytes);
            }
            if !shard.step() {
                break;
            }
        }
        while let Some(event) = shard.poll_event() {
            drop(event);
        }
        black_box(shard.poll_timeout());
    }

    fn publish(&mut self, publisher: usize, datagrams: &mut Vec<(FiveTuple, Vec<u8>)>) {
        let Setup { audio, frame_packets, payload, uneven, rate, .. } = self.setup;
        let Publisher { client, index, frame } = &mut self.publishers[publisher];
        let Client { session, path, .. } = &self.clients[*client];
        let (pt, clock) = if audio { (AUDIO, 48_000.0) } else { (VIDEO, 90_000.0) };
        let time = frame_packets as f64 / rate * clock * f64::from(*frame);
        for n in 0..frame_packets {
            let (first, last) = (n == 0, n + 1 == frame_packets);
            let mut bytes =
                packet::header(last, pt, *index as u16, time as u64 as u32, ssrc(publisher))
                    .to_vec();
            bytes.resize(12 + packet::size(payload, uneven, n, frame_packets), 0);
            let keyframe = frame.is_multiple_of(50);
            let place = Place { frame: *frame, first, last, keyframe };
            let stamp = Stamp { index: *index, sent: 0 };
            packet::write_payload(audio, place, stamp, &mut bytes[12..]);
            bytes.resize(bytes.len() + session.profile.tag_len(), 0);
            session.rtp.seal(ssrc(publisher), (*index).into(), 12, &mut bytes).expect("room");
            datagrams.push((*path, bytes));
            *index += 1;
        }
        *frame += 1;
    }

    /// What a client does ten times a second: feedback and NACKs; once a second a report, every four a check.
    fn visit(&mut self, place: usize, datagrams: &mut Vec<(FiveTuple, Vec<u8>)>) {
        let Setup { feedback, nack_percent, audio, .. } = self.setup;
        let client = &mut self.clients[place];
        client.reports += 1;
        let mut compound = Vec::new();
        if client.reports % 10 == 1 {
            let streams: Vec<_> =
                client.highest.iter().enumerate().map(|(n, highest)| (ssrc(n), *highest)).collect();
            rtcp::receiver_report(&streams, &mut compound);
        }
        let fresh = client.arrivals.len();
        if feedback {
            let (base, count) = (client.told as u16, client.reports as u8);
            rtcp::transport_cc(base, &client.arrivals, count, &mut compound);
        }
        client.told += fresh as u64;
        client.arrivals.clear();
        if nack_percent > 0.0 && !audio {
            // Any of the last ones is there.
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let wanted = fresh as f64 * nack_percent / 100.0;
            let extra = (self.random >> 40) as f64 / f64::from(1 << 24) < wanted.fract();
            let count = wanted as u16 + u16::from(extra);
            if let Some(highest) = client.highest.first().filter(|_| count > 0) {
                let numbers: Vec<u16> =
                    (1..=count).map(|n| (*highest as u16).wrapping_sub(n)).collect();
                rtcp::nack(ssrc(0), &numbers, &mut compound);
            }
        }
        if client.reports % 40 == 1 {
            datagrams.push((client.path, client.check(place)));
        }
        if !compound.is_empty() && client.session.seal_rtcp(&mut compound).is_ok() {
            datagrams.push((client.path, compound));
        }
    }

    fn join(
        &mut self,
        place: usize,
        publishes: Option<usize>,
        identity: &Identity,
    ) -> Result<(), String> {
        let spec = spec(&self.setup, publishes, identity);
        let command = Command::ApplyPeer {
            room: RoomId::new("RM_bench"),
            peer: PeerId::new(&format!("PA_{place}")),
            spec: Box::new(spec),
        };
        let reply = self.shard.handle_command(self.now, command);
        let Reply::Applied(Ok(LocalTransport { ufrag, pwd, .. })) = reply else {
            return Err(format!("{reply:?}"));
        };
        let path = path(place);
        let mut client = Joining {
            path,
            username: format!("{ufrag}:{UFRAG}"),
            key: stun::integrity_key(&pwd),
            handshake: Handshake::new(identity, self.now)?,
        };
        let session = client.run(&mut self.shard, self.now, place)?;
        let Joining { username, key, .. } = client;
        self.clients.push(Client {
            path,
            session,
            username,
            key,
            checks: 1,
            highest: vec![0; self.setup.publishers],
            // What comes between three visits: a turn that is counted must not allocate here.
            arrivals: Vec::with_capacity(self.packets_of_a_client(3.0 / VISITS_PER_SECOND)),
            told: 0,
            // Not all of them report in the same turn.
            reports: place as u64,
        });
        Ok(())
    }
}

fn is_rtcp(datagram: &[u8]) -> bool {
    matches!(datagram, [128..=191, 192..=223, ..])
}

fn is_rtp(datagram: &[u8]) -> bool {
    matches!(datagram, [128..=191, second, ..] if !(192..=223).contains(second))
}

impl Client {
    /// Packets left to it, and this was the last of them.
    fn note(&mut self, at: u64, count: usize, last: &[u8]) {
        self.arrivals.resize(self.arrivals.len() + count, Some(at));
        let Some(fixed) = last.first_chunk::<12>() else { return };
        let [_, _, high, low, .., a, b, c, d] = *fixed;
        if let Some((publisher, false)) = of_ssrc(u32::from_be_bytes([a, b, c, d]))
            && let Some(highest) = self.highest.get_mut(publisher)
        {
            *highest = u16::from_be_bytes([high, low]).into();
        }
    }

    fn check(&mut self, place: usize) -> Vec<u8> {
        self.checks += 1;
        stun::binding_request(&self.username, &self.key, transaction(place, self.checks))
    }
}

struct Joining {
    path: FiveTuple,
    username: String,
    key: hmac::Key,
    handshake: Handshake,
}

impl Joining {
    /// One check and the handshake.
    fn run(&mut self, shard: &mut Shard, now: Instant, place: usize) -> Result<Session, String> {
        let mut to_node =
            vec![stun::binding_request(&self.username, &self.key, transaction(place, 1))];
        let mut session = None;
        for _ in 0..10 {
            for mut datagram in to_node.drain(..) {
                shard.handle_datagram(now, self.path, &mut datagram);
            }
            loop {
                while let Some(transmit) = shard.poll_transmit() {
                    let segment = transmit.segment.unwrap_or(transmit.bytes.len());
                    for datagram in transmit.bytes.chunks(segment) {
                        if matches!(datagram.first(), Some(20..=63)) {
                            self.handshake.handle(now, datagram)?;
                        }
                    }
                }
                if !shard.step() {
                    break;
                }
            }
            while shard.poll_event().is_some() {}
            if let Some(new) = self.handshake.drain(|bytes| to_node.push(bytes.to_vec()))? {
                session = Some(new);
            }
            if to_node.is_empty() {
                break;
            }
        }
        session.ok_or_else(|| "the handshake did not end".to_owned())
    }
}

fn transaction(place: usize, check: u64) -> [u8; 12] {
    let mut transaction = [0; 12];
    transaction[..4].copy_from_slice(&(place as u32).to_be_bytes());
    transaction[4..].copy_from_slice(&check.to_be_bytes());
    transaction
}

fn path(place: usize) -> FiveTuple {
    let remote = SocketAddr::new(floor::address(place).into(), 5_000);
    FiveTuple { protocol: Protocol::Udp, local: ([127, 0, 0, 1], 7_882).into(), remote }
}

fn place_of(remote: SocketAddr) -> usize {
    match remote {
        SocketAddr::V4(remote) => floor::place(*remote.ip()).unwrap_or(usize::MAX),
        SocketAddr::V6(_) => usize::MAX,
    }
}

fn codecs(feedback: bool) -> CodecMap {
    let codec = |pt: u8, rtx: Option<u8>, kind, clock_rate, channels| Codec {
        pt: Pt::new(pt).expect("a payload type"),
        rtx: rtx.and_then(Pt::new),
        kind,
        clock_rate,
        channels,
        profile: "".into(),
        red_block: None,
        nack: rtx.is_some(),
        pli: rtx.is_some(),
        fir: false,
        transport_cc: feedback,
        remb: false,
    };
    CodecMap::new(vec![
        codec(VIDEO, Some(VIDEO_RTX), CodecKind::Vp8, 90_000, 0),
        codec(AUDIO, None, CodecKind::Opus, 48_000, 2),
    ])
}

/// As `crate::room` describes peers to a whole node.
fn spec(setup: &Setup, publishes: Option<usize>, identity: &Identity) -> PeerSpec {
    let mut extensions = ExtensionMap::default();
    extensions.set(Extension::Mid, MID);
    if setup.feedback {
        extensions.set(Extension::TransportCc, TRANSPORT_CC);
    }
    let kind = if setup.audio { MediaKind::Audio } else { MediaKind::Video };
    let rtx = |publisher| (!setup.audio).then_some(Ssrc(ssrc(publisher) + 1));
    let mid = |n: usize| Mid::new(n.to_string().as_bytes()).expect("digits");
    let track = |n: usize| TrackId::new(&format!("TR_{n}"));
    let tracks = publishes.map(|n| TrackSpec {
        id: track(n),
        kind,
        mid: mid(0),
        encodings: vec![EncodingSpec { rid: None, ssrc: Some(Ssrc(ssrc(n))), rtx_ssrc: rtx(n) }],
        muted: false,
    });
    let taken = if publishes.is_some() { 0 } else { setup.publishers };
    let subscriptions = (0..taken).map(|n| SubscriptionSpec {
        track: track(n),
        mid: mid(n),
        ssrc: Ssrc(ssrc(n)),
        rtx_ssrc: rtx(n),
        fec_ssrc: None,
        paused: false,
        max_spatial: None,
        max_temporal: None,
        max_fps: None,
        suppress_silence: false,
        add_redundancy: false,
        maintain_resolution: false,
        priority: 0,
    });
    PeerSpec {
        transport: TransportParams {
            remote_ice: Some(IceCredentials {
                ufrag: UFRAG.into(),
                pwd: "a-password-of-24-letters".into(),
            }),
            dtls_role: Some(DtlsRole::Passive),
            remote_fingerprints: vec![Fingerprint {
                algorithm: "sha-256".into(),
                digest: identity.fingerprint(),
            }],
            ..TransportParams::default()
        },
        codecs: codecs(setup.feedback),
        send_extensions: extensions.clone(),
        receive_extensions: extensions,
        tracks: tracks.into_iter().collect(),
        subscriptions: subscriptions.collect(),
        fec: None,
        ccfb: false,
        data: None,
        limits: Limits::default(),
        max_egress_bitrate: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(setup: Setup, turns: u64) -> (Rig, Output) {
        let mut rig = Rig::new(setup).unwrap();
        let before = rig.output();
        for _ in 0..turns {
            let inputs = rig.prepare();
            rig.turn(inputs);
        }
        let output = rig.output().since(before);
        (rig, output)
    }

    #[test]
    fn a_frame_reaches_everybody_in_one_run_each_with_every_cipher() {
        for profile in [None, Some(Profile::Gcm128), Some(Profile::CmSha1)] {
            let setup = Setup { subscribers: 5, profile, ..Setup::default() };
            let (rig, output) = run(setup, 10);
            assert_eq!(rig.profile(), profile.unwrap_or(Profile::Gcm256));
            assert_eq!(output.packets, 10 * rig.packets_per_turn());
        }
    }

    #[test]
    fn a_frame_of_uneven_sizes_is_one_run_too() {
        let even = run(Setup { subscribers: 5, ..Setup::default() }, 30).1;
        let uneven = run(Setup { subscribers: 5, uneven: true, ..Setup::default() }, 30).1;
        assert_eq!(uneven.packets, even.packets);
        assert!(uneven.sends < even.sends + 10, "{uneven:?} {even:?}");
    }

    #[test]
    fn feedback_is_taken_and_what_is_asked_for_comes_again() {
        let setup =
            Setup { subscribers: 4, feedback: true, nack_percent: 10.0, ..Setup::default() };
        let (rig, output) = run(setup, 300);
        assert!(rig.counters().transport_feedback > 100, "{:?}", rig.counters());
        assert!(rig.counters().retransmitted > 50, "{:?}", rig.counters());
        assert!(output.packets >= 300 * rig.packets_per_turn());
    }

    #[test]
    fn what_the_pacer_holds_back_leaves_without_more_media() {
        let setup = Setup {
            subscribers: 3,
            rate: 300.0,
            feedback: true,
            nack_percent: 1.0,
            ..Setup::default()
        };
        let mut rig = Rig::new(setup).unwrap();
        let turns = |rig: &mut Rig, media: u64, rest: u64| {
            for n in 0..media + rest {
                let inputs = if n < media { rig.prepare() } else { rig.prepare_rest() };
                rig.turn(inputs);
            }
        };
        // Until the estimate allows the picture and some more.
        turns(&mut rig, 900, 20);
        for round in 0..100 {
            let before = rig.counters().media_out;
            let frames = 1 + round % 7;
            turns(&mut rig, frames, 8);
            let sent = rig.counters().media_out - before;
            assert_eq!(sent, frames * rig.packets_per_turn(), "round {round}");
        }
        // A pause that is long enough for the encoding to count as silent.
        for round in 0..5 {
            let before = rig.counters().media_out;
            turns(&mut rig, 75, 150);
            let sent = rig.counters().media_out - before;
            assert_eq!(sent, 75 * rig.packets_per_turn(), "long round {round}");
        }
    }
}
