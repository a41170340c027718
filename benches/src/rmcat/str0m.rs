//! str0m's estimator beside ours. Its parts are private, so a whole peer connection sends: an `Rtc` in RTP mode, whose
//! packets the receiver answers with the very recorder that answers ours, sealed as SRTCP. Both ends meet by ICE and DTLS
//! over the bottleneck, as they would on a network.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use chappe_sfu::{
    bwe::EstimatorConfig, ingress::TwccRecorder, rtp::Ssrc, wire::rtcp::CompoundWriter,
};
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    bwe::{Bitrate, BweKind},
    config::Fingerprint,
    ice::IceCreds,
    media::{MediaKind, Mid},
    net::{Protocol, Receive},
    rtp::{Extension, RtpWrite},
};

use super::{
    media::{FrameSource, UDP_OVERHEAD, packetize},
    world::{Endpoint, Packet, Payload},
};
use crate::{
    handshake::{Handshake, Identity},
    packet::{self, TRANSPORT_CC, VIDEO},
    srtp::Session,
    stun,
};

const MEDIA_SSRC: u32 = 1_000;
const RTX_SSRC: u32 = 1_001;
const RECEIVER_UFRAG: &str = "receiver";
const RECEIVER_PASS: &str = "a-password-of-the-receiver";
/// Bytes that a datagram may have.
const MTU: usize = 1_200;

fn sender_address() -> SocketAddr {
    ([192, 0, 2, 1], 5_000).into()
}

fn receiver_address() -> SocketAddr {
    ([192, 0, 2, 2], 5_000).into()
}

/// Both ends of a flow that begins at `start`.
///
/// # Panics
///
/// When no certificate can be made.
pub fn pair(start: Instant, source: FrameSource) -> (Str0mSender, Str0mReceiver) {
    let identity = Identity::generate(None).expect("a certificate");
    let config = EstimatorConfig::default();
    let mut rtc = RtcConfig::new()
        .set_rtp_mode(true)
        .set_ice_lite(true)
        .clear_codecs()
        .enable_vp8(true)
        .clear_extension_map()
        .set_extension(packet::MID, Extension::RtpMid)
        .set_extension(TRANSPORT_CC, Extension::TransportSequenceNumber)
        .enable_bwe(Some(Bitrate::from(config.start.bps())))
        .build(start);
    let host = |address| Candidate::host(address, "udp").expect("an address");
    rtc.add_local_candidate(host(sender_address()));
    rtc.add_remote_candidate(host(receiver_address()));
    let mid = Mid::from("v");
    let mut api = rtc.direct_api();
    let local = api.local_ice_credentials();
    api.set_ice_controlling(false);
    api.set_remote_ice_credentials(IceCreds {
        ufrag: RECEIVER_UFRAG.to_owned(),
        pass: RECEIVER_PASS.to_owned(),
    });
    api.set_remote_fingerprint(Fingerprint {
        hash_func: "sha-256".to_owned(),
        bytes: identity.fingerprint(),
    });
    api.start_dtls(false).expect("a first start");
    api.declare_media(mid, MediaKind::Video);
    api.declare_stream_tx(MEDIA_SSRC.into(), Some(RTX_SSRC.into()), mid, None);
    let receiver = Str0mReceiver {
        username: format!("{}:{RECEIVER_UFRAG}", local.ufrag),
        key: stun::integrity_key(&local.pass),
        identity,
        checks: 0,
        check_at: start,
        answered: false,
        handshake: None,
        session: None,
        recorder: TwccRecorder::new(start),
        outbox: VecDeque::new(),
    };
    let sender = Str0mSender {
        rtc,
        source,
        estimate: config.start.bps(),
        asked: None,
        connected: false,
        seq: 1,
        time: 0,
        wake_at: start,
        outbox: VecDeque::new(),
    };
    (sender, receiver)
}

/// Sends media through str0m: its estimator, its pacer, its probes.
#[derive(Debug)]
pub struct Str0mSender {
    rtc: Rtc,
    source: FrameSource,
    estimate: u64,
    /// What was asked for last: minimum and desired.
    asked: Option<(u64, u64)>,
    connected: bool,
    seq: u64,
    time: u32,
    wake_at: Instant,
    outbox: VecDeque<Packet>,
}

impl Str0mSender {
    fn work(&mut self, now: Instant) {
        self.give(Input::Timeout(now));
        // As its documentation advises: padding up to the next layer, probes for what is wanted.
        let asked = (self.source.next_layer().unwrap_or(0), self.source.wanted(now));
        if self.asked != Some(asked) {
            self.asked = Some(asked);
            self.rtc.bwe().set_bitrate(Bitrate::from(asked.0), Bitrate::from(asked.1));
            self.give(Input::Timeout(now));
        }
        while let Some(frame) = self.source.poll_frame(now, self.estimate) {
            self.time = self.time.wrapping_add(3_000);
            let skipped = if self.connected { 0 } else { usize::MAX };
            for size in packetize(frame).skip(skipped) {
                let payload = vec![0x5a; size as usize];
                let write =
                    RtpWrite::new(VIDEO.into(), self.seq.into(), self.time, now, &payload[..]);
                self.seq += 1;
                if let Some(stream) = self.rtc.direct_api().stream_tx(&MEDIA_SSRC.into()) {
                    stream.write_rtp(write);
                }
                self.give(Input::Timeout(now));
            }
        }
    }

