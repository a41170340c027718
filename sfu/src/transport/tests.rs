//! The whole transport against a str0m client, in memory and on a virtual clock.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    channel::{ChannelConfig, Reliability},
    config::{DtlsVersion, Fingerprint as PeerFingerprint},
    net::{Protocol as Net, Receive},
};

use super::*;

const LATENCY: Duration = Duration::from_millis(5);
const SECOND: Duration = Duration::from_secs(1);

fn server_address() -> std::net::SocketAddr {
    "192.0.2.1:7882".parse().unwrap()
}

fn client_address(host: u8) -> std::net::SocketAddr {
    format!("198.51.100.{host}:5000").parse().unwrap()
}

fn path(host: u8) -> FiveTuple {
    FiveTuple { protocol: Protocol::Udp, local: server_address(), remote: client_address(host) }
}

fn local(generation: u8) -> IceCredentials {
    IceCredentials {
        ufrag: format!("ufrag{generation}"),
        pwd: format!("a-password-of-generation-{generation}"),
    }
}

struct Setup {
    versions: DtlsVersions,
    client_version: DtlsVersion,
    role: DtlsRole,
    right_fingerprint: bool,
    /// The client stays silent in SCTP until we greet.
    client_greets: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            versions: DtlsVersions::Dtls12,
            client_version: DtlsVersion::Dtls12,
            role: DtlsRole::Passive,
            right_fingerprint: true,
            client_greets: true,
        }
    }
}

/// Transport and client with a link of 5 ms between them.
struct World {
    now: Instant,
    transport: Transport,
    client: Rtc,
    params: TransportParams,
    /// Which host the client's datagrams come from.
    client_host: u8,
    to_client: VecDeque<(Instant, FiveTuple, Vec<u8>)>,
    to_server: VecDeque<(Instant, FiveTuple, Vec<u8>)>,
    events: Vec<TransportEvent>,
    client_channels: Vec<(str0m::channel::ChannelId, String)>,
    client_messages: Vec<(bool, Vec<u8>)>,
    last_path_to_client: Option<FiveTuple>,
    client_is_silent: bool,
    /// Percentage of DTLS datagrams that are lost, in both directions.
    loss: u32,
    wakeups: usize,
    random: u32,
}

impl World {
    fn new(setup: &Setup) -> Self {
        #[allow(clippy::disallowed_methods, reason = "a virtual clock has to start somewhere")]
        let now = Instant::now();
        let context = TransportContext::generate(setup.versions).unwrap();
        let mut client = RtcConfig::new().set_dtls_version(setup.client_version).build(now);
        client.add_local_candidate(Candidate::host(client_address(1), "udp").unwrap());
        client.add_remote_candidate(Candidate::host(server_address(), "udp").unwrap());
        let mut api = client.direct_api();
        let remote_ice = api.local_ice_credentials();
        let fingerprint = api.local_dtls_fingerprint().clone();
        api.set_ice_controlling(true);
        api.set_remote_ice_credentials(str0m::ice::IceCreds {
            ufrag: local(1).ufrag,
            pass: local(1).pwd,
        });
        api.set_remote_fingerprint(PeerFingerprint {
            hash_func: context.fingerprint().algorithm.clone(),
            bytes: context.fingerprint().digest.clone(),
        });
        let client_is_dtls_client = setup.role == DtlsRole::Passive;
        api.start_dtls(client_is_dtls_client).unwrap();
        api.start_sctp(setup.client_greets && client_is_dtls_client);

        let mut digest = fingerprint.bytes.clone();
        if !setup.right_fingerprint {
            digest[7] ^= 1;
        }
        let params = TransportParams {
            remote_ice: Some(IceCredentials { ufrag: remote_ice.ufrag, pwd: remote_ice.pass }),
            dtls_role: Some(setup.role),
            remote_fingerprints: vec![Fingerprint { algorithm: fingerprint.hash_func, digest }],
            sctp: Some(SctpParams { remote_port: 5_000, remote_max_message_size: 0 }),
            ..TransportParams::default()
        };
        let mut transport = Transport::new(&context, &local(1), now);
        transport.set_remote(now, &params);
        Self {
            now,
            transport,
            client,
            params,
            client_host: 1,
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            events: Vec::new(),
            client_channels: Vec::new(),
            client_messages: Vec::new(),
            last_path_to_client: None,
            client_is_silent: false,
            loss: 0,
            wakeups: 0,
            random: 1,
        }
    }

