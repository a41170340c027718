//! What everybody in a room is told together, encoded once.

use bytes::Bytes;
use livekit_protocol::{self as proto, signal_response::Message};
use prost::Message as _;

/// Bytes of participants in one message: below the 128 KiB that clients are sent at most.
const MAX_BYTES: usize = 120 << 10;

/// News for everybody in a room.
#[derive(PartialEq, Debug, Default)]
pub struct News {
    /// Viewers (nobody with tracks) that came, changed or left.
    pub participants: Vec<proto::ParticipantInfo>,
    /// SignalResponses that say all of it, to be sent in this order.
    pub encoded: Vec<Bytes>,
}

impl News {
    /// News of viewers, of the room's counts, and of how participants are connected. People come first: the rest speaks
    /// of them.
    pub fn new(
        participants: Vec<proto::ParticipantInfo>,
        room: Option<proto::Room>,
        qualities: Vec<proto::ConnectionQualityInfo>,
    ) -> Self {
        let mut encoded = Vec::new();
        let mut say = |message: Message| {
            let response = proto::SignalResponse { message: Some(message) };
            encoded.push(response.encode_to_vec().into());
        };
        let mut rest = &participants[..];
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(first_within(MAX_BYTES, rest));
            say(Message::Update(proto::ParticipantUpdate { participants: chunk.to_vec() }));
            rest = later;
        }
        if let Some(room) = room {
            say(Message::RoomUpdate(proto::RoomUpdate { room: Some(room) }));
        }
        if !qualities.is_empty() {
            let update = proto::ConnectionQualityUpdate { updates: qualities };
            say(Message::ConnectionQuality(update));
        }
        Self { participants, encoded }
    }
}

/// How many of `people`, from the first on and at least one, take no more than `most` bytes.
fn first_within(most: usize, people: &[proto::ParticipantInfo]) -> usize {
    let mut bytes = 0;
    let fits = |info: &&proto::ParticipantInfo| {
        bytes += info.encoded_len();
        bytes <= most
    };
    people.iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_in_messages_that_clients_take() {
        let person = |bytes| proto::ParticipantInfo {
            metadata: "m".repeat(bytes),
            ..proto::ParticipantInfo::default()
        };
        let cases: [(&str, &[usize], &[usize]); 5] = [
            ("nobody", &[], &[]),
            ("few", &[10, 10], &[2]),
            ("many", &[50 << 10, 50 << 10, 50 << 10, 10], &[2, 2]),
            ("one that is too large", &[200 << 10], &[1]),
            ("between others", &[10, 200 << 10, 10], &[1, 1, 1]),
        ];
        for (name, sizes, expected) in cases {
            let people: Vec<_> = sizes.iter().map(|bytes| person(*bytes)).collect();
            let news = News::new(people.clone(), None, Vec::new());
            let messages = news.encoded.iter().map(|bytes| {
                match proto::SignalResponse::decode(bytes.clone()).unwrap().message {
                    Some(Message::Update(update)) => update.participants,
                    other => panic!("{other:?}"),
                }
            });
            let messages: Vec<_> = messages.collect();
            assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), expected, "{name}");
            assert_eq!(messages.concat(), people, "{name}");
        }
    }
}
