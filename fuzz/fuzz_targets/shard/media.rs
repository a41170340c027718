//! What clients send where it is well-formed: a browser's captured layers, simulcast of formats without any, sound with and
//! without redundancy. The input chooses, and may overwrite a byte.

use std::cell::OnceCell;

use chappe_sfu::{
    rtp::{CodecKind, ExtensionMap, Mid, Pt, Rid, RtpTs32, Seq16, Ssrc},
    wire::{
        AbsCaptureTime, AudioLevel, ExtensionValues, NtpTime, PlayoutDelay, RtpHeader,
        RtpHeaderFields, payload::write_red,
    },
};

use super::captures::{self, Capture};

/// Payload types of all peers; those of retransmissions are the next ones.
pub(crate) const PTS: [(CodecKind, u8); 7] = [
    (CodecKind::Opus, 111),
    (CodecKind::Red, 63),
    (CodecKind::Vp8, 96),
    (CodecKind::Vp9, 98),
    (CodecKind::H264, 102),
    (CodecKind::Av1, 45),
    (CodecKind::H265, 49),
];
/// Payload type of FlexFEC.
pub(crate) const FEC: u8 = 118;

thread_local! {
    static CAPTURES: OnceCell<Vec<Capture>> = const { OnceCell::new() };
}

/// What the input says about a packet.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    /// Which of the client's streams: sound, camera, low and high simulcast.
    pub(crate) stream: u8,
    pub(crate) key: bool,
    /// Low three bits: which format. 8: no descriptor. 16: a payload that cannot be read. 32: a padding packet.
    pub(crate) format: u8,
    /// Where `xor` goes in the packet behind the fixed header.
    pub(crate) at: u8,
    pub(crate) xor: u8,
    /// Level of sound, and more extensions by its bits.
    pub(crate) level: u8,
}

/// One stream of a client.
#[derive(Default)]
struct Stream {
    time: u32,
    picture: u16,
    tl0: u8,
    /// Of the capture.
    at: usize,
    sounds: Vec<Vec<u8>>,
}

/// The streams of one client.
#[derive(Default)]
pub(crate) struct Sources {
    streams: [Stream; 4],
    /// By the low bits of the SSRC.
    seqs: [u16; 32],
    transport_cc: u16,
    /// The last packets that may be protected or sent again.
    latest: Vec<Vec<u8>>,
}

impl Sources {
    /// The next number of a stream.
    pub(crate) fn next_seq(&mut self, ssrc: Ssrc, step: u16) -> u16 {
        let seq = &mut self.seqs[ssrc.0 as usize % 32];
        *seq = seq.wrapping_add(step);
        *seq
    }