    fn connected(setup: &Setup) -> Self {
        let mut world = Self::new(setup);
        world.run_until(10 * SECOND, |world| world.profile().is_some());
        world
    }

    fn profile(&self) -> Option<SrtpProfile> {
        self.events.iter().find_map(|event| match event {
            TransportEvent::Connected { profile } => Some(*profile),
            _ => None,
        })
    }

    fn failure(&self) -> Option<FailReason> {
        self.events.iter().find_map(|event| match event {
            TransportEvent::Failed(reason) => Some(*reason),
            _ => None,
        })
    }

    fn messages(&self) -> Vec<(ChannelId, bool, Bytes)> {
        self.events
            .iter()
            .filter_map(|event| match event {
                TransportEvent::Message { channel, binary, bytes } => {
                    Some((*channel, *binary, bytes.clone()))
                }
                _ => None,
            })
            .collect()
    }

    fn open_channel(&self) -> Option<(ChannelId, String, bool, bool)> {
        self.events.iter().find_map(|event| match event {
            TransportEvent::ChannelOpen { channel, label, ordered, by_peer } => {
                Some((*channel, label.clone(), *ordered, *by_peer))
            }
            _ => None,
        })
    }

    fn lost(&mut self, datagram: &[u8]) -> bool {
        if !(20..64).contains(&datagram[0]) {
            return false;
        }
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.random >> 16) % 100 < self.loss
    }

    fn drain(&mut self) {
        let mut out = Vec::new();
        while let Some(path) = self.transport.poll_transmit(&mut out) {
            assert!(out.len() <= 1_200, "datagram of {} bytes", out.len());
            self.last_path_to_client = Some(path);
            if !self.lost(&out) {
                self.to_client.push_back((self.now + LATENCY, path, out.clone()));
            }
        }
        while let Some(event) = self.transport.poll_event() {
            self.events.push(event);
        }
        if self.client_is_silent {
            return;
        }
        loop {
            match self.client.poll_output().unwrap() {
                Output::Timeout(_) => return,
                Output::Transmit(transmit) => {
                    let datagram = transmit.contents.to_vec();
                    if !self.lost(&datagram) {
                        let from = path(self.client_host);
                        self.to_server.push_back((self.now + LATENCY, from, datagram));
                    }
                }
                Output::Event(Event::ChannelOpen(id, label)) => {
                    self.client_channels.push((id, label));
                }
                Output::Event(Event::ChannelData(data)) => {
                    self.client_messages.push((data.binary, data.data));
                }
                Output::Event(_) => {}
            }
        }
    }

    /// One millisecond of both sides.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        while self.to_server.front().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, from, datagram) = self.to_server.pop_front().unwrap();
            let _ = match datagram[0] {
                0..=3 => self.transport.handle_stun(self.now, from, &datagram),
                _ => self.transport.handle_dtls(self.now, from, &datagram),
            };
            self.drain();
        }
        if self.transport.poll_timeout().is_some_and(|at| at <= self.now) {
            self.wakeups += 1;
            self.transport.handle_timeout(self.now);
        }
        while self.to_client.front().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, to, datagram) = self.to_client.pop_front().unwrap();
            if to != path(self.client_host) || self.client_is_silent {
                continue;
            }
            // The client knows itself by its first address whatever its NAT makes of it.
            let receive =
                Receive::new(Net::Udp, server_address(), client_address(1), &datagram).unwrap();
            self.client.handle_input(Input::Receive(self.now, receive)).unwrap();
            self.drain();
        }
        if !self.client_is_silent {
            self.client.handle_input(Input::Timeout(self.now)).unwrap();
        }
        self.drain();
    }

    fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now - start < limit, "not reached: {:?}", self.events);
            self.step();
        }
        self.now - start
    }
}

