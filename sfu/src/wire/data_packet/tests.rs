//! Packets are encoded by prost, spliced, and decoded again; the field numbers are those of the published schema.

use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// `livekit.DataPacket` with two of its payloads, and a field that Chappe has never heard of.
#[derive(Clone, PartialEq, prost::Message)]
struct Packet {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(message, tag = "2")]
    user: Option<User>,
    #[prost(string, tag = "4")]
    participant_identity: String,
    #[prost(string, repeated, tag = "5")]
    destination_identities: Vec<String>,
    #[prost(uint32, tag = "16")]
    sequence: u32,
    #[prost(string, tag = "17")]
    participant_sid: String,
    #[prost(fixed64, tag = "900")]
    from_the_future: u64,
    #[prost(fixed32, tag = "901")]
    also: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct User {
    #[prost(bytes, tag = "2")]
    payload: Vec<u8>,
    #[prost(string, optional, tag = "4")]
    topic: Option<String>,
    #[prost(string, repeated, tag = "6")]
    destination_identities: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stamp {
    #[prost(string, tag = "4")]
    participant_identity: String,
    #[prost(string, tag = "17")]
    participant_sid: String,
}

fn stamp() -> Vec<u8> {
    Stamp { participant_identity: "alice".into(), participant_sid: "PA_alice".into() }
        .encode_to_vec()
}

fn spliced(bytes: &[u8]) -> Vec<u8> {
    let packet = DataPacket::parse(bytes).unwrap();
    let mut buf = vec![0; packet.spliced_len(&stamp())];
    let len = packet.splice(&stamp(), &mut buf).unwrap();
    assert_eq!(len, buf.len());
    buf
}

#[test]
fn a_sender_cannot_speak_for_another() {
    let forged = Packet {
        participant_identity: "bob".into(),
        participant_sid: "PA_bob".into(),
        ..Packet::default()
    };
    // Twice, with something in between: each one goes.
    let mut bytes = forged.encode_to_vec();
    bytes.extend(Packet { sequence: 3, ..Packet::default() }.encode_to_vec());
    bytes.extend(forged.encode_to_vec());
    // And once with a type that the field does not have.
    bytes.extend([4 << 3, 7]);
    let out = spliced(&bytes);
    let mut expected = vec![0x80, 0x01, 3];
    expected.extend(stamp());
    assert_eq!(out, expected);
}

#[test]
fn destinations_and_sequence_are_read() {
    let packet = Packet {
        destination_identities: vec!["bob".into(), "carol".into()],
        user: Some(User { destination_identities: vec!["dave".into()], ..User::default() }),
        sequence: 70_000,
        ..Packet::default()
    };
    let bytes = packet.encode_to_vec();
    let packet = DataPacket::parse(&bytes).unwrap();
    let mut destinations: Vec<_> = packet.destinations().collect();
    destinations.sort_unstable();
    assert_eq!(destinations, [&b"bob"[..], b"carol", b"dave"]);
    assert_eq!(packet.sequence(), Some(70_000));
    assert!(!packet.is_broadcast());
    assert!(packet.is_for(b"dave") && packet.is_for(b"carol"));
    assert!(!packet.is_for(b"alice"));

    let broadcast = DataPacket::parse(&[]).unwrap();
    assert!(broadcast.is_broadcast() && broadcast.is_for(b"alice"));
    assert_eq!(broadcast.sequence(), None);
}

#[test]
fn field_numbers_are_those_of_the_published_schema() {
    use livekit_protocol as lk;

    let user = lk::UserPacket {
        payload: b"hello".to_vec(),
        topic: Some("chat".into()),
        #[allow(deprecated)] // what old clients still send
        destination_identities: vec!["old".into()],
        ..Default::default()
    };
    let packet = lk::DataPacket {
        participant_identity: "bob".into(),
        participant_sid: "PA_bob".into(),
        destination_identities: vec!["new".into()],
        sequence: 9,
        value: Some(lk::data_packet::Value::User(user)),
        ..Default::default()
    };
    let bytes = packet.encode_to_vec();
    let parsed = DataPacket::parse(&bytes).unwrap();
    let mut destinations: Vec<_> = parsed.destinations().collect();
    destinations.sort_unstable();
    assert_eq!((destinations, parsed.sequence()), (vec![&b"new"[..], b"old"], Some(9)));
    let expected = lk::DataPacket {
        participant_identity: "alice".into(),
        participant_sid: "PA_alice".into(),
        ..packet
    };
    assert_eq!(lk::DataPacket::decode(&spliced(&bytes)[..]).unwrap(), expected);
}

#[test]
fn garbage_is_an_error() {
    struct Case {
        name: &'static str,
        bytes: Vec<u8>,
        error: DataPacketError,
    }
    let too_many =
        Packet { destination_identities: vec![String::new(); 1_025], ..Packet::default() };
    let cases = [
        Case { name: "too large", bytes: vec![0; 64_001], error: DataPacketError::TooLarge },
        Case {
            name: "too many destinations",
            bytes: too_many.encode_to_vec(),
            error: DataPacketError::TooManyDestinations,
        },
        Case { name: "field zero", bytes: vec![0x00, 0], error: DataPacketError::Malformed },
        Case { name: "group", bytes: vec![0x0b, 0x0c], error: DataPacketError::Malformed },
        Case { name: "wire type 7", bytes: vec![0x0f], error: DataPacketError::Malformed },
        Case { name: "tag cut", bytes: vec![0x80], error: DataPacketError::Malformed },
        Case { name: "varint cut", bytes: vec![0x08, 0x80], error: DataPacketError::Malformed },
        Case {
            name: "varint of eleven bytes",
            bytes: [&[0x08][..], &[0x80; 10], &[0]].concat(),
            error: DataPacketError::Malformed,
        },
        Case {
            name: "tag over 32 bits",
            bytes: vec![0xf8, 0xff, 0xff, 0xff, 0xff, 0x01, 0],
            error: DataPacketError::Malformed,
        },
        Case { name: "bytes cut", bytes: vec![0x12, 5, 1], error: DataPacketError::Malformed },
        Case { name: "fixed64 cut", bytes: vec![0x09, 1], error: DataPacketError::Malformed },
        Case { name: "fixed32 cut", bytes: vec![0x0d, 1], error: DataPacketError::Malformed },
        Case {
            name: "user packet is a number",
            bytes: vec![0x10, 1],
            error: DataPacketError::Malformed,
        },
        Case {
            name: "sequence is a string",
            bytes: vec![0x82, 0x01, 0],
            error: DataPacketError::Malformed,
        },
        Case {
            name: "broken user packet",
            bytes: vec![0x12, 1, 0x80],
            error: DataPacketError::Malformed,
        },
    ];
    for case in cases {
        assert_eq!(DataPacket::parse(&case.bytes).err(), Some(case.error), "{}", case.name);
    }
}

proptest! {
    #[test]
    fn everything_but_the_sender_passes(
        kind in 0..2i32,
        payload in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        topic: Option<String>,
        identity: String,
        sid: String,
        destinations in prop::collection::vec("[a-z]{0,8}", 0..5),
        sequence: u32,
        from_the_future: u64,
        also: u32,
    ) {
        let user = payload.map(|payload| User {
            payload,
            topic,
            destination_identities: destinations.iter().take(1).cloned().collect(),
        });
        let named = destinations.len() + user.iter().map(|u| u.destination_identities.len()).sum::<usize>();
        let packet = Packet {
            kind,
            user,
            participant_identity: identity,
            destination_identities: destinations,
            sequence,
            participant_sid: sid,
            from_the_future,
            also,
        };
        let bytes = packet.encode_to_vec();
        let parsed = DataPacket::parse(&bytes).unwrap();
        prop_assert_eq!(parsed.sequence().unwrap_or(0), sequence);
        prop_assert_eq!(parsed.destinations().count(), named);

        let expected = Packet {
            participant_identity: "alice".into(),
            participant_sid: "PA_alice".into(),
            ..packet
        };
        prop_assert_eq!(Packet::decode(&spliced(&bytes)[..]).unwrap(), expected);
        let mut short = vec![0; parsed.spliced_len(&stamp()) - 1];
        prop_assert_eq!(parsed.splice(&stamp(), &mut short), Err(BufferTooSmall));
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(packet) = DataPacket::parse(&bytes) {
            let mut buf = vec![0; packet.spliced_len(b"")];
            prop_assert_eq!(packet.splice(b"", &mut buf), Ok(buf.len()));
            prop_assert_eq!(packet.destinations().next().is_none(), packet.is_broadcast());
        }
    }
}
