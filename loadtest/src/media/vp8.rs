//! VP8 in RTP (RFC 7741): enough to send whole frames and to see where received ones begin, end and how large they are.

use std::sync::Arc;

use super::{STAMP_LEN, Stamp, VideoPacket};

/// Payload bytes of a packet at most: leaves room for headers and SRTP in 1,200 bytes.
const MAX_PAYLOAD: usize = 1_100;

/// A frame with its stamp, cut into payloads of equal size (as browsers do). The decoder reads what follows the last
/// partition's data as part of it and needs none of it.
struct Cut<'a> {
    frame: &'a [u8],
    count: usize,
    size: usize,
}

impl<'a> Cut<'a> {
    fn of(frame: &'a [u8]) -> Self {
        let total = frame.len() + STAMP_LEN;
        let count = total.div_ceil(MAX_PAYLOAD);
        Self { frame, count, size: total.div_ceil(count) }
    }

    /// Payloads in front of the first one with a part of the stamp.
    fn whole(&self) -> usize {
        self.frame.len() / self.size
    }

    fn payload(&self, index: usize, stamp: &[u8; STAMP_LEN]) -> Arc<[u8]> {
        let end = self.frame.len();
        let (from, to) = (index * self.size, ((index + 1) * self.size).min(end + STAMP_LEN));
        // X, S on the first; I; a picture id of 15 bits, written where it is sent.
        let descriptor = [if index == 0 { 0x90 } else { 0x80 }, 0x80, 0x80, 0];
        let parts = [
            &descriptor[..],
            &self.frame[from.min(end)..to.min(end)],
            &stamp[from.saturating_sub(end)..to.saturating_sub(end)],
        ];
        parts.concat().into()
    }
}

/// The payloads that are the same whoever sends the frame, and whenever.
pub(super) fn shared(frame: &[u8]) -> Vec<Arc<[u8]>> {
    let cut = Cut::of(frame);
    (0..cut.whole()).map(|index| cut.payload(index, &[0; STAMP_LEN])).collect()
}

/// The others: one, or two when the stamp lies in both.
pub(super) fn stamped(frame: &[u8], stamp: Stamp) -> impl Iterator<Item = Arc<[u8]>> {
    let cut = Cut::of(frame);
    let stamp = stamp.to_bytes();
    (cut.whole()..cut.count).map(move |index| cut.payload(index, &stamp))
}

/// Reads the descriptor of a payload (section 4.2).
pub(super) fn parse(payload: &[u8]) -> Option<VideoPacket> {
    let first = *payload.first()?;
    let mut at = 1;
    if first & 0x80 != 0 {
        let extension = *payload.get(at)?;
        at += 1;
        if extension & 0x80 != 0 {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        at += usize::from(extension & 0x40 != 0) + usize::from(extension & 0x30 != 0);
    }
    let start = first & 0x10 != 0 && first & 0x0f == 0;
    let data = payload.get(at..)?;
    Some(VideoPacket { start, keyframe: start && is_keyframe(data) })
}

/// Whether a frame is one (RFC 6386 section 9.1).
pub(super) fn is_keyframe(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 1 == 0)
}

/// Height that a keyframe's header tells.
#[cfg(test)]
pub(super) fn height(frame: &[u8]) -> Option<u16> {
    let size = frame.get(3..10)?.strip_prefix(&[0x9d, 0x01, 0x2a])?;
    Some(u16::from_le_bytes([size[2], size[3]]) & 0x3fff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{CLIPS, Stream, VideoCodec, unix_now};

    #[test]
    fn a_frame_is_cut_into_equal_packets_with_the_stamp_at_the_end() {
        let stamp =
            Stamp { run: 1, publisher: 2, stream: Stream::Video(2), number: 3, sent: unix_now() };
        let frame = CLIPS.of(VideoCodec::Vp8)[2].frame(0);
        let mut packets = Vec::new();
        VideoCodec::Vp8.packetize(frame, stamp, |payload, last| packets.push((payload, last)));
        assert!(packets.len() > 50);
        let sizes: Vec<_> = packets.iter().map(|(payload, _)| payload.len()).collect();
        assert!(sizes[..sizes.len() - 1].windows(2).all(|pair| pair[0] == pair[1]));
        for (index, (payload, last)) in packets.iter().enumerate() {
            let parsed = parse(payload).unwrap();
            assert_eq!(parsed, VideoPacket { start: index == 0, keyframe: index == 0 });
            assert_eq!(*last, index + 1 == packets.len());
        }
        assert_eq!(Stamp::at_end_of(&packets.last().unwrap().0), Some(stamp));
        let whole: Vec<u8> =
            packets.iter().flat_map(|(payload, _)| payload[4..].to_vec()).collect();
        assert_eq!(&whole[..whole.len() - STAMP_LEN], frame.bytes);
    }

    #[test]
    fn descriptors_of_other_senders_are_read() {
        for (name, payload, expected) in [
            ("no extension", vec![0x10, 0x00], Some(VideoPacket { start: true, keyframe: true })),
            ("continuation", vec![0x00, 0x00], Some(VideoPacket { start: false, keyframe: false })),
            (
                "short picture id, TL0PICIDX, TID",
                vec![0x90, 0xe0, 0x12, 0x03, 0x40, 0x01],
                Some(VideoPacket { start: true, keyframe: false }),
            ),
            ("empty", vec![], None),
            ("cut in the extension", vec![0x90, 0x80], None),
        ] {
            assert_eq!(parse(&payload), expected, "{name}");
        }
    }
}