#[test]
fn connects_in_both_roles_and_all_versions() {
    for (versions, client_version) in [
        (DtlsVersions::Dtls12, DtlsVersion::Dtls12),
        (DtlsVersions::Dtls12, DtlsVersion::Auto),
        (DtlsVersions::Dtls13, DtlsVersion::Dtls13),
        (DtlsVersions::Dtls13, DtlsVersion::Auto),
        (DtlsVersions::Auto, DtlsVersion::Dtls12),
        (DtlsVersions::Auto, DtlsVersion::Dtls13),
        (DtlsVersions::Auto, DtlsVersion::Auto),
    ] {
        for role in [DtlsRole::Passive, DtlsRole::Active] {
            let mut world =
                World::new(&Setup { versions, client_version, role, ..Setup::default() });
            world.run_until(5 * SECOND, |world| world.profile().is_some());
            assert_eq!(world.profile(), Some(SrtpProfile::AeadAes256Gcm), "{versions:?} {role:?}");
            assert_eq!(world.transport.egress_path(), Some(path(1)));
            assert!(
                world.client.is_connected() || {
                    world.run_until(SECOND, |world| world.client.is_connected());
                    true
                }
            );
        }
    }
}

#[test]
fn a_wrong_fingerprint_fails_in_both_roles() {
    for role in [DtlsRole::Passive, DtlsRole::Active] {
        let mut world = World::new(&Setup { role, right_fingerprint: false, ..Setup::default() });
        world.run_until(5 * SECOND, |world| world.failure().is_some());
        assert_eq!(world.failure(), Some(FailReason::Fingerprint));
        assert!(world.transport.srtp_egress().is_none(), "no keys for a stranger");
        assert_eq!(world.transport.poll_timeout(), None);
    }
}

#[test]
fn a_fingerprint_that_comes_late_completes_the_handshake() {
    let mut world = World::new(&Setup::default());
    let params = std::mem::take(&mut world.params);
    world.transport = {
        let context = TransportContext::generate(DtlsVersions::Dtls12).unwrap();
        let fingerprint = context.fingerprint();
        let fingerprint = PeerFingerprint {
            hash_func: fingerprint.algorithm.clone(),
            bytes: fingerprint.digest.clone(),
        };
        world.client.direct_api().set_remote_fingerprint(fingerprint);
        Transport::new(&context, &local(1), world.now)
    };
    for _ in 0..500 {
        world.step();
    }
    assert_eq!(world.profile(), None);
    world.transport.set_remote(world.now, &params);
    world.drain();
    assert!(world.profile().is_some(), "no further packet is needed");
}

#[test]
fn the_handshake_survives_loss() {
    for seed in 0..5 {
        for role in [DtlsRole::Passive, DtlsRole::Active] {
            let mut world = World::new(&Setup { role, ..Setup::default() });
            (world.loss, world.random) = (20, seed);
            world.run_until(25 * SECOND, |world| world.profile().is_some());
        }
    }
}

