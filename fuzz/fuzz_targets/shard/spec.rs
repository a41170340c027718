//! Desired states of peers, by the bits of the input.

use chappe_sfu::{
    rtp::{
        Bitrate, Codec, CodecKind, CodecMap, Extension, ExtensionMap, MediaKind, Mid, Pt, Rid,
        Ssrc, TrackId,
    },
    shard::{
        DataSpec, EncodingSpec, IceCredentials, Limits, PeerSpec, SubscriptionSpec, TrackSpec,
        TransportParams,
    },
};

use super::{
    PEERS, TRACKS_EACH,
    media::{FEC, PTS},
};

/// SSRC of what peer `number` gets of track `index`; that of its retransmissions is the next.
pub(crate) fn egress_ssrc(number: usize, index: u32) -> Ssrc {
    Ssrc(50_000 + 1_000 * number as u32 + 3 * index)
}

/// All that anybody may send.
pub(crate) fn extensions() -> ExtensionMap {
    let mut extensions = ExtensionMap::default();
    for (extension, id) in [
        (Extension::AudioLevel, 1),
        (Extension::AbsSendTime, 2),
        (Extension::TransportCc, 3),
        (Extension::Mid, 4),
        (Extension::AbsCaptureTime, 5),
        (Extension::PlayoutDelay, 6),
        (Extension::VideoOrientation, 7),
        (Extension::VideoLayersAllocation, 8),
        (Extension::TransmissionOffset, 9),
        (Extension::Rid, 10),
        (Extension::RepairedRid, 11),
        (Extension::DependencyDescriptor, 12),
    ] {
        extensions.set(extension, id);
    }
    extensions
}

/// The bytes of the input that describe a peer; those that are not there are zero.
#[derive(Clone, Copy)]
struct Bits<'a>(&'a [u8]);

impl Bits<'_> {
    /// Of the whole peer. 1: ICE restarts. 2: feedback of RFC 8888. 4: no transport-wide numbers. 8: FlexFEC. 16: REMB.
    const PEER: usize = 0;
    /// Bit n: the payload format n of [`PTS`] is missing. The last: no dependency descriptors.
    const WITHOUT: usize = 1;
    /// Of subscriptions. 1: silence is suppressed. 2: redundancy is added. 4: resolution is kept. 8: the frame rate is bound.
    /// 16: temporal layers are bound. 32, 64: whose priority is raised.
    const WISHES: usize = 2;
    /// From here on, one bit a track: not subscribed.
    const UNWANTED: usize = 3;

    fn of(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn has(self, at: usize, mask: u8) -> bool {
        self.of(at) & mask != 0
    }
}

fn codecs(bits: Bits<'_>) -> CodecMap {
    let codec = |(kind, pt): (CodecKind, u8)| {
        let video = kind.media_kind() == MediaKind::Video;
        Codec {
            pt: Pt::new(pt).expect("seven bits"),
            rtx: Pt::new(pt + 1).filter(|_| video),
            kind,
            clock_rate: if video { 90_000 } else { 48_000 },
            channels: if video { 0 } else { 2 },
            profile: "".into(),
            red_block: Pt::new(111).filter(|_| kind == CodecKind::Red),
            nack: video,
            pli: video,
            fir: video,
            transport_cc: !bits.has(Bits::PEER, 4),
            remb: bits.has(Bits::PEER, 16),
        }
    };
    let known = PTS.into_iter().enumerate();
    let known = known.filter(|(index, _)| !bits.has(Bits::WITHOUT, 1 << index));
    CodecMap::new(known.map(|(_, known)| codec(known)).collect())
}

/// `flags`: one bit a track that it publishes, then data, spatial layers are bound, pauses, muted, bitrate is bound.
pub(crate) fn spec(number: usize, flags: u8, body: &[u8]) -> PeerSpec {
    let bits = Bits(body);
    let mut extensions = extensions();
    if bits.has(Bits::PEER, 4) {
        extensions.set(Extension::TransportCc, 0);
    }
    if bits.has(Bits::WITHOUT, 0x80) {
        extensions.set(Extension::DependencyDescriptor, 0);
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
            muted: flags & 0x40 != 0 && index == 0,
        }
    };
    let subscriptions = (0..PEERS as u32 * TRACKS_EACH).filter(|index| {
        let unwanted = bits.has(Bits::UNWANTED + *index as usize / 8, 1 << (index % 8));
        index / TRACKS_EACH != number as u32 && !unwanted
    });
    let subscription = |index: u32| SubscriptionSpec {
        track: TrackId::new(&format!("t{index}")),
        mid: Mid::new(format!("s{index}").as_bytes()).expect("short"),
        ssrc: egress_ssrc(number, index),
        rtx_ssrc: (index % 3 != 0).then_some(Ssrc(egress_ssrc(number, index).0 + 1)),
        fec_ssrc: (index % 3 == 1).then(|| Ssrc(egress_ssrc(number, index).0 + 2)),
        paused: flags & 0x20 != 0 && index % 2 == 0,
        max_spatial: (flags & 0x10 != 0).then_some(0),
        max_temporal: bits.has(Bits::WISHES, 16).then_some(index as u8 & 1),
        max_fps: bits.has(Bits::WISHES, 8).then_some(8 + index),
        suppress_silence: bits.has(Bits::WISHES, 1),
        add_redundancy: bits.has(Bits::WISHES, 2),
        maintain_resolution: bits.has(Bits::WISHES, 4),
        priority: u32::from(index % 4 == u32::from(bits.of(Bits::WISHES) >> 5 & 3)) * 3,
    };
    let address = format!("PA_{number}");
    let mut stamp = vec![0x22, address.len() as u8];
    stamp.extend(address.as_bytes());
    PeerSpec {
        transport: TransportParams {
            remote_ice: Some(IceCredentials { ufrag: "remote".into(), pwd: "p".repeat(24) }),
            ice_generation: bits.has(Bits::PEER, 1).into(),
            ..TransportParams::default()
        },
        fec: Pt::new(FEC).filter(|_| bits.has(Bits::PEER, 8)),
        ccfb: bits.has(Bits::PEER, 2),
        codecs: codecs(bits),
        send_extensions: extensions.clone(),
        receive_extensions: extensions,
        tracks: (0..TRACKS_EACH).filter(|index| flags >> index & 1 == 1).map(track).collect(),
        subscriptions: subscriptions.map(subscription).collect(),
        data: (flags & 8 != 0).then(|| DataSpec {
            address: address.as_str().into(),
            stamp: stamp.into(),
            may_send: true,
            may_receive: true,
            node_opens: false,
        }),
        limits: Limits::default(),
        max_egress_bitrate: (flags & 0x80 != 0).then(|| Bitrate::from_bps(300_000)),
    }
}
