//! One PeerConnection: str0m, its socket, and the negotiation's state.

use std::{io, net::IpAddr, time::Instant};

use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    channel::{ChannelConfig, Reliability},
    media::{Direction, MediaKind, Mid, Simulcast, SimulcastLayer},
    net::{Protocol, Receive},
    rtp::{Extension, ExtensionMap},
};

use super::{
    announced::Announced,
    link::{Arrival, Link},
};
use crate::{media::VideoCodec, scenario::Impairment};

/// Payload types that we offer.
const OPUS: u8 = 111;
const VP8: u8 = 96;
const VP8_RTX: u8 = 97;
const H264: u8 = 125;
const H264_RTX: u8 = 107;
/// Constrained baseline, level 3.1.
const H264_PROFILE: u32 = 0x42_e01f;

/// What a payload type stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Audio,
    Video(VideoCodec),
    Repair,
}

impl Payload {
    pub(crate) fn of(payload_type: u8) -> Self {
        match payload_type {
            OPUS => Self::Audio,
            VP8_RTX | H264_RTX => Self::Repair,
            H264 => Self::Video(VideoCodec::H264),
            _ => Self::Video(VideoCodec::Vp8),
        }
    }

    /// The payload type of audio and video.
    pub(crate) fn payload_type(self) -> u8 {
        match self {
            Self::Audio => OPUS,
            Self::Video(VideoCodec::H264) => H264,
            Self::Video(VideoCodec::Vp8) | Self::Repair => VP8,
        }
    }
}

/// Layers by their rid, from the lowest.
pub(crate) const RIDS: [&str; 3] = ["q", "h", "f"];

pub(crate) struct Peer {
    pub(crate) rtc: Rtc,
    link: Link,
    pub(crate) connected: bool,
    /// When str0m wants its turn.
    wake: Instant,
    pending: Option<(u32, SdpPendingOffer)>,
    next_offer: u32,
    /// Sections to add when the pending offer is answered: audio, video. `Some((0, 0))` is an offer without new ones.
    wanted: Option<(u32, u32)>,
    /// Sections that we receive in.
    receiving: Vec<Mid>,
    announced: Announced,
}