#[test]
fn dtls_is_refused_from_a_five_tuple_without_a_check() {
    let mut world = World::connected(&Setup::default());
    let now = world.now;
    let hello = [22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    assert_eq!(world.transport.handle_dtls(now, path(9), &hello), Err(DropReason::NotValidated));
    let mut out = Vec::new();
    assert_eq!(world.transport.poll_transmit(&mut out), None, "a spoofed hello has no answer");
}

#[test]
fn dtls_garbage_from_the_peers_address_does_no_harm() {
    let mut world = World::connected(&Setup::default());
    let now = world.now;
    for len in 0..200_usize {
        for first in [20, 21, 22, 23, 63] {
            let mut garbage = vec![0xa5; len];
            let header = [first, 254, 253, 0, 1, 0, 0, 0, 0, 0, 9, 0, len.saturating_sub(13) as u8];
            garbage[..len.min(13)].copy_from_slice(&header[..len.min(13)]);
            let _ = world.transport.handle_dtls(now, path(1), &garbage);
            world.drain();
        }
    }
    assert_eq!(world.failure(), None);
    assert_echo(&mut world);
}

#[test]
fn a_moved_client_has_its_media_within_one_check() {
    let mut world = World::connected(&Setup::default());
    // Another NAT binding: everything the client sends comes from elsewhere, nothing reaches the old address.
    world.client_host = 2;
    let moved = world.run_until(5 * SECOND, |world| world.transport.accepts(&path(2)));
    assert!(moved < 4 * SECOND, "{moved:?}");
    world.run_until(2 * LATENCY, |world| world.transport.egress_path() == Some(path(2)));
    assert!(world.events.contains(&TransportEvent::PathSelected(path(2))));
    assert_echo(&mut world);
}

#[test]
fn a_silent_client_is_lost_after_fifteen_seconds() {
    let mut world = World::connected(&Setup::default());
    world.run_until(SECOND, |world| world.client.is_connected());
    world.client_is_silent = true;
    world.to_server.clear();
    let silence = world.run_until(16 * SECOND, |world| world.failure().is_some());
    assert_eq!(world.failure(), Some(FailReason::ConsentLost));
    assert!(silence > 11 * SECOND, "{silence:?}");
    assert_eq!(world.transport.poll_timeout(), None);
    let now = world.now;
    assert_eq!(world.transport.handle_stun(now, path(1), &[]), Err(DropReason::Closed));
}

#[test]
fn an_idle_transport_sleeps() {
    let mut world = World::connected(&Setup::default());
    assert_echo(&mut world);
    world.run_until(2 * SECOND, |world| world.transport.buffered(ChannelId(0)) == 0);
    for _ in 0..2_000 {
        world.step();
    }
    world.wakeups = 0;
    for _ in 0..10_000 {
        world.step();
    }
    assert!(world.wakeups < 10, "{} timers in 10 s", world.wakeups);
}

#[test]
fn an_ice_restart_keeps_dtls_and_data() {
    let mut world = World::connected(&Setup::default());
    assert_echo(&mut world);
    world.transport.restart_ice(&local(2));
    for _ in 0..3_000 {
        world.step();
    }
    assert_eq!(world.failure(), None, "the old credentials are still answered");
    assert!(world.transport.answers_to("ufrag1") && world.transport.answers_to("ufrag2"));
    assert_echo(&mut world);
}

/// Opens a channel from the client if there is none, and sends a message there and back.
fn assert_echo(world: &mut World) {
    if world.open_channel().is_none() {
        world.client.direct_api().create_data_channel(ChannelConfig {
            label: "echo".to_owned(),
            ..ChannelConfig::default()
        });
        world.run_until(5 * SECOND, |world| {
            world.open_channel().is_some() && !world.client_channels.is_empty()
        });
    }
    let (channel, ..) = world.open_channel().unwrap();
    let (client_channel, _) = world.client_channels[0].clone();
    let (before, client_before) = (world.messages().len(), world.client_messages.len());
    world.client.channel(client_channel).unwrap().write(true, b"ping").unwrap();
    world.run_until(5 * SECOND, |world| world.messages().len() > before);
    assert_eq!(world.messages()[before], (channel, true, Bytes::from_static(b"ping")));
    world.transport.send(world.now, channel, false, b"pong").unwrap();
    world.run_until(5 * SECOND, |world| world.client_messages.len() > client_before);
    assert_eq!(world.client_messages[client_before], (false, b"pong".to_vec()));
}

#[test]
fn data_goes_both_ways_in_both_roles() {
    for role in [DtlsRole::Passive, DtlsRole::Active] {
        let mut world = World::connected(&Setup { role, ..Setup::default() });
        assert_echo(&mut world);
        let (_, label, ordered, by_peer) = world.open_channel().unwrap();
        assert_eq!((label.as_str(), ordered, by_peer), ("echo", true, true));
    }
}

#[test]
fn we_greet_a_client_that_waits() {
    let mut world = World::connected(&Setup { client_greets: false, ..Setup::default() });
    assert_echo(&mut world);
}

#[test]
fn we_open_channels_of_every_kind() {
    for role in [DtlsRole::Passive, DtlsRole::Active] {
        let mut world = World::connected(&Setup { role, ..Setup::default() });
        let now = world.now;
        let reliable =
            ChannelOptions { label: "_reliable".to_owned(), ordered: true, max_retransmits: None };
        let lossy =
            ChannelOptions { label: "_lossy".to_owned(), ordered: false, max_retransmits: Some(0) };
        let reliable = world.transport.open_channel(now, reliable).unwrap();
        let lossy = world.transport.open_channel(now, lossy).unwrap();
        assert_ne!(reliable, lossy);
        let parity = if role == DtlsRole::Active { 0 } else { 1 };
        assert_eq!((reliable.0 % 2, lossy.0 % 2), (parity, parity), "RFC 8832 section 6");
        assert_eq!(world.transport.send(now, lossy, true, b"x"), Err(SendError::NotOpen));
        world.run_until(5 * SECOND, |world| world.client_channels.len() == 2);
        let labels: Vec<_> =
            world.client_channels.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["_reliable", "_lossy"]);
        let (id, _) = world.client_channels[1].clone();
        let config = world.client.channel(id).unwrap().config().unwrap().clone();
        assert!(!config.ordered);
        assert_eq!(config.reliability, Reliability::MaxRetransmits { retransmits: 0 });
        world.run_until(SECOND, |world| {
            let open =
                |event: &&TransportEvent| matches!(event, TransportEvent::ChannelOpen { .. });
            world.events.iter().filter(open).count() == 2
        });
        for channel in [reliable, lossy] {
            world.transport.send(world.now, channel, true, b"hello").unwrap();
        }
        world.run_until(SECOND, |world| world.client_messages.len() == 2);
    }
}

