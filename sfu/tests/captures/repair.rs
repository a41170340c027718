//! RFC 2198 and RFC 4588 as Chromium speaks them, not as our own writers do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use chappe_sfu::{
    cache::CachedPacket,
    egress::{EgressConfig, EgressStream},
    forward::{Forwarder, Layers},
    ingress::{Accepted, DropReason, PublishedTrack, TrackSource},
    rtp::{Codec, CodecKind, CodecMap, ExtensionMap, MediaKind, Mid, Pt, SeqNo, Ssrc},
    wire::{
        ExtensionValues, RtpPacket,
        payload::{RedBlocks, write_red},
    },
};

use super::recorded::{RED, RTX, place_of};

const OPUS: u8 = 111;
const OPUS_RED: u8 = 63;
const VP8: u8 = 96;
const VP8_RTX: u8 = 97;

fn packets(name: &str) -> Vec<Vec<u8>> {
    let file = std::fs::read(place_of(name)).unwrap();
    let mut rest = &file[..];
    let mut packets = Vec::new();
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let (packet, behind) = behind.split_at(u16::from_be_bytes(*len).into());
        packets.push(packet.to_vec());
        rest = behind;
    }
    packets
}

fn parse(packets: &[Vec<u8>]) -> Vec<RtpPacket<'_>> {
    packets.iter().map(|packet| RtpPacket::parse(packet).unwrap()).collect()
}

fn codec(kind: CodecKind, pt: u8, rtx: Option<u8>, red_block: Option<u8>) -> Codec {
    let audio = rtx.is_none();
    Codec {
        pt: Pt::new(pt).unwrap(),
        rtx: rtx.and_then(Pt::new),
        kind,
        clock_rate: if audio { 48_000 } else { 90_000 },
        channels: if audio { 2 } else { 0 },
        profile: "".into(),
        red_block: red_block.and_then(Pt::new),
        nack: !audio,
        pli: !audio,
        fir: false,
        transport_cc: false,
        remb: false,
    }
}

fn opus() -> Codec {
    codec(CodecKind::Opus, OPUS, None, None)
}

fn red() -> Codec {
    codec(CodecKind::Red, OPUS_RED, None, Some(OPUS))
}

#[test]
fn redundancy_of_a_browser_is_read_and_written_to_the_byte() {
    let recorded = packets(RED);
    let mut sounds: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let (mut repeated, mut written) = (0, 0);
    for packet in parse(&recorded) {
        assert_eq!(packet.header.pt, Pt::new(OPUS_RED).unwrap());
        let blocks = RedBlocks::parse(packet.payload).unwrap();
        let primary = blocks.primary();
        assert_eq!(primary.pt, Pt::new(OPUS).unwrap());
        assert_eq!(&packet.payload[primary.offset..], primary.data);
        let now = packet.header.timestamp.0;
        let mut older = Vec::new();
        for block in blocks.filter(|block| block.timestamp_offset > 0) {
            assert_eq!(block.pt, primary.pt);
            let said = sounds.get(&now.wrapping_sub(block.timestamp_offset.into()));
            assert_eq!(said.map(Vec::as_slice), Some(block.data), "what was said before");
            older.push((block.timestamp_offset, block.data));
            repeated += 1;
        }
        let mut ours = [0; 1_500];
        let len = write_red(&mut ours, primary.pt, &older, primary.data).unwrap();
        assert_eq!(&ours[..len], packet.payload);
        written += 1;
        sounds.insert(now, primary.data.to_vec());
    }
    assert!(written >= 50 && repeated >= written - 1, "{repeated} blocks in {written} packets");
}

#[test]
fn a_subscriber_without_red_gets_a_browsers_sound_alone() {
    #[allow(clippy::disallowed_methods)] // any instant will do
    let now = Instant::now();
    let recorded = packets(RED);
    let publisher = CodecMap::new(vec![opus(), red()]);
    let extensions = ExtensionMap::default();
    let mut track = PublishedTrack::new(MediaKind::Audio, TrackSource::Peer, 1);
    let mut forwarder = Forwarder::new(MediaKind::Audio, SeqNo(500));
    forwarder.set_wanted(Some(Layers { spatial: 0, temporal: 0 }));
    let config = EgressConfig {
        ssrc: Ssrc(9),
        rtx_ssrc: None,
        fec: None,
        mid: Mid::new(b"0").unwrap(),
        extensions: extensions.clone(),
    };
    let mut egress = EgressStream::new(now, config, SeqNo(1));
    let mut count = 0;
    for packet in parse(&recorded) {
        let values = ExtensionValues::default();
        let accepted = track.handle_rtp(now, 0, &packet, &values, &publisher).unwrap();
        if accepted.started {
            egress.set_codecs(track.formats(), &CodecMap::new(vec![opus()]));
            forwarder.set_live(track.live());
        }
        let cached = track.packet(0, accepted.seq).unwrap();
        let rewritten = forwarder.forward(cached.meta, &track.timing()).unwrap();
        let mut out = [0; 1_500];
        let len = egress.write(now, cached, &rewritten, &mut out).unwrap().len;
        let got = RtpPacket::parse(&out[..len]).unwrap();
        assert_eq!(got.header.pt, Pt::new(OPUS).unwrap());
        assert_eq!(got.payload, RedBlocks::parse(packet.payload).unwrap().primary().data);
        count += 1;
    }
    assert!(count >= 50);
}

#[test]
fn packets_that_a_browser_sends_again_take_their_place() {
    #[allow(clippy::disallowed_methods)] // any instant will do
    let now = Instant::now();
    let recorded = packets(RTX);
    let (media, again): (Vec<_>, Vec<_>) =
        parse(&recorded).into_iter().partition(|packet| packet.header.pt.value() == VP8);
    let lost: BTreeSet<u16> = again
        .iter()
        .map(|packet| u16::from_be_bytes(*packet.payload.first_chunk().unwrap()))
        .collect();
    assert!(lost.len() >= 5 && media.len() >= 50, "{lost:?} of {}", media.len());
    let codecs = CodecMap::new(vec![codec(CodecKind::Vp8, VP8, Some(VP8_RTX), None)]);
    let mut track = PublishedTrack::new(MediaKind::Video, TrackSource::Peer, 1);
    let values = ExtensionValues::default();
    for packet in media.iter().filter(|packet| !lost.contains(&packet.header.seq.0)) {
        track.handle_rtp(now, 0, packet, &values, &codecs).unwrap();
    }
    for packet in &again {
        assert_eq!(packet.header.pt, Pt::new(VP8_RTX).unwrap());
        let Accepted { seq, .. } = track.handle_rtx(now, 0, packet, &values, &codecs).unwrap();
        let original = media.iter().find(|one| one.header.seq == seq.seq16()).unwrap();
        let CachedPacket { meta, payload, .. } = track.packet(0, seq).unwrap();
        assert_eq!(payload, original.payload, "{seq:?}");
        assert_eq!(meta.marker, original.header.marker);
        assert_eq!(meta.time.ts32(), original.header.timestamp);
        // It is there now: the same again, either way, is of no use.
        let twice = track.handle_rtx(now, 0, packet, &values, &codecs);
        assert_eq!(twice.err(), Some(DropReason::Duplicate));
        let late = track.handle_rtp(now, 0, original, &values, &codecs);
        assert_eq!(late.err(), Some(DropReason::Duplicate));
    }
}
