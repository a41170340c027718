//! A str0m client in RTP mode.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use chappe_sfu::{
    rtp::{
        Codec, CodecKind, CodecMap, Extension, ExtensionMap, MediaKind, Mid, Pt, Rid, Ssrc, TrackId,
    },
    shard::{
        DataSpec, DtlsRole, EncodingSpec, Fingerprint, IceCredentials, Limits, LocalTransport,
        PeerId, PeerSpec, Protocol as NodeProtocol, RoomId, SctpParams, SubscriptionSpec,
        TrackSpec, TransportParams,
    },
};
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    channel::{ChannelConfig, ChannelId, Reliability},
    format::{Codec as PeerCodec, FormatParams},
    media::{Frequency, KeyframeRequestKind, MediaKind as PeerKind},
    net::{Protocol, Receive, TcpType},
    rtp::{ExtensionValues, RtpWrite},
};

use super::media::{OPUS, RED, Source, Tag, VP8, VP8_RTX, VP9, VP9_RTX};

/// An encoding that the client sends.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) track: TrackId,
    pub(crate) stream: u8,
    pub(crate) source: Source,
    pub(crate) mid: str0m::media::Mid,
    pub(crate) rid: Option<str0m::media::Rid>,
    pub(crate) active: bool,
    pub(crate) keyframes: u32,
    /// Audio level in dBov, where it says one.
    pub(crate) level: Option<i8>,
    ssrc: str0m::rtp::Ssrc,
    wants_keyframe: bool,
    frame: u32,
    seq: u64,
    time: u32,
    next: Option<Instant>,
}

impl Sender {
    /// Number of the frame that comes next.
    pub(crate) fn next_frame(&self) -> u32 {
        self.frame
    }
}

/// A packet that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) ssrc: u32,
    pub(crate) seq: u64,
    pub(crate) time: u32,
    pub(crate) marker: bool,
    pub(crate) pt: u8,
    pub(crate) payload: std::sync::Arc<[u8]>,
    pub(crate) at: Instant,
    /// Of the last sender report before it: wall clock and timestamp.
    pub(crate) report: Option<(std::time::SystemTime, u64)>,
}

impl Received {
    pub(crate) fn tag(&self) -> Tag {
        Tag::of(&self.payload)
    }
}

pub(crate) struct Client {
    pub(crate) rtc: Rtc,
    pub(crate) address: SocketAddr,
    pub(crate) protocol: NodeProtocol,
    pub(crate) room: RoomId,
    pub(crate) peer: PeerId,
    pub(crate) shard: usize,
    pub(crate) spec: PeerSpec,
    pub(crate) senders: Vec<Sender>,
    pub(crate) received: Vec<Received>,
    pub(crate) connected: bool,
    pub(crate) channels: HashMap<String, ChannelId>,
    pub(crate) messages: Vec<(String, Vec<u8>)>,
    pub(crate) keyframe_requests: u32,
    /// It neither sends nor reads.
    pub(crate) silent: bool,
    next_ssrc: u32,
}

impl Client {
    pub(crate) fn new(now: Instant, number: u16, room: &str, shard: usize) -> Self {
        let address: SocketAddr = ([198, 51, 100, 1], 5_000 + number).into();
        let mut config = RtcConfig::new()
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .enable_vp9(true);
        // It knows no RED, and passes on what comes under the number.
        config.codec_config().add_config(
            RED.into(),
            None,
            PeerCodec::Opus,
            Frequency::FORTY_EIGHT_KHZ,
            Some(2),
            FormatParams::default(),
        );
        let mut rtc = config.build(now);
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        let mut api = rtc.direct_api();
        let remote_ice = api.local_ice_credentials();
        let fingerprint = api.local_dtls_fingerprint().clone();
        api.set_ice_controlling(true);
        api.enable_twcc_feedback();
        let transport = TransportParams {
            remote_ice: Some(IceCredentials { ufrag: remote_ice.ufrag, pwd: remote_ice.pass }),
            dtls_role: Some(DtlsRole::Passive),
            remote_fingerprints: vec![Fingerprint {
                algorithm: fingerprint.hash_func,
                digest: fingerprint.bytes,
            }],
            sctp: Some(SctpParams { remote_port: 5_000, remote_max_message_size: 0 }),
            ..TransportParams::default()
        };
        let spec = PeerSpec {
            transport,
            fec: None,
            ccfb: false,
            codecs: codecs(),
            send_extensions: extensions(&SEND),
            receive_extensions: extensions(&RECEIVE),
            tracks: Vec::new(),
            subscriptions: Vec::new(),
            data: None,
            limits: Limits::default(),
            max_egress_bitrate: None,
        };
        Self {
            rtc,
            address,
            protocol: NodeProtocol::Udp,
            room: RoomId::new(room),
            peer: PeerId::new(&format!("PA_{number}")),
            shard,
            spec,
            senders: Vec::new(),
            received: Vec::new(),
            connected: false,
            channels: HashMap::new(),
            messages: Vec::new(),
            keyframe_requests: 0,
            silent: false,
            next_ssrc: 1_000 * u32::from(number),
        }
    }