    /// One input, and everything that comes of it.
    fn give(&mut self, input: Input<'_>) {
        // A peer connection that failed sends nothing any more, and the figures show it.
        let _ = self.rtc.handle_input(input);
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.wake_at = at;
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    let bytes = transmit.contents.to_vec();
                    let media = packet::parse(&bytes).is_some_and(|rtp| rtp.ssrc == MEDIA_SSRC);
                    let size = bytes.len() as u32 + UDP_OVERHEAD;
                    self.outbox.push_back(Packet { size, media, payload: Payload::Bytes(bytes) });
                }
                Ok(Output::Event(Event::Connected)) => self.connected = true,
                Ok(Output::Event(Event::EgressBitrateEstimate(BweKind::Twcc {
                    estimate, ..
                }))) => self.estimate = estimate.as_u64(),
                Ok(Output::Event(_)) => {}
                Err(_) => return,
            }
        }
    }
}

impl Endpoint for Str0mSender {
    fn handle_packet(&mut self, now: Instant, packet: Packet) {
        if let Payload::Bytes(bytes) = packet.payload
            && let Ok(receive) =
                Receive::new(Protocol::Udp, receiver_address(), sender_address(), &bytes)
        {
            self.give(Input::Receive(now, receive));
        }
        self.work(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.work(now);
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<Packet> {
        self.outbox.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.wake_at.min(self.source.next_frame()))
    }

    fn estimate(&self) -> Option<u64> {
        Some(self.estimate)
    }

    fn chosen(&self) -> Option<u64> {
        self.source.chosen()
    }
}

/// Answers with the shipped recorder's transport-wide feedback.
pub struct Str0mReceiver {
    username: String,
    key: aws_lc_rs::hmac::Key,
    identity: Identity,
    checks: u64,
    check_at: Instant,
    answered: bool,
    handshake: Option<Handshake>,
    session: Option<Session>,
    recorder: TwccRecorder,
    outbox: VecDeque<Packet>,
}

impl std::fmt::Debug for Str0mReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Str0mReceiver(redacted)")
    }
}

impl Str0mReceiver {
    /// Between checks until one is answered, and after.
    const FIRST_CHECKS: Duration = Duration::from_millis(100);
    const CHECKS: Duration = Duration::from_secs(2);

    fn send(outbox: &mut VecDeque<Packet>, bytes: Vec<u8>) {
        let size = bytes.len() as u32 + UDP_OVERHEAD;
        outbox.push_back(Packet { size, media: false, payload: Payload::Bytes(bytes) });
    }

    fn work(&mut self, now: Instant) {
        if now >= self.check_at {
            self.checks += 1;
            let mut transaction = [0; 12];
            transaction[4..].copy_from_slice(&self.checks.to_be_bytes());
            let request = stun::binding_request(&self.username, &self.key, transaction);
            Self::send(&mut self.outbox, request);
            self.check_at = now + if self.answered { Self::CHECKS } else { Self::FIRST_CHECKS };
        }
        if let Some(handshake) = &mut self.handshake {
            // A handshake that failed leaves the flow without packets, and the figures show it.
            let _ = handshake.handle_timeout(now);
            let outbox = &mut self.outbox;
            let done = handshake.drain(|datagram| Self::send(outbox, datagram.to_vec()));
            self.session = done.ok().flatten().or(self.session.take());
        }
        self.feed_back(now);
    }

    fn feed_back(&mut self, now: Instant) {
        let Some(session) = &mut self.session else { return };
        loop {
            let mut buf = [0; MTU];
            let mut writer = CompoundWriter::new(&mut buf);
            let done = self.recorder.poll_feedback(now, Ssrc(1), &mut writer);
            let len = writer.len();
            let mut bytes = buf[..len].to_vec();
            if !bytes.is_empty() && session.seal_rtcp(&mut bytes).is_ok() {
                Self::send(&mut self.outbox, bytes);
            }
            if done.is_ok() {
                return;
            }
        }
    }
}

impl Endpoint for Str0mReceiver {
    fn handle_packet(&mut self, now: Instant, packet: Packet) {
        let Payload::Bytes(bytes) = packet.payload else { return };
        if stun::is_binding_success(&bytes) {
            if !std::mem::replace(&mut self.answered, true) {
                self.handshake = Handshake::new(&self.identity, now).ok();
            }
        } else if let (20..=63, Some(handshake)) =
            (bytes.first().copied().unwrap_or(0), &mut self.handshake)
        {
            let _ = handshake.handle(now, &bytes);
        } else if !matches!(bytes[..], [_, 192..=223, ..])
            && let Some(rtp) = packet::parse(&bytes)
            && let Some(number) = rtp.transport_cc
        {
            self.recorder.record(now, Ssrc(rtp.ssrc), number);
        }
        self.work(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.work(now);
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<Packet> {
        self.outbox.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [Some(self.check_at), self.recorder.poll_timeout()].into_iter().flatten().min()
    }
}