    /// A packet, ready to be sealed.
    pub(crate) fn packet(&mut self, first: u32, wish: Wish, extensions: &ExtensionMap) -> Vec<u8> {
        let which = usize::from(wish.stream % 4);
        let ssrc = Ssrc(first + [0, 1, 8, 9][which]);
        let seq = self.next_seq(ssrc, 1);
        self.transport_cc = self.transport_cc.wrapping_add(1);
        let stream = &mut self.streams[which];
        let made = match which {
            0 => sound(stream, wish),
            _ if wish.format & 4 == 0 => captured(stream, wish),
            _ => picture(stream, wish),
        };
        let capture_time =
            AbsCaptureTime { ntp: NtpTime(u64::from(made.time) << 20), clock_offset: Some(1) };
        let delay = PlayoutDelay { min: std::time::Duration::ZERO, max: std::time::Duration::MAX };
        let values = ExtensionValues {
            mid: Mid::new(&[b"0122"[which]]),
            rid: [None, None, Rid::new(b"q"), Rid::new(b"h")][which],
            audio_level: (which == 0)
                .then_some(AudioLevel { level: wish.level & 0x7f, voice: wish.level & 0x80 != 0 }),
            transport_cc: Some(self.transport_cc),
            abs_capture_time: (wish.level & 1 != 0).then_some(capture_time),
            playout_delay: (wish.level & 2 != 0).then_some(delay),
            dependency_descriptor: Some(&made.descriptor[..])
                .filter(|raw| !raw.is_empty() && wish.format & 8 == 0),
            ..ExtensionValues::default()
        };
        let fields = RtpHeaderFields {
            marker: made.marker,
            pt: Pt::new(pt(made.kind)).expect("seven bits"),
            seq: Seq16(seq),
            timestamp: RtpTs32(made.time),
            ssrc,
        };
        let mut bytes = vec![0; 512];
        let header = fields.write(&mut bytes, &values, extensions).expect("small").len;
        bytes.truncate(header);
        match wish.format {
            format if format & 32 != 0 => {
                bytes[0] |= 0x20;
                bytes.extend([0, 0, 0, 4]);
            }
            format if format & 16 != 0 => bytes.extend(made.payload.iter().map(|byte| !byte)),
            _ => bytes.extend(&made.payload),
        }
        let at = 12 + usize::from(wish.at) % (bytes.len() - 12).max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= wish.xor;
        }
        if self.latest.len() == 8 {
            self.latest.remove(0);
        }
        self.latest.push(bytes.clone());
        bytes
    }

    /// One of the last packets again (RFC 4588), whether it was lost or not.
    pub(crate) fn again(&mut self, first: u32, back: usize) -> Option<Vec<u8>> {
        let index = self.latest.len().checked_sub(1 + back % 8)?;
        let mut bytes = self.latest[index].clone();
        let header_len = RtpHeader::parse(&bytes).ok()?.header_len;
        let ssrc = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let rtx = Ssrc(first + if ssrc == first + 1 { 4 } else { ssrc - first + 4 });
        let seq = self.next_seq(rtx, 1);
        let original = [bytes[2], bytes[3]];
        bytes[1] += 1;
        bytes[2..4].copy_from_slice(&seq.to_be_bytes());
        bytes[8..12].copy_from_slice(&rtx.0.to_be_bytes());
        bytes.splice(header_len..header_len, original);
        Some(bytes)
    }

    /// A repair packet (flexfec-03) over the last `count` packets of the stream of the last one.
    pub(crate) fn repair(&mut self, first: u32, count: usize) -> Option<Vec<u8>> {
        let last = self.latest.last()?;
        let ssrc = &last[8..12];
        let same: Vec<_> = self.latest.iter().filter(|packet| &packet[8..12] == ssrc).collect();
        let over = &same[same.len().saturating_sub(count)..];
        let base = u16::from_be_bytes([over[0][2], over[0][3]]);
        let (mut head, mut body, mut mask) = ([0; 8], Vec::new(), 0x8000_u16);
        for packet in over {
            let back = u16::from_be_bytes([packet[2], packet[3]]).wrapping_sub(base);
            mask |= 0x4000_u16.checked_shr(back.into()).unwrap_or(0);
            let len = ((packet.len() - 12) as u16).to_be_bytes();
            let fields =
                [packet[0], packet[1], len[0], len[1], packet[4], packet[5], packet[6], packet[7]];
            head.iter_mut().zip(fields).for_each(|(sum, byte)| *sum ^= byte);
            body.resize(body.len().max(packet.len() - 12), 0);
            body.iter_mut().zip(&packet[12..]).for_each(|(sum, byte)| *sum ^= byte);
        }
        head[0] &= 0x3f;
        let mut bytes = vec![0x80, FEC];
        let ssrc = ssrc.to_vec();
        let time = last[4..8].to_vec();
        bytes.extend(self.next_seq(Ssrc(first + 20), 1).to_be_bytes());
        bytes.extend(time);
        bytes.extend((first + 20).to_be_bytes());
        bytes.extend(head);
        bytes.extend([1, 0, 0, 0]);
        bytes.extend(ssrc);
        bytes.extend(base.to_be_bytes());
        bytes.extend(mask.to_be_bytes());
        bytes.extend(body);
        Some(bytes)
    }
}

/// What a stream has to say.
struct Made {
    kind: CodecKind,
    time: u32,
    marker: bool,
    descriptor: Vec<u8>,
    payload: Vec<u8>,
}

fn pt(kind: CodecKind) -> u8 {
    PTS.iter().find(|(known, _)| *known == kind).map_or(0, |(_, pt)| *pt)
}

