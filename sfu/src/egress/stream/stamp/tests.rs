use proptest::prelude::*;

use super::*;
use crate::{
    cache::{
        CodecPatch, Formats,
        test_packets::{codec, meta, start},
    },
    egress::EgressConfig,
    rtp::{CodecKind, CodecMap, Extension, ExtensionMap, MediaTime, Mid},
};

/// A stream whose header is known, which names its m-line still or does no longer.
fn video(names_mid: bool) -> EgressStream {
    let mut extensions = ExtensionMap::default();
    for (extension, id) in
        [(Extension::Mid, 4), (Extension::TransportCc, 5), (Extension::AbsSendTime, 6)]
    {
        extensions.set(extension, id);
    }
    let mut formats = Formats::default();
    formats.intern(&codec(CodecKind::Vp8, 96, Some(97))).unwrap();
    let mid = Mid::new(b"3").unwrap();
    let config =
        EgressConfig { ssrc: Ssrc(5_000), rtx_ssrc: Some(Ssrc(5_001)), fec: None, mid, extensions };
    let mut stream = EgressStream::new(start(), config, SeqNo(7));
    stream.set_codecs(&formats, &CodecMap::new(vec![codec(CodecKind::Vp8, 120, Some(124))]));
    // As after a report and the first packets.
    stream.marks.acknowledged = !names_mid;
    stream.marks.mid_left = if names_mid { 32 } else { 0 };
    let packet = meta(0, 1, 0, start());
    let packet = CachedPacket { meta: &packet, dependency_descriptor: &[], payload: &[1] };
    let _ = stream.write(start(), packet, &rewritten(1, CodecPatch::NONE), &mut [0; 100]).unwrap();
    stream
}

fn rewritten(seq: u64, patch: CodecPatch) -> Rewritten {
    Rewritten {
        seq: SeqNo(seq),
        time: MediaTime(seq * 3_000),
        marker: false,
        patch,
        descriptor: None,
        opens: false,
        awaited: false,
    }
}

proptest! {
    #[test]
    fn what_is_stamped_is_what_would_be_written(
        names_mid in any::<bool>(),
        at in 0..20_u8,
        bytes in prop::collection::vec(any::<u8>(), 0..=CodecPatch::MAX_LEN),
        payloads in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..100), any::<bool>()), 1..5),
        seq in 2..200_000_u64,
    ) {
        let mut stream = video(names_mid);
        let end = usize::from(at) + bytes.len();
        let mut patch = CodecPatch::new(at);
        bytes.into_iter().for_each(|byte| patch.push(byte));
        let first = rewritten(seq, patch);
        let meta = meta(0, 2, 0, start());
        let leaving = stream.begin(meta.format, &first).unwrap();
        let Some(stamp) = stream.stamp(leaving, &first) else {
            prop_assert!(end > 16, "no stamp");
            return Ok(());
        };
        for (seq, (payload, marker)) in (seq..).map(SeqNo).zip(&payloads) {
            let packet = CachedPacket { meta: &meta, dependency_descriptor: &[], payload };
            prop_assert_eq!(stamp.suits(&packet), payload.len() >= 16);
            if !stamp.suits(&packet) {
                continue;
            }
            let each = Rewritten { seq, marker: *marker, ..first };
            let (mut expected, mut out) = ([7; 150], [9; 150]);
            let written = stream.put(leaving, packet, &each, &[], &mut expected).unwrap();
            prop_assert_eq!(stamp.write(packet, seq, *marker, &mut out), Some(written));
            prop_assert_eq!(&out[..written.len], &expected[..written.len]);
            for short in [0, 39, written.len - 1] {
                prop_assert_eq!(stamp.write(packet, seq, *marker, &mut out[..short]), None);
            }
        }
    }
}

#[test]
fn what_is_more_than_a_payload_has_no_stamp() {
    let mut stream = video(false);
    let mut next = meta(0, 2, 0, start());
    let first = rewritten(2, CodecPatch::NONE);
    let leaving = stream.begin(next.format, &first).unwrap();
    let stamp = stream.stamp(leaving, &first).expect("known header");
    next.audio_level = Some(crate::wire::AudioLevel { level: 3, voice: true });
    let payload = &[1; 20];
    assert!(!stamp.suits(&CachedPacket { meta: &next, dependency_descriptor: &[], payload }));
    next.audio_level = None;
    assert!(stamp.suits(&CachedPacket { meta: &next, dependency_descriptor: &[], payload }));
    assert!(!stamp.suits(&CachedPacket { meta: &next, dependency_descriptor: &[1], payload }));
    // Other extensions: nothing is known of the header.
    stream.set_extensions(ExtensionMap::default());
    assert!(stream.stamp(leaving, &first).is_none());
}