/// What a datagram or a timer brought about.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // It lives on the stack, once per packet: a box would cost more.
pub(crate) enum Happened<'a> {
    /// A datagram arrived; seen before str0m takes it.
    Arrived(Arrival<'a>),
    /// From str0m. Its datagram is the one that arrived last.
    Event(Event),
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Peer {
    pub(crate) fn new(
        local: IpAddr,
        impairment: Option<Impairment>,
        seed: u64,
        bandwidth_feedback: bool,
    ) -> Result<Self, io::Error> {
        let now = Instant::now();
        let link = Link::bind(local, impairment, seed)?;
        // str0m's own numbers.
        let mut extensions = ExtensionMap::empty();
        extensions.set(1, Extension::AudioLevel);
        extensions.set(2, Extension::AbsoluteSendTime);
        if bandwidth_feedback {
            extensions.set(3, Extension::TransportSequenceNumber);
        }
        extensions.set(4, Extension::RtpMid);
        extensions.set(8, Extension::AbsoluteCaptureTime);
        extensions.set(10, Extension::RtpStreamId);
        extensions.set(11, Extension::RepairedRtpStreamId);
        let mut config = RtcConfig::new()
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .set_extension_map(extensions)
            .set_stats_interval(None);
        config.codec_config().add_h264(H264.into(), Some(H264_RTX.into()), true, H264_PROFILE);
        let mut rtc = config.build(now);
        let candidate = Candidate::host(link.local, "udp").map_err(io::Error::other)?;
        rtc.add_local_candidate(candidate);
        Ok(Self {
            rtc,
            link,
            connected: false,
            wake: now,
            pending: None,
            next_offer: 1,
            wanted: None,
            receiving: Vec::new(),
            announced: Announced::default(),
        })
    }

    /// The first offer: data channels, what is published, and sections to receive in.
    pub(crate) fn first_offer(
        &mut self,
        tracks: &[NewTrack],
        receive: (u32, u32),
    ) -> Option<(u32, String, Vec<Mid>)> {
        let mut changes = self.rtc.sdp_api();
        for (label, ordered, reliability) in [
            ("_reliable", true, Reliability::Reliable),
            ("_lossy", false, Reliability::MaxRetransmits { retransmits: 0 }),
        ] {
            changes.add_channel_with_config(ChannelConfig {
                label: label.to_owned(),
                ordered,
                reliability,
                ..ChannelConfig::default()
            });
        }
        let mut mids = Vec::new();
        for track in tracks {
            let mut simulcast = Simulcast::new();
            for rid in RIDS.iter().take(track.layers) {
                simulcast.add_send_layer(SimulcastLayer::new(rid));
            }
            mids.push(changes.add_media(
                track.kind,
                Direction::SendOnly,
                Some("load".to_owned()),
                Some(track.cid.clone()),
                (track.layers > 1).then_some(simulcast),
            ));
        }
        for (kind, count) in [(MediaKind::Audio, receive.0), (MediaKind::Video, receive.1)] {
            for _ in 0..count {
                self.receiving.push(changes.add_media(kind, Direction::RecvOnly, None, None, None));
            }
        }
        let (offer, pending) = changes.apply()?;
        let id = self.next_offer;
        self.next_offer += 1;
        self.pending = Some((id, pending));
        Some((id, offer.to_sdp_string(), mids))
    }

    /// The server needs more sections, or only another offer.
    pub(crate) fn want_sections(&mut self, audio: u32, video: u32) {
        let wanted = self.wanted.get_or_insert((0, 0));
        wanted.0 += audio;
        wanted.1 += video;
    }

    /// An offer, when one is wanted and none is pending.
    pub(crate) fn poll_offer(&mut self) -> Option<(u32, String)> {
        if self.pending.is_some() {
            return None;
        }
        let (audio, video) = self.wanted.take()?;
        let mut changes = self.rtc.sdp_api();
        // An answer that uses no such section has set it inactive.
        for mid in &self.receiving {
            changes.set_direction(*mid, Direction::RecvOnly);
        }
        for (kind, count) in [(MediaKind::Audio, audio), (MediaKind::Video, video)] {
            for _ in 0..count {
                self.receiving.push(changes.add_media(kind, Direction::RecvOnly, None, None, None));
            }
        }
        if !changes.has_changes()
            && let Some(mid) = self.receiving.first()
        {
            // str0m offers changes only: there and back is one.
            changes.set_direction(*mid, Direction::SendRecv);
            changes.set_direction(*mid, Direction::RecvOnly);
        }
        let (offer, pending) = changes.apply()?;
        self.number(offer, pending)
    }

    /// Another offer with new ICE credentials.
    pub(crate) fn restart_ice(&mut self) -> Option<(u32, String)> {
        let mut changes = self.rtc.sdp_api();
        changes.ice_restart(true);
        let (offer, pending) = changes.apply()?;
        self.number(offer, pending)
    }

    fn number(&mut self, offer: SdpOffer, pending: SdpPendingOffer) -> Option<(u32, String)> {
        let id = self.next_offer;
        self.next_offer += 1;
        self.pending = Some((id, pending));
        Some((id, offer.to_sdp_string()))
    }

    /// Takes an answer; false when it belongs to no offer of ours, an error when it cannot be read.
    pub(crate) fn handle_answer(&mut self, id: u32, sdp: &str) -> Result<bool, String> {
        let Some((expected, pending)) = self.pending.take() else { return Ok(false) };
        // Servers of older protocols answer without a number.
        if id != 0 && id != expected {
            self.pending = Some((expected, pending));
            return Ok(false);
        }
        let answer = SdpAnswer::from_sdp_string(sdp).map_err(|error| error.to_string())?;
        self.rtc.sdp_api().accept_answer(pending, answer).map_err(|error| error.to_string())?;
        // str0m makes a stream to send for each section, those that only receive included: a fifth of a client's memory.
        let mut direct = self.rtc.direct_api();
        for mid in &self.receiving {
            if let Some(ssrc) = direct.stream_tx_by_mid(*mid, None).map(|unused| unused.ssrc()) {
                direct.remove_stream_tx(ssrc);
            }
            self.announced.hold(&mut direct, *mid);
        }
        self.wake = Instant::now();
        Ok(true)
    }

    /// Answers the server's offer (two PeerConnections), which describes these sections.
    pub(crate) fn handle_offer<'a>(
        &mut self,
        sdp: &str,
        sections: impl Iterator<Item = &'a str>,
    ) -> Result<String, String> {
        let offer = SdpOffer::from_sdp_string(sdp).map_err(|error| error.to_string())?;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(|error| error.to_string())?;
        let mut direct = self.rtc.direct_api();
        sections.for_each(|mid| self.announced.hold(&mut direct, mid.into()));
        self.wake = Instant::now();
        Ok(answer.to_sdp_string())
    }

    /// A candidate of the server, as JSON of RTCIceCandidateInit. Others than ours can reach are left out.
    pub(crate) fn handle_candidate(&mut self, init: &str) {
        let init: serde_json::Value = serde_json::from_str(init).unwrap_or_default();
        let Some(text) = init.get("candidate").and_then(|value| value.as_str()) else { return };
        if let Ok(candidate) = Candidate::from_sdp_string(text)
            && candidate.addr().is_ipv4() == self.link.local.is_ipv4()
            && candidate.proto() == Protocol::Udp
        {
            self.rtc.add_remote_candidate(candidate);
            self.wake = Instant::now();
        }
    }

    /// Waits until datagrams can be read.
    pub(crate) async fn readable(&self) {
        let _ = self.link.readable().await;
    }

    /// Reads what the socket has; true when there may be more.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        mut take: impl FnMut(&mut Rtc, Happened<'_>),
    ) -> bool {
        let Self { rtc, link, connected, wake, announced, .. } = self;
        let local = link.local;
        let mut out = Vec::new();
        let more = link.receive(now, |arrival| {
            announced.begin(rtc, arrival.bytes);
            feed(rtc, local, now, arrival, connected, wake, &mut out, &mut take);
        });
        self.transmit(now, out);
        more
    }

    /// Runs timers and delayed datagrams that are due, then sends what there is.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        mut take: impl FnMut(&mut Rtc, Happened<'_>),
    ) {
        let Self { rtc, link, connected, wake, announced, .. } = self;
        let local = link.local;
        let mut out = Vec::new();
        link.handle_timeout(now, |arrival| {
            announced.begin(rtc, arrival.bytes);
            feed(rtc, local, now, arrival, connected, wake, &mut out, &mut take);
        });
        // An error ends the connection; that shows as an event or as silence.
        let _ = rtc.handle_input(Input::Timeout(now));
        *wake = drain(rtc, now, connected, &mut out, &mut take);
        self.transmit(now, out);
    }

    /// Lets str0m send what was written to it, which stays in its queue otherwise; [`Self::handle_timeout`] flushes.
    pub(crate) fn drive(&mut self, now: Instant, mut take: impl FnMut(&mut Rtc, Happened<'_>)) {
        let _ = self.rtc.handle_input(Input::Timeout(now));
        let mut out = Vec::new();
        self.wake = drain(&mut self.rtc, now, &mut self.connected, &mut out, &mut take);
        for transmit in out {
            self.link.send(now, transmit.destination, &transmit.contents);
        }
    }

    fn transmit(&mut self, now: Instant, out: Vec<str0m::net::Transmit>) {
        for transmit in out {
            self.link.send(now, transmit.destination, &transmit.contents);
        }
        self.link.flush();
    }

    /// When to come back at the latest.
    pub(crate) fn timeout(&self) -> Instant {
        self.link.timeout().map_or(self.wake, |at| at.min(self.wake))
    }

    /// Something was written to str0m: it wants its turn.
    pub(crate) fn poke(&mut self, now: Instant) {
        self.wake = now;
    }

    /// Datagrams that the scenario's network lost since the last call.
    pub(crate) fn take_impaired(&mut self) -> u64 {
        std::mem::take(&mut self.link.impaired)
    }
}