#[test]
fn large_and_empty_messages_arrive_whole_over_a_lossy_link() {
    let mut world = World::connected(&Setup::default());
    assert_echo(&mut world);
    world.loss = 10;
    let (channel, ..) = world.open_channel().unwrap();
    let (client_channel, _) = world.client_channels[0].clone();
    let large: Vec<u8> = (0..64_000_u32).map(|i| i as u8).collect();
    world.transport.send(world.now, channel, true, &large).unwrap();
    world.transport.send(world.now, channel, true, b"").unwrap();
    world.transport.send(world.now, channel, false, b"").unwrap();
    assert!(world.transport.buffered(channel) > 0);
    let took = world.run_until(30 * SECOND, |world| world.client_messages.len() == 4);
    assert!(took < 10 * SECOND, "{took:?}");
    assert_eq!(world.client_messages[1], (true, large.clone()));
    assert_eq!(world.client_messages[2], (true, Vec::new()));
    assert_eq!(world.client_messages[3], (false, Vec::new()));
    world.run_until(5 * SECOND, |world| world.transport.buffered(channel) == 0);

    world.client.channel(client_channel).unwrap().write(true, &large).unwrap();
    world.run_until(30 * SECOND, |world| world.messages().len() == 2);
    assert_eq!(world.messages()[1].2, large);
    let now = world.now;
    let huge = vec![0; 100_000];
    assert_eq!(world.transport.send(now, channel, true, &huge), Err(SendError::TooLarge));
}

