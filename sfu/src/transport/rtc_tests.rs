//! The whole transport against webrtc-rs, which shares neither ICE, DTLS, SRTP nor SCTP with us.

use std::time::Duration;

use bytes::BytesMut;
use rtc::{
    dtls::extension::extension_use_srtp::SrtpProtectionProfile,
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::setting_engine::SettingEngineBuilder,
        event::{RTCDataChannelEvent, RTCPeerConnectionEvent},
        message::{RTCMessage, TaggedRTCMessage},
        sdp::RTCSessionDescription,
        state::RTCPeerConnectionState,
        transport::{CandidateConfig, CandidateHostConfig, RTCIceCandidate},
    },
    sansio::Protocol as _,
    shared::{TaggedBytesMut, TransportContext as Addresses, TransportProtocol},
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn path() -> FiveTuple {
    FiveTuple {
        protocol: Protocol::Udp,
        local: "192.0.2.1:7882".parse().unwrap(),
        remote: "198.51.100.1:5000".parse().unwrap(),
    }
}

fn attribute<'a>(sdp: &'a str, name: &str) -> &'a str {
    sdp.lines().find_map(|line| line.strip_prefix(&format!("a={name}:"))).unwrap().trim()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

struct World {
    now: Instant,
    transport: Transport,
    client: RTCPeerConnection,
    connected: bool,
    events: Vec<TransportEvent>,
    received: Vec<Vec<u8>>,
}

impl World {
    fn new(profile: SrtpProtectionProfile, role: DtlsRole) -> Self {
        #[allow(clippy::disallowed_methods, reason = "a virtual clock has to start somewhere")]
        let now = Instant::now();
        let context = TransportContext::generate(DtlsVersions::Dtls12).unwrap();
        let engine =
            SettingEngineBuilder::new().with_srtp_protection_profiles(vec![profile]).build();
        let mut client =
            RTCPeerConnectionBuilder::new().with_setting_engine(engine).build(now).unwrap();
        let candidate = CandidateHostConfig {
            base_config: CandidateConfig {
                network: "udp".to_owned(),
                address: path().remote.ip().to_string(),
                port: path().remote.port(),
                component: 1,
                ..CandidateConfig::default()
            },
            ..CandidateHostConfig::default()
        }
        .new_candidate_host()
        .unwrap();
        let candidate = RTCIceCandidate::from(&candidate).to_json().unwrap();
        client.add_local_candidate(candidate).unwrap();
        client.create_data_channel("echo", None).unwrap();
        let offer = client.create_offer(None).unwrap();
        let sdp = offer.sdp.clone();
        client.set_local_description(now, offer).unwrap();

        let local = IceCredentials {
            ufrag: "serverufrag".to_owned(),
            pwd: "a-password-of-the-server-side".to_owned(),
        };
        let setup = if role == DtlsRole::Passive { "passive" } else { "active" };
        let answer = format!(
            "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n\
             a=group:BUNDLE {mid}\r\n\
             m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
             a=mid:{mid}\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:sha-256 {}\r\n\
             a=setup:{setup}\r\na=sctp-port:5000\r\na=max-message-size:65536\r\n\
             a=candidate:1 1 udp 2130706431 192.0.2.1 7882 typ host\r\na=end-of-candidates\r\n",
            local.ufrag,
            local.pwd,
            hex(&context.fingerprint().digest),
            mid = attribute(&sdp, "mid"),
        );
        client.set_remote_description(now, RTCSessionDescription::answer(answer).unwrap()).unwrap();

        let (algorithm, digest) = attribute(&sdp, "fingerprint").split_once(' ').unwrap();
        let digest = digest.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let mut transport = Transport::new(&context, &local, now);
        transport.set_remote(
            now,
            &TransportParams {
                remote_ice: Some(IceCredentials {
                    ufrag: attribute(&sdp, "ice-ufrag").to_owned(),
                    pwd: attribute(&sdp, "ice-pwd").to_owned(),
                }),
                dtls_role: Some(role),
                remote_fingerprints: vec![Fingerprint { algorithm: algorithm.to_owned(), digest }],
                sctp: Some(SctpParams { remote_port: 5_000, remote_max_message_size: 0 }),
                ..TransportParams::default()
            },
        );
        Self { now, transport, client, connected: false, events: Vec::new(), received: Vec::new() }
    }

    /// Ten milliseconds of both sides.
    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        let now = self.now;
        self.client.handle_timeout(now).unwrap();
        self.transport.handle_timeout(now);
        loop {
            let mut quiet = true;
            while let Some(datagram) = self.client.poll_write() {
                quiet = false;
                let _ = match datagram.message[0] {
                    0..=3 => self.transport.handle_stun(now, path(), &datagram.message),
                    _ => self.transport.handle_dtls(now, path(), &datagram.message),
                };
            }
            let mut out = Vec::new();
            while self.transport.poll_transmit(&mut out).is_some() {
                quiet = false;
                let _ = self.client.handle_read(TaggedBytesMut {
                    now,
                    transport: Addresses {
                        local_addr: path().remote,
                        peer_addr: path().local,
                        ecn: None,
                        transport_protocol: TransportProtocol::UDP,
                    },
                    message: BytesMut::from(&out[..]),
                });
            }
            while let Some(event) = self.transport.poll_event() {
                self.events.push(event);
            }
            self.drain_client();
            if quiet {
                return;
            }
        }
    }

    fn drain_client(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => {
                    self.connected |= state == RTCPeerConnectionState::Connected;
                }
                RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => {
                    let mut channel = self.client.data_channel(id).unwrap();
                    channel.send(self.now, BytesMut::from(&b"ping"[..])).unwrap();
                }
                _ => {}
            }
        }
        while let Some(TaggedRTCMessage { message, .. }) = self.client.poll_read() {
            if let RTCMessage::DataChannelMessage(_, message) = message {
                self.received.push(message.data.to_vec());
            }
        }
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = self.now;
        while !done(self) {
            assert!(self.now - start < 20 * SECOND, "{what} not reached: {:?}", self.events);
            self.step();
        }
    }
}

#[test]
fn each_profile_connects_in_both_roles_and_carries_data() {
    for (theirs, ours) in [
        (SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm, SrtpProfile::AeadAes128Gcm),
        (SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm, SrtpProfile::AeadAes256Gcm),
        (SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80, SrtpProfile::AesCm128HmacSha1_80),
    ] {
        for role in [DtlsRole::Passive, DtlsRole::Active] {
            let mut world = World::new(theirs, role);
            let connected = TransportEvent::Connected { profile: ours };
            world.run_until("connected", |world| world.events.contains(&connected));
            world.run_until("client connected", |world| world.connected);
            let mut ping = None;
            world.run_until("ping", |world| {
                ping = world.events.iter().find_map(|event| match event {
                    TransportEvent::Message { channel, binary, bytes } => {
                        Some((*channel, *binary, bytes.clone()))
                    }
                    _ => None,
                });
                ping.is_some()
            });
            let (channel, binary, bytes) = ping.unwrap();
            assert!(binary && bytes[..] == *b"ping", "{ours} {role:?}");
            world.transport.send(world.now, channel, true, b"pong").unwrap();
            world.run_until("pong", |world| world.received == [b"pong"]);
        }
    }
}
