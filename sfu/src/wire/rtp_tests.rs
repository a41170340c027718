//! RTP read, written, and compared with an independent parser.

use std::time::Duration;

use proptest::prelude::*;
use rtp_types::{RtpPacket as OraclePacket, RtpPacketBuilder};

use super::*;
use crate::rtp::{Extension, ExtensionMap, Mid, Pt, Rid, RtpTs32, Seq16, Ssrc};

fn fields() -> RtpHeaderFields {
    RtpHeaderFields {
        marker: true,
        pt: Pt::new(96).unwrap(),
        seq: Seq16(0xfffe),
        timestamp: RtpTs32(0x1234_5678),
        ssrc: Ssrc(0xcafe_babe),
    }
}

/// Ids 1..=12 in declaration order.
fn full_map() -> ExtensionMap {
    let mut map = ExtensionMap::default();
    for (index, extension) in Extension::ALL.into_iter().enumerate() {
        map.set(extension, index as u8 + 1);
    }
    map
}

fn packet_with_block(profile: u16, block: &[u8]) -> Vec<u8> {
    assert_eq!(block.len() % 4, 0);
    let mut packet = vec![0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    packet.extend(profile.to_be_bytes());
    packet.extend((block.len() as u16 / 4).to_be_bytes());
    packet.extend(block);
    packet.extend(b"media");
    packet
}

#[test]
fn extension_blocks_follow_rfc_8285() {
    struct Case {
        name: &'static str,
        profile: u16,
        block: &'static [u8],
        elements: Result<&'static [(u8, &'static [u8])], RtpError>,
    }
    let cases = [
        Case {
            name: "one byte, padding between and behind",
            profile: 0xbede,
            block: &[0x10, 0xaa, 0, 0, 0x21, 1, 2, 0],
            elements: Ok(&[(1, &[0xaa]), (2, &[1, 2])]),
        },
        Case {
            name: "id 15 ends the block",
            profile: 0xbede,
            block: &[0x10, 0xaa, 0xf0, 0x21, 1, 2, 0, 0],
            elements: Ok(&[(1, &[0xaa])]),
        },
        Case {
            name: "padding with a length ends the block",
            profile: 0xbede,
            block: &[0x10, 0xaa, 0x03, 0x21],
            elements: Ok(&[(1, &[0xaa])]),
        },
        Case {
            name: "one byte, overrun",
            profile: 0xbede,
            block: &[0x10, 0xaa, 0x22, 1],
            elements: Err(RtpError::Extension),
        },
        Case {
            name: "two bytes, empty value, id 15 is an id, appbits ignored",
            profile: 0x1007,
            block: &[15, 1, 9, 0, 200, 0, 3, 2, 7, 8, 0, 0],
            elements: Ok(&[(15, &[9]), (200, &[]), (3, &[7, 8])]),
        },
        Case {
            name: "two bytes, overrun",
            profile: 0x1000,
            block: &[1, 3, 0, 0],
            elements: Err(RtpError::Extension),
        },
        Case {
            name: "two bytes, no length",
            profile: 0x1000,
            block: &[0, 0, 0, 1],
            elements: Err(RtpError::Extension),
        },
        Case { name: "other profile", profile: 0xabcd, block: &[1, 3, 0, 0], elements: Ok(&[]) },
        Case { name: "empty block", profile: 0xbede, block: &[], elements: Ok(&[]) },
    ];
    for case in cases {
        let packet = packet_with_block(case.profile, case.block);
        let parsed = RtpPacket::parse(&packet);
        let elements = parsed.map(|p| p.elements().collect::<Vec<_>>());
        assert_eq!(elements, case.elements.map(<[_]>::to_vec), "{}", case.name);
        if let Ok(parsed) = parsed {
            assert_eq!(parsed.payload, b"media", "{}", case.name);
        }
    }
}

#[test]
fn bounds_are_checked() {
    struct Case {
        name: &'static str,
        packet: &'static [u8],
        error: RtpError,
    }
    let cases = [
        Case { name: "empty", packet: &[], error: RtpError::Short },
        Case { name: "version 1", packet: &[0x40, 96], error: RtpError::Version },
        Case {
            name: "cut",
            packet: &[0x80, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0],
            error: RtpError::Short,
        },
        Case {
            name: "csrc cut",
            packet: &[0x81, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0],
            error: RtpError::Short,
        },
        Case {
            name: "extension header cut",
            packet: &[0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xbe, 0xde, 0],
            error: RtpError::Short,
        },
        Case {
            name: "extension block cut",
            packet: &[0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xbe, 0xde, 0, 1, 0, 0, 0],
            error: RtpError::Short,
        },
        Case {
            name: "padding without a count",
            packet: &[0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3],
            error: RtpError::Padding,
        },
        Case {
            name: "padding of zero",
            packet: &[0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 0],
            error: RtpError::Padding,
        },
        Case {
            name: "more padding than bytes",
            packet: &[0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 3],
            error: RtpError::Padding,
        },
    ];
    for case in cases {
        assert_eq!(RtpPacket::parse(case.packet).err(), Some(case.error), "{}", case.name);
    }
}