/// 20 ms: Opus alone, or as RED with what was said before.
fn sound(stream: &mut Stream, wish: Wish) -> Made {
    stream.time = stream.time.wrapping_add(960);
    stream.picture = stream.picture.wrapping_add(1);
    let said = vec![0x78, stream.picture as u8, wish.level];
    let red = wish.format & 1 != 0;
    let payload = if red {
        let older: Vec<_> = stream
            .sounds
            .iter()
            .rev()
            .zip([960, 1_920])
            .map(|(said, ago)| (ago, &said[..]))
            .collect();
        let older: Vec<_> = older.into_iter().rev().collect();
        let mut out = vec![0; 64];
        let block = Pt::new(pt(CodecKind::Opus)).expect("seven bits");
        let len = write_red(&mut out, block, &older, &said).expect("small");
        out.truncate(len);
        out
    } else {
        said.clone()
    };
    if stream.sounds.len() == 2 {
        stream.sounds.remove(0);
    }
    stream.sounds.push(said);
    let kind = if red { CodecKind::Red } else { CodecKind::Opus };
    Made { kind, time: stream.time, marker: wish.key, descriptor: Vec::new(), payload }
}

/// A browser's packet, the next one; from the start again where a keyframe is wished for.
fn captured(stream: &mut Stream, wish: Wish) -> Made {
    let capture = usize::from(wish.format & 3);
    if wish.key {
        stream.at = 0;
    }
    let at = stream.at;
    stream.at += 1;
    CAPTURES.with(|known| {
        let Capture { kind, packets } = &known.get_or_init(captures::all)[capture];
        let packet = &packets[at % packets.len()];
        Made {
            kind: *kind,
            // Each time round it is later.
            time: packet.time.wrapping_add((at / packets.len()) as u32 * 900_000),
            marker: packet.marker,
            descriptor: packet.descriptor.to_vec(),
            payload: packet.payload.to_vec(),
        }
    })
}

/// A frame in one packet. Three temporal layers where the format tells them.
fn picture(stream: &mut Stream, wish: Wish) -> Made {
    const KINDS: [CodecKind; 4] =
        [CodecKind::Vp8, CodecKind::H264, CodecKind::H265, CodecKind::Vp9];
    stream.time = stream.time.wrapping_add(3_000);
    stream.picture = stream.picture.wrapping_add(1);
    let kind = KINDS[usize::from(wish.format & 3)];
    let temporal = if wish.key { 0 } else { [0, 2, 1, 2][usize::from(stream.picture % 4)] };
    stream.tl0 = stream.tl0.wrapping_add(u8::from(temporal == 0));
    let [high, low] = stream.picture.to_be_bytes();
    let payload = match (kind, wish.key) {
        (CodecKind::Vp8, key) => {
            let mut vp8 = vec![0x90, 0xf0, 0x80 | high, low, stream.tl0, temporal << 6 | 0x21];
            vp8.extend([0x10 | u8::from(!key), 0, 0]);
            if key {
                vp8.extend([0x9d, 1, 0x2a, 0x40, 1, 0xb4, 0]);
            }
            vp8
        }
        // Parameter sets and the picture in one STAP-A (RFC 6184 section 5.7.1).
        (CodecKind::H264, true) => {
            vec![0x78, 0, 4, 0x67, 0x42, 0xe0, 0x1f, 0, 2, 0x68, 0xce, 0, 3, 0x65, 0x88, 0x84]
        }
        (CodecKind::H264, false) => vec![0x41, 0x9a, low],
        (CodecKind::H265, true) => vec![0x26, 1, 0xaf, low],
        (CodecKind::H265, false) => vec![0x02, 1 + temporal, 0xd0, low],
        // Not flexible: I, L, B, E; P where it refers to others.
        (_, key) => {
            vec![
                0xac | u8::from(!key) << 6,
                0x80 | high,
                low,
                temporal << 5 | 0x10,
                stream.tl0,
                0x82,
            ]
        }
    };
    Made { kind, time: stream.time, marker: true, descriptor: Vec::new(), payload }
}
