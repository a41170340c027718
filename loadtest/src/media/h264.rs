//! H.264 in RTP (RFC 6184, packetization mode 1): enough to send whole pictures and to see where keyframes begin.

use std::sync::Arc;

use super::{STAMP_LEN, Stamp, VideoPacket};

/// Payload bytes of a packet at most: leaves room for headers and SRTP in 1,200 bytes.
const MAX_PAYLOAD: usize = 1_100;
/// Types of NAL units (ITU-T H.264 table 7-1, RFC 6184 table 1).
const SLICE_IDR: u8 = 5;
const SPS: u8 = 7;
const FILLER: u8 = 12;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// The bytes behind the start codes of a byte stream (ITU-T H.264 annex B).
fn units(stream: &[u8]) -> Vec<&[u8]> {
    let mut starts = Vec::new();
    let mut at = 0;
    while at + 3 <= stream.len() {
        if stream[at..at + 3] == [0, 0, 1] {
            starts.push(at + 3);
            at += 3;
        } else {
            at += 1;
        }
    }
    let ends = starts.iter().skip(1).map(|start| start - 3).chain([stream.len()]);
    let unit = |(start, end): (&usize, usize)| {
        let unit = &stream[*start..end];
        // The zero in front of a long start code is not part of the unit.
        let len = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &unit[..len]
    };
    starts.iter().zip(ends).map(unit).filter(|unit| !unit.is_empty()).collect()
}