#[test]
fn padding_and_csrcs_are_taken_off() {
    let packet = [0xa2, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0, 8, 42, 0, 0, 3];
    let parsed = RtpPacket::parse(&packet).unwrap();
    assert_eq!(parsed.payload, [42]);
    assert_eq!(parsed.padding, 3);
    assert_eq!(parsed.csrcs().collect::<Vec<_>>(), [Ssrc(7), Ssrc(8)]);
    let only_padding = [0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 2];
    assert!(RtpPacket::parse(&only_padding).unwrap().payload.is_empty());
}

#[test]
fn only_negotiated_extensions_are_written() {
    let mut map = ExtensionMap::default();
    map.set(Extension::Mid, 4);
    let values = ExtensionValues {
        mid: Mid::new(b"ab"),
        rid: Rid::new(b"q"),
        transport_cc: Some(7),
        ..ExtensionValues::default()
    };
    let mut buf = [0xff; RtpHeaderFields::MAX_LEN];
    let written = fields().write(&mut buf, &values, &map).unwrap();
    assert_eq!(written, WrittenHeader { len: 20, transport_cc: None, abs_send_time: None });
    assert_eq!(buf[12..20], [0xbe, 0xde, 0, 1, 0x41, b'a', b'b', 0]);

    let bare = fields().write(&mut buf, &values, &ExtensionMap::default()).unwrap();
    assert_eq!((bare.len, buf[0]), (12, 0x80));
}

#[test]
fn the_two_byte_form_is_taken_when_an_id_or_a_value_needs_it() {
    struct Case {
        name: &'static str,
        id: u8,
        descriptor_len: usize,
        profile: [u8; 2],
    }
    let cases = [
        Case { name: "fits", id: 14, descriptor_len: 16, profile: [0xbe, 0xde] },
        Case { name: "id 15", id: 15, descriptor_len: 3, profile: [0x10, 0x00] },
        Case { name: "17 bytes", id: 1, descriptor_len: 17, profile: [0x10, 0x00] },
    ];
    for case in cases {
        let mut map = ExtensionMap::default();
        map.set(Extension::DependencyDescriptor, case.id);
        let descriptor = vec![5; case.descriptor_len];
        let values = ExtensionValues {
            dependency_descriptor: Some(&descriptor),
            ..ExtensionValues::default()
        };
        let mut buf = [0; RtpHeaderFields::MAX_LEN];
        let written = fields().write(&mut buf, &values, &map).unwrap();
        assert_eq!(buf[12..14], case.profile, "{}", case.name);
        let parsed = RtpPacket::parse(&buf[..written.len]).unwrap();
        assert_eq!(parsed.extension_values(&map), values, "{}", case.name);
    }
}

#[test]
fn values_are_patched_where_they_were_written() {
    let map = full_map();
    let values = ExtensionValues {
        transport_cc: Some(0),
        abs_send_time: Some(AbsSendTime::from_bits(0)),
        audio_level: Some(AudioLevel { level: 30, voice: true }),
        ..ExtensionValues::default()
    };
    let mut buf = [0; RtpHeaderFields::MAX_LEN];
    let written = fields().write(&mut buf, &values, &map).unwrap();
    let time = AbsSendTime::from_duration(Duration::from_millis(65_500));
    patch_transport_cc(&mut buf, written.transport_cc.unwrap(), 0xbeef);
    patch_abs_send_time(&mut buf, written.abs_send_time.unwrap(), time);
    let read = RtpPacket::parse(&buf[..written.len]).unwrap().extension_values(&map);
    let expected =
        ExtensionValues { transport_cc: Some(0xbeef), abs_send_time: Some(time), ..values };
    assert_eq!(read, expected);
    assert_eq!(time.bits(), 3 << 17, "1.5 s, modulo 64 s");
}

#[test]
fn a_buffer_too_small_is_an_error() {
    let mut buf = [0; RtpHeaderFields::MAX_LEN];
    let values = ExtensionValues { mid: Mid::new(b"abc"), ..ExtensionValues::default() };
    let needed = fields().write(&mut buf, &values, &full_map()).unwrap().len;
    for len in 0..needed {
        let written = fields().write(&mut buf[..len], &values, &full_map());
        assert_eq!(written, Err(BufferTooSmall), "{len}");
    }
}