    /// Takes the node's side of the transport.
    pub(crate) fn greet(
        &mut self,
        local: &LocalTransport,
        fingerprint: &Fingerprint,
        node: SocketAddr,
    ) {
        self.rtc.add_remote_candidate(Candidate::host(node, "udp").unwrap());
        let mut api = self.rtc.direct_api();
        api.set_remote_ice_credentials(str0m::ice::IceCreds {
            ufrag: local.ufrag.clone(),
            pass: local.pwd.clone(),
        });
        api.set_remote_fingerprint(str0m::config::Fingerprint {
            hash_func: fingerprint.algorithm.clone(),
            bytes: fingerprint.digest.clone(),
        });
        api.start_dtls(true).unwrap();
        api.start_sctp(true);
    }

    /// Leaves its address for one that it reaches the node from by ICE-TCP: a candidate of lower priority.
    pub(crate) fn move_to_tcp(&mut self, node: SocketAddr) {
        let candidate =
            |address, role| Candidate::builder().tcp().host(address).tcptype(role).build().unwrap();
        let left = Candidate::host(self.address, "udp").unwrap();
        self.address = ([198, 51, 100, 77], self.address.port()).into();
        self.protocol = NodeProtocol::Tcp;
        assert!(self.rtc.direct_api().invalidate_candidate(&left));
        self.rtc.add_local_candidate(candidate(self.address, TcpType::Active));
        self.rtc.add_remote_candidate(candidate(node, TcpType::Passive));
    }