/// Pictures of a byte stream with one slice each: what lies in front of a slice belongs to it.
pub(super) fn pictures(stream: &'static [u8]) -> Vec<&'static [u8]> {
    let mut pictures = Vec::new();
    let mut begin = 0;
    for unit in units(stream) {
        let end = unit.as_ptr() as usize - stream.as_ptr() as usize + unit.len();
        if matches!(unit[0] & 31, 1 | SLICE_IDR) {
            pictures.push(&stream[begin..end]);
            begin = end;
        }
    }
    pictures
}

/// Whether a picture can be decoded alone.
pub(super) fn is_keyframe(picture: &[u8]) -> bool {
    units(picture).iter().any(|unit| unit[0] & 31 == SLICE_IDR)
}

/// Whether a unit has room beside it in one packet for a stamp.
fn small(unit: &[u8]) -> bool {
    unit.len() + FILLER_LEN + 5 <= MAX_PAYLOAD
}

/// The payloads of a picture that are the same whoever sends it, and whenever: its parameters, and its slice unless that
/// travels with the stamp.
pub(super) fn shared(picture: &[u8]) -> Vec<Arc<[u8]>> {
    let units = units(picture);
    let Some((slice, parameters)) = units.split_last() else { return Vec::new() };
    let mut payloads = Vec::new();
    if !parameters.is_empty() {
        payloads.push(aggregate(parameters).into());
    }
    if !small(slice) {
        fragment(slice, |payload| payloads.push(payload.into()));
    }
    payloads
}

/// The last payload: the stamp as a unit of filler data, which decoders discard, behind a small slice. Its bytes all have
/// the highest bit set, so that none of them is taken for a start code.
pub(super) fn stamped(picture: &[u8], stamp: Stamp) -> Arc<[u8]> {
    let filler = filler(stamp);
    match units(picture).last() {
        Some(slice) if small(slice) => aggregate(&[*slice, &filler]).into(),
        _ => filler.into(),
    }
}

/// Type, stamp, stop bit.
const FILLER_LEN: usize = SPREAD + 2;

fn filler(stamp: Stamp) -> Vec<u8> {
    let mut unit = vec![FILLER];
    unit.extend(seven_bits(&stamp.to_bytes()));
    unit.push(0x80);
    unit
}

/// A STAP-A (section 5.7.1).
fn aggregate(units: &[&[u8]]) -> Vec<u8> {
    let importance = units.iter().map(|unit| unit[0] & 0x60).max().unwrap_or(0);
    let mut payload = vec![importance | STAP_A];
    for unit in units {
        payload.extend_from_slice(&(unit.len() as u16).to_be_bytes());
        payload.extend_from_slice(unit);
    }
    payload
}

/// FU-A (section 5.8), all of about the same size.
fn fragment(unit: &[u8], mut emit: impl FnMut(Vec<u8>)) {
    let (header, body) = (unit[0], &unit[1..]);
    let count = body.len().div_ceil(MAX_PAYLOAD - 2);
    let size = body.len().div_ceil(count);
    for (index, part) in body.chunks(size).enumerate() {
        let start = u8::from(index == 0) << 7;
        let end = u8::from((index + 1) * size >= body.len()) << 6;
        let mut payload = Vec::with_capacity(part.len() + 2);
        payload.extend_from_slice(&[header & 0xe0 | FU_A, start | end | header & 31]);
        payload.extend_from_slice(part);
        emit(payload);
    }
}

/// What a received payload says about its picture: a keyframe begins with its parameters.
pub(super) fn parse(payload: &[u8]) -> Option<VideoPacket> {
    let keyframe = match payload.first()? & 31 {
        STAP_A => payload.get(3)? & 31 == SPS,
        kind => kind == SPS,
    };
    Some(VideoPacket { start: keyframe, keyframe })
}

/// Length of a stamp in bytes of seven bits.
const SPREAD: usize = (STAMP_LEN * 8).div_ceil(7);

fn seven_bits(bytes: &[u8; STAMP_LEN]) -> [u8; SPREAD] {
    std::array::from_fn(|place| {
        let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
        (0..7).fold(1, |value, index| value << 1 | bit(place * 7 + index))
    })
}

/// Reads the stamp at the end of a payload.
pub(super) fn stamp_at_end_of(payload: &[u8]) -> Option<Stamp> {
    let (0x80, payload) = payload.split_last()? else { return None };
    let spread: &[u8; SPREAD] = payload.last_chunk()?;
    let mut bytes = [0; STAMP_LEN];
    for at in 0..STAMP_LEN * 8 {
        bytes[at / 8] |= (spread[at / 7] >> (6 - at % 7) & 1) << (7 - at % 8);
    }
    Stamp::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{CLIPS, Stream, VideoCodec, unix_now};

    fn stamp() -> Stamp {
        Stamp { run: 0, publisher: 256, stream: Stream::Video(2), number: 0, sent: unix_now() }
    }

    /// What a receiver hands to its decoder.
    fn depacketize(packets: &[Arc<[u8]>]) -> Vec<Vec<u8>> {
        let mut units: Vec<Vec<u8>> = Vec::new();
        for packet in packets {
            match packet[0] & 31 {
                STAP_A => {
                    let mut rest = &packet[1..];
                    while let [high, low, tail @ ..] = rest {
                        let len = usize::from(u16::from_be_bytes([*high, *low]));
                        units.push(tail[..len].to_vec());
                        rest = &tail[len..];
                    }
                }
                FU_A => {
                    if packet[1] & 0x80 != 0 {
                        units.push(vec![packet[0] & 0xe0 | packet[1] & 31]);
                    }
                    units.last_mut().unwrap().extend_from_slice(&packet[2..]);
                }
                _ => units.push(packet.to_vec()),
            }
        }
        units
    }

    #[test]
    fn pictures_survive_their_packets_and_carry_the_stamp() {
        for layer in 0..3 {
            let clip = &CLIPS.of(VideoCodec::H264)[layer];
            for at in 0..clip.len() {
                let frame = clip.frame(at);
                let mut packets = Vec::new();
                let mut marked = Vec::new();
                VideoCodec::H264.packetize(frame, stamp(), |payload, last| {
                    assert!(payload.len() <= MAX_PAYLOAD, "{} bytes", payload.len());
                    marked.push(last);
                    packets.push(payload);
                });
                assert!(marked.pop().unwrap() && !marked.contains(&true), "one end, at the end");
                let first = parse(&packets[0]).unwrap();
                assert_eq!(first.keyframe, at == 0, "layer {layer}, picture {at}");
                assert!(packets[1..].iter().all(|packet| !parse(packet).unwrap().keyframe));
                assert!(stamp_at_end_of(packets.last().unwrap()).is_some());
                let mut received = depacketize(&packets);
                let filler = received.pop().unwrap();
                assert!(filler[0] == FILLER && filler[1..].iter().all(|byte| byte & 0x80 != 0));
                assert_eq!(received, units(frame.bytes));
            }
        }
    }

    #[test]
    fn only_a_stamp_is_read_as_one() {
        let stamp = stamp();
        assert_eq!(stamp_at_end_of(&filler(stamp)), Some(stamp));
        assert_eq!(stamp_at_end_of(&filler(stamp)[2..]), None, "cut");
        assert_eq!(stamp_at_end_of(&[0x80; 60]), None);
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[STAP_A, 0]), None);
    }
}