fn any_fields() -> impl Strategy<Value = RtpHeaderFields> {
    (any::<bool>(), 0u8..128, any::<u16>(), any::<u32>(), any::<u32>()).prop_map(
        |(marker, pt, seq, timestamp, ssrc)| RtpHeaderFields {
            marker,
            pt: Pt::new(pt).unwrap(),
            seq: Seq16(seq),
            timestamp: RtpTs32(timestamp),
            ssrc: Ssrc(ssrc),
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        fields in any_fields(),
        id_offset in 0u8..20,
        mid in prop::option::of("[!-~]{1,16}"),
        rid in prop::option::of("[!-~]{1,16}"),
        audio in prop::option::of((0u8..128, any::<bool>())),
        transport_cc: Option<u16>,
        send_time: Option<u32>,
        capture in prop::option::of((any::<u64>(), any::<Option<i64>>())),
        delay in prop::option::of((0u64..4096, 0u64..4096)),
        orientation: Option<u8>,
        descriptor in prop::option::of(prop::collection::vec(any::<u8>(), 1..120)),
        offset in prop::option::of(-0x80_0000i32..0x80_0000),
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut map = ExtensionMap::default();
        for (index, extension) in Extension::ALL.into_iter().enumerate() {
            map.set(extension, index as u8 + 1 + id_offset);
        }
        let values = ExtensionValues {
            mid: mid.as_ref().and_then(|text| Mid::new(text.as_bytes())),
            rid: rid.as_ref().and_then(|text| Rid::new(text.as_bytes())),
            repaired_rid: rid.as_ref().and_then(|text| Rid::new(text.as_bytes())),
            audio_level: audio.map(|(level, voice)| AudioLevel { level, voice }),
            transport_cc,
            abs_send_time: send_time.map(AbsSendTime::from_bits),
            abs_capture_time: capture
                .map(|(ntp, clock_offset)| AbsCaptureTime { ntp: NtpTime(ntp), clock_offset }),
            playout_delay: delay.map(|(min, max)| PlayoutDelay {
                min: Duration::from_millis(min * 10),
                max: Duration::from_millis(max * 10),
            }),
            video_orientation: orientation.map(VideoOrientation),
            dependency_descriptor: descriptor.as_deref(),
            video_layers_allocation: None,
            transmission_offset: offset,
        };
        let mut buf = [0; 600];
        let written = fields.write(&mut buf, &values, &map).unwrap();
        prop_assert!(written.len <= RtpHeaderFields::MAX_LEN);
        let end = written.len + payload.len();
        buf[written.len..end].copy_from_slice(&payload);

        let parsed = RtpPacket::parse(&buf[..end]).unwrap();
        prop_assert_eq!(parsed.extension_values(&map), values);
        prop_assert_eq!(parsed.payload, &payload[..]);
        prop_assert_eq!(parsed.header.marker, fields.marker);

        let oracle = OraclePacket::parse(&buf[..end]).unwrap();
        prop_assert_eq!(oracle.payload_type(), fields.pt.value());
        prop_assert_eq!(oracle.sequence_number(), fields.seq.0);
        prop_assert_eq!(oracle.timestamp(), fields.timestamp.0);
        prop_assert_eq!(oracle.ssrc(), fields.ssrc.0);
        prop_assert_eq!(oracle.marker_bit(), fields.marker);
        prop_assert_eq!(oracle.payload(), &payload[..]);
    }

    #[test]
    fn packets_of_another_writer_are_read(
        pt in 0u8..128,
        seq: u16,
        timestamp: u32,
        ssrc: u32,
        marker: bool,
        csrcs in prop::collection::vec(any::<u32>(), 0..15),
        payload in prop::collection::vec(any::<u8>(), 0..100),
        padding in prop::option::of(1u8..20),
    ) {
        let mut builder = RtpPacketBuilder::new()
            .payload_type(pt)
            .sequence_number(seq)
            .timestamp(timestamp)
            .ssrc(ssrc)
            .marker_bit(marker)
            .extension(0xbede, &[0x10u8, 9, 0, 0][..])
            .payload(&payload[..])
            .maybe_padding(padding);
        for csrc in &csrcs {
            builder = builder.add_csrc(*csrc);
        }
        let bytes = builder.write_vec().unwrap();
        let parsed = RtpPacket::parse(&bytes).unwrap();
        prop_assert_eq!(parsed.header.pt.value(), pt);
        prop_assert_eq!(parsed.header.seq, Seq16(seq));
        prop_assert_eq!(parsed.header.timestamp, RtpTs32(timestamp));
        prop_assert_eq!(parsed.header.ssrc, Ssrc(ssrc));
        prop_assert_eq!(parsed.header.marker, marker);
        prop_assert_eq!(parsed.csrcs().map(|ssrc| ssrc.0).collect::<Vec<_>>(), csrcs);
        prop_assert_eq!(parsed.elements().collect::<Vec<_>>(), vec![(1, &[9u8][..])]);
        prop_assert_eq!(parsed.payload, &payload[..]);
        prop_assert_eq!(parsed.padding, padding.unwrap_or(0));
    }

    #[test]
    fn noise_never_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        first in 0x80u8..0xc0,
        profile in prop::sample::select(vec![0xbedeu16, 0x1000, 0x100f]),
    ) {
        let _ = (classify(&bytes), RtpPacket::parse(&bytes).is_ok());
        if bytes.len() > 14 {
            bytes[0] = first;
            bytes[12..14].copy_from_slice(&profile.to_be_bytes());
        }
        if let Ok(packet) = RtpPacket::parse(&bytes) {
            let _ = (packet.csrcs().count(), packet.extension_values(&full_map()));
        }
    }
}