/// A track to publish.
#[derive(Clone, Debug)]
pub(crate) struct NewTrack {
    pub(crate) kind: MediaKind,
    pub(crate) cid: String,
    pub(crate) layers: usize,
}

#[allow(clippy::too_many_arguments)] // The borrowed parts of one Peer.
fn feed(
    rtc: &mut Rtc,
    local: std::net::SocketAddr,
    now: Instant,
    arrival: Arrival<'_>,
    connected: &mut bool,
    wake: &mut Instant,
    out: &mut Vec<str0m::net::Transmit>,
    take: &mut impl FnMut(&mut Rtc, Happened<'_>),
) {
    take(rtc, Happened::Arrived(arrival));
    if let Ok(receive) = Receive::new(Protocol::Udp, arrival.from, local, arrival.bytes) {
        // When the kernel had it: the server's bandwidth estimate must not see the tester's own delay.
        let arrived = now.checked_sub(arrival.late).unwrap_or(now);
        let _ = rtc.handle_input(Input::Receive(arrived, receive));
        *wake = drain(rtc, now, connected, out, take);
    }
}

/// Polls str0m until it only waits.
fn drain(
    rtc: &mut Rtc,
    now: Instant,
    connected: &mut bool,
    out: &mut Vec<str0m::net::Transmit>,
    take: &mut impl FnMut(&mut Rtc, Happened<'_>),
) -> Instant {
    loop {
        match rtc.poll_output() {
            Ok(Output::Timeout(at)) => return at,
            Ok(Output::Transmit(transmit)) => out.push(transmit),
            Ok(Output::Event(event)) => {
                *connected |= matches!(event, Event::Connected);
                take(rtc, Happened::Event(event));
            }
            Err(_) => return now + std::time::Duration::from_secs(3_600),
        }
    }
}