    /// Declares a track; it is sent from the next apply on. One encoding without rid, or q, h, f.
    pub(crate) fn publish(&mut self, track: &str, sources: &[Source]) {
        let kind = sources[0].kind();
        let mid_text = format!("p{}", self.senders.len());
        let mid = str0m::media::Mid::from(&*mid_text);
        let peer_kind = if kind == MediaKind::Audio { PeerKind::Audio } else { PeerKind::Video };
        self.rtc.direct_api().declare_media(mid, peer_kind);
        let mut encodings = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let rid = (sources.len() > 1).then(|| ["q", "h", "f"][index]);
            let (ssrc, rtx) = (self.take_ssrc(), self.take_ssrc());
            let rtx_ssrc = (kind == MediaKind::Video).then_some(rtx);
            let peer_rid = rid.map(str0m::media::Rid::from);
            self.rtc.direct_api().declare_stream_tx(
                ssrc.into(),
                rtx_ssrc.map(Into::into),
                mid,
                peer_rid,
            );
            // Simulcast is bound by MID and RID, the rest by what was signalled.
            encodings.push(EncodingSpec {
                rid: rid.and_then(|rid| Rid::new(rid.as_bytes())),
                ssrc: rid.is_none().then_some(Ssrc(ssrc)),
                rtx_ssrc: rtx_ssrc.filter(|_| rid.is_none()).map(Ssrc),
            });
            self.senders.push(Sender {
                track: TrackId::new(track),
                stream: self.senders.len() as u8,
                source: *source,
                mid,
                rid: peer_rid,
                active: true,
                keyframes: 0,
                level: None,
                ssrc: ssrc.into(),
                wants_keyframe: true,
                frame: 1_000 * (index as u32 + 1),
                seq: 100 + 7_000 * index as u64,
                time: 50_000 * (index as u32 + 1),
                next: None,
            });
        }
        self.spec.tracks.push(TrackSpec {
            id: TrackId::new(track),
            kind,
            mid: Mid::new(mid_text.as_bytes()).unwrap(),
            encodings,
            muted: false,
        });
    }

    /// Declares a subscription; returns its SSRC.
    pub(crate) fn subscribe(&mut self, track: &str, kind: MediaKind) -> u32 {
        let mid_text = format!("s{}", self.next_ssrc);
        let mid = str0m::media::Mid::from(&*mid_text);
        let peer_kind = if kind == MediaKind::Audio { PeerKind::Audio } else { PeerKind::Video };
        let (ssrc, rtx) = (self.take_ssrc(), self.take_ssrc());
        let rtx = (kind == MediaKind::Video).then_some(rtx);
        let mut api = self.rtc.direct_api();
        api.declare_media(mid, peer_kind);
        api.expect_stream_rx(ssrc.into(), rtx.map(Into::into), mid, None);
        self.spec.subscriptions.push(SubscriptionSpec {
            track: TrackId::new(track),
            mid: Mid::new(mid_text.as_bytes()).unwrap(),
            ssrc: Ssrc(ssrc),
            rtx_ssrc: rtx.map(Ssrc),
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
        ssrc
    }

    /// Takes part in data, under its own address.
    pub(crate) fn use_data(&mut self) {
        let address = self.peer.as_str();
        let mut stamp = vec![0x22, address.len() as u8];
        stamp.extend_from_slice(address.as_bytes());
        self.spec.data = Some(DataSpec {
            address: address.into(),
            stamp: stamp.into(),
            may_send: true,
            may_receive: true,
            node_opens: false,
        });
        for (label, reliability, ordered) in [
            ("_reliable", Reliability::Reliable, true),
            ("_lossy", Reliability::MaxRetransmits { retransmits: 0 }, false),
        ] {
            self.rtc.direct_api().create_data_channel(ChannelConfig {
                label: label.into(),
                ordered,
                reliability,
                ..ChannelConfig::default()
            });
        }
    }

    /// Opens a channel beside those two, once connected.
    pub(crate) fn open_channel(&mut self, label: &str) {
        self.rtc
            .direct_api()
            .create_data_channel(ChannelConfig { label: label.into(), ..ChannelConfig::default() });
    }

    /// Sends one data message on a channel.
    pub(crate) fn send_data(&mut self, label: &str, message: &[u8]) {
        let id = self.channels[label];
        self.rtc.channel(id).unwrap().write(true, message).unwrap();
    }

    pub(crate) fn sender(&mut self, track: &str, encoding: usize) -> &mut Sender {
        self.senders
            .iter_mut()
            .filter(|sender| sender.track.as_str() == track)
            .nth(encoding)
            .unwrap()
    }

    /// Encodings above what anybody wants stop, and begin again with a keyframe.
    pub(crate) fn follow_demand(&mut self, track: &TrackId, max_spatial: Option<u8>) {
        let of_track = self.senders.iter_mut().filter(|sender| sender.track == *track);
        for (index, sender) in of_track.enumerate() {
            let active = max_spatial.is_some_and(|max| index <= usize::from(max));
            if active && !sender.active {
                sender.wants_keyframe = true;
                sender.next = None;
            }
            sender.active = active;
        }
    }

    /// Asks for a keyframe of what arrives on an SSRC.
    pub(crate) fn request_keyframe(&mut self, ssrc: u32) {
        if let Some(stream) = self.rtc.direct_api().stream_rx(&ssrc.into()) {
            stream.request_keyframe(KeyframeRequestKind::Pli);
        }
    }

    /// Sends nothing before `at`.
    pub(crate) fn begin_at(&mut self, at: Instant) {
        for sender in &mut self.senders {
            sender.next = Some(at);
        }
    }

    /// What arrived on an SSRC.
    pub(crate) fn packets(&self, ssrc: u32) -> impl Iterator<Item = &Received> {
        self.received.iter().filter(move |packet| packet.ssrc == ssrc)
    }

    /// When the client wants to be driven at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.silent {
            return None;
        }
        self.senders.iter().filter(|sender| sender.active).filter_map(|sender| sender.next).min()
    }

    /// Media that is due.
    pub(crate) fn produce(&mut self, now: Instant) {
        if !self.connected || self.silent {
            return;
        }
        for index in 0..self.senders.len() {
            let sender = &mut self.senders[index];
            let due = *sender.next.get_or_insert(now);
            if now < due || !sender.active {
                continue;
            }
            sender.next = Some(due + sender.source.interval());
            let keyframe = std::mem::take(&mut sender.wants_keyframe);
            sender.keyframes += u32::from(keyframe);
            let frames = sender.source.frame(sender.stream, sender.frame, keyframe);
            sender.frame += 1;
            sender.time += sender.source.ticks();
            let pt = sender.source.payload_type();
            let parts = frames.len();
            let (time, ssrc) = (sender.time, sender.ssrc);
            for (part, payload) in frames.into_iter().enumerate() {
                let sender = &mut self.senders[index];
                sender.seq += 1;
                let levels = ExtensionValues {
                    audio_level: sender.level,
                    voice_activity: sender.level.map(|level| level > -50),
                    ..ExtensionValues::default()
                };
                let write = RtpWrite::new(pt.into(), sender.seq.into(), time, now, &payload[..])
                    .marker(part + 1 == parts && sender.source != Source::Audio)
                    .ext_vals(levels)
                    .nackable(true);
                self.rtc.direct_api().stream_tx(&ssrc).unwrap().write_rtp(write);
                // str0m takes one input at a time.
                let _ = self.rtc.handle_input(Input::Timeout(now));
            }
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, node: SocketAddr, datagram: &[u8]) {
        if self.silent {
            return;
        }
        let protocol = match self.protocol {
            NodeProtocol::Udp => Protocol::Udp,
            NodeProtocol::Tcp => Protocol::Tcp,
        };
        let receive = Receive::new(protocol, node, self.address, datagram);
        if let Ok(receive) = receive {
            let _ = self.rtc.handle_input(Input::Receive(now, receive));
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let _ = self.rtc.handle_input(Input::Timeout(now));
    }

    /// Drains the client: datagrams to `out`; returns when to come back.
    pub(crate) fn drain(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Instant {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => return at,
                Ok(Output::Transmit(transmit)) => {
                    if !self.silent {
                        out.push(transmit.contents.to_vec());
                    }
                }
                Ok(Output::Event(event)) => self.take(event),
                Err(_) => return now + Duration::from_secs(3_600),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::RtpPacket(packet) => self.received.push(Received {
                ssrc: *packet.header.ssrc,
                seq: *packet.seq_no,
                time: packet.header.timestamp,
                marker: packet.header.marker,
                pt: *packet.header.payload_type,
                at: packet.timestamp,
                report: packet.last_sender_info.map(|info| (info.ntp_time, info.rtp_time.numer())),
                payload: packet.payload,
            }),
            Event::KeyframeRequest(request) => {
                self.keyframe_requests += 1;
                for sender in &mut self.senders {
                    if sender.mid == request.mid && sender.rid == request.rid {
                        sender.wants_keyframe = true;
                    }
                }
            }
            Event::ChannelOpen(id, label) => {
                self.channels.insert(label, id);
            }
            Event::ChannelData(data) => {
                let label = self.channels.iter().find(|(_, id)| **id == data.id);
                let label = label.map(|(label, _)| label.clone()).unwrap_or_default();
                self.messages.push((label, data.data));
            }
            _ => {}
        }
    }

    fn take_ssrc(&mut self) -> u32 {
        self.next_ssrc += 1;
        self.next_ssrc
    }
}

const SEND: [(Extension, u8); 5] = [
    (Extension::AudioLevel, 1),
    (Extension::AbsSendTime, 2),
    (Extension::TransportCc, 3),
    (Extension::Mid, 4),
    (Extension::VideoOrientation, 13),
];

const RECEIVE: [(Extension, u8); 7] = [
    (Extension::AudioLevel, 1),
    (Extension::AbsSendTime, 2),
    (Extension::TransportCc, 3),
    (Extension::Mid, 4),
    (Extension::Rid, 10),
    (Extension::RepairedRid, 11),
    (Extension::VideoOrientation, 13),
];

fn extensions(ids: &[(Extension, u8)]) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    for (extension, id) in ids {
        map.set(*extension, *id);
    }
    map
}

fn codecs() -> CodecMap {
    let codec = |pt: u8, rtx: Option<u8>, kind, clock_rate, channels| Codec {
        pt: Pt::new(pt).unwrap(),
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
    CodecMap::new(vec![
        codec(OPUS, None, CodecKind::Opus, 48_000, 2),
        Codec { red_block: Pt::new(OPUS), ..codec(RED, None, CodecKind::Red, 48_000, 2) },
        codec(VP8, Some(VP8_RTX), CodecKind::Vp8, 90_000, 0),
        codec(VP9, Some(VP9_RTX), CodecKind::Vp9, 90_000, 0),
    ])
}