#[test]
fn a_slow_reader_fills_its_own_buffer_only() {
    let mut world = World::connected(&Setup::default());
    assert_echo(&mut world);
    let (channel, ..) = world.open_channel().unwrap();
    let mut sent = 0;
    let refused = loop {
        match world.transport.send(world.now, channel, true, &[0; 32_000]) {
            Ok(()) => sent += 32_000,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, SendError::Full);
    assert!(sent <= 2 << 20, "{sent}");
    assert!(world.transport.buffered(channel) <= 2 << 20);
}

#[test]
fn channels_close_from_both_sides() {
    let mut world = World::connected(&Setup::default());
    assert_echo(&mut world);
    let (channel, ..) = world.open_channel().unwrap();
    let (client_channel, _) = world.client_channels[0].clone();
    world.client.direct_api().close_data_channel(client_channel);
    world.run_until(5 * SECOND, |world| {
        world.events.contains(&TransportEvent::ChannelClosed(channel))
    });
    let now = world.now;
    assert_eq!(world.transport.send(now, channel, true, b"x"), Err(SendError::NotOpen));
    let options =
        ChannelOptions { label: "again".to_owned(), ordered: true, max_retransmits: None };
    let again = world.transport.open_channel(now, options).unwrap();
    world.run_until(5 * SECOND, |world| world.client_channels.len() == 2);
    world.transport.close_channel(world.now, again);
    world.drain();
    assert!(world.events.contains(&TransportEvent::ChannelClosed(again)));
}

#[test]
fn the_sixty_fifth_channel_is_closed() {
    let mut world = World::connected(&Setup::default());
    for i in 0..70 {
        world.client.direct_api().create_data_channel(ChannelConfig {
            label: format!("channel {i}"),
            ..ChannelConfig::default()
        });
    }
    for _ in 0..2_000 {
        world.step();
    }
    let open = |event: &&TransportEvent| matches!(event, TransportEvent::ChannelOpen { .. });
    assert_eq!(world.events.iter().filter(open).count(), 64);
    let now = world.now;
    let options = ChannelOptions { label: "ours".to_owned(), ordered: true, max_retransmits: None };
    assert_eq!(world.transport.open_channel(now, options), Err(ChannelError::TooMany));
    assert_eq!(world.failure(), None);
}

#[test]
fn a_goodbye_is_heard_by_either_side() {
    let mut world = World::connected(&Setup::default());
    assert_echo(&mut world);
    world.transport.close(world.now);
    world.drain();
    assert!(!world.to_client.is_empty());
    assert_eq!(world.transport.poll_timeout(), None);
    world.run_until(5 * SECOND, |world| !world.client.is_alive());

    let mut world = World::connected(&Setup::default());
    assert_echo(&mut world);
    world.client.close().unwrap();
    world.run_until(5 * SECOND, |world| world.events.contains(&TransportEvent::Closed));
    assert_eq!(world.failure(), None);
}

#[test]
fn media_keys_agree_with_the_clients() {
    let mut world = World::connected(&Setup::default());
    // The client's keys are its own affair; that both directions differ is ours.
    let egress = world.transport.srtp_egress().unwrap();
    let mut packet = vec![0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 3];
    packet.resize(packet.len() + egress.profile().rtp_overhead(), 0);
    egress.seal_rtp(crate::rtp::SeqNo(1), 12, &mut packet).unwrap();
    assert_eq!(world.transport.unprotect_rtp(&mut packet), Err(SrtpError::Authentication));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_panic(
        role in prop::sample::select(&[None, Some(DtlsRole::Passive), Some(DtlsRole::Active)][..]),
        packets in prop::collection::vec(
            (0u8..3, prop::collection::vec(any::<u8>(), 0..100)),
            0..40,
        ),
    ) {
        let mut world = World::new(&Setup::default());
        world.params.dtls_role = role;
        world.transport.set_remote(world.now, &world.params);
        while world.transport.egress_path().is_none() {
            world.step();
        }
        for (kind, mut bytes) in packets {
            world.now += Duration::from_millis(10);
            let now = world.now;
            match kind {
                0 => {
                    let _ = world.transport.handle_stun(now, path(1), &bytes);
                }
                1 => {
                    // Often enough a plausible record header.
                    if let [first, ..] = &mut bytes[..] {
                        *first = 20 + *first % 8;
                    }
                    if let Some(version) = bytes.get_mut(1..3) {
                        version.copy_from_slice(&[254, 253]);
                    }
                    let _ = world.transport.handle_dtls(now, path(1), &bytes);
                }
                _ => {
                    let _ = world.transport.unprotect_rtp(&mut bytes);
                    let _ = world.transport.unprotect_rtcp(&mut bytes);
                }
            }
            world.transport.handle_timeout(now);
            let mut out = Vec::new();
            while world.transport.poll_transmit(&mut out).is_some() {}
            while world.transport.poll_event().is_some() {}
        }
    }
}
