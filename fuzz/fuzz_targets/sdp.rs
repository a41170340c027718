//! Offers and answers through the negotiator: one PeerConnection of each kind, several descriptions one after another.
//!
//! The input is descriptions, divided by NUL. The negotiator is taken in as source: the crate around it would bring the
//! whole server along.
#![no_main]

use std::{cell::OnceCell, collections::BTreeSet};

use chappe_proto::node::v1 as node;
use libfuzzer_sys::fuzz_target;

#[path = "../../control-plane/src/signal/sdp/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod sdp;

use sdp::{Assignment, Description, MAX_SECTIONS, MediaKind, Negotiator, SendTrack};

/// Descriptions of one input.
const MAX_STEPS: usize = 6;

thread_local! {
    static LOCAL: OnceCell<node::LocalTransport> = const { OnceCell::new() };
}

fn local() -> node::LocalTransport {
    let candidate = |protocol: node::candidate::Protocol| node::Candidate {
        protocol: protocol as i32,
        address: "192.0.2.1".to_owned(),
        port: 7_882,
        r#type: node::candidate::Type::Host as i32,
        priority: 2_130_706_431,
        foundation: "1".to_owned(),
    };
    node::LocalTransport {
        ice: Some(node::IceCredentials { ufrag: "abcd".to_owned(), pwd: "p".repeat(24) }),
        candidates: vec![
            candidate(node::candidate::Protocol::Udp),
            candidate(node::candidate::Protocol::Tcp),
        ],
        fingerprint: Some(node::Fingerprint {
            algorithm: "sha-256".to_owned(),
            digest: (0..32).collect(),
        }),
        ice_generation: 0,
    }
}

fn track(number: usize, mime_type: &str, shared: bool) -> SendTrack {
    let video = mime_type.starts_with("video/");
    let track_sid = format!("TR_{number}");
    let ssrc = 1_000 + 3 * u32::try_from(number).expect("few");
    SendTrack {
        kind: if video { MediaKind::Video } else { MediaKind::Audio },
        stream_id: format!("PA_a|{}", if shared { "camera" } else { &track_sid }),
        track_sid,
        mime_type: mime_type.to_owned(),
        ssrc,
        rtx_ssrc: if video { ssrc + 1 } else { 0 },
        fec_ssrc: if video { ssrc + 2 } else { 0 },
        stereo: shared,
    }
}

const MIME_TYPES: [&str; 7] =
    ["audio/opus", "audio/red", "video/VP8", "video/VP9", "video/H264", "video/AV1", "video/H265"];

/// Tracks come and go, one m-line each.
fn churn(negotiator: &mut Negotiator, step: usize) {
    for (index, mime_type) in MIME_TYPES.into_iter().enumerate() {
        let number = step * MIME_TYPES.len() + index;
        if number % 3 == 0 && step > 0 {
            negotiator.release(&format!("TR_{}", number - MIME_TYPES.len()));
        }
        let track = track(number, mime_type, number % 2 == 0);
        let sid = track.track_sid.clone();
        match negotiator.assign(track) {
            Assignment::Assigned { mid } => assert_eq!(negotiator.assignment(&sid), Some(&*mid)),
            Assignment::NeedsSections => assert_eq!(negotiator.assignment(&sid), None),
        }
    }
}

fn lines(sdp: &str) -> usize {
    sdp.lines().filter(|line| line.starts_with("m=")).count()
}

fn check(negotiator: &Negotiator, written: &Description) {
    assert!(lines(&written.sdp) <= MAX_SECTIONS);
    let tracks: BTreeSet<_> = written.mid_to_track_id.values().collect();
    assert_eq!(tracks.len(), written.mid_to_track_id.len(), "one m-line a track");
    for (mid, sid) in &written.mid_to_track_id {
        assert_eq!(negotiator.assignment(sid), Some(&**mid));
    }
    for section in negotiator.published() {
        assert!(!section.encodings.is_empty());
    }
}

fn stored(negotiator: &Negotiator) -> String {
    serde_json::to_string(negotiator).expect("stored")
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let local = LOCAL.with(|known| known.get_or_init(local).clone());
    let (mut answering, mut offering) = (Negotiator::answering(42), Negotiator::offering(42));
    for (step, sdp) in text.split('\0').take(MAX_STEPS).enumerate() {
        let id = u32::try_from(step + 1).expect("few");
        let before = stored(&answering);
        if answering.handle_offer(id, sdp).is_ok() {
            churn(&mut answering, step);
            let answer = answering.answer(&local).expect("an answer to what was taken");
            assert_eq!(lines(&answer.sdp), lines(sdp), "an m-line for each");
            assert!(!answer.sdp.contains('\0'), "one line stays one line");
            check(&answering, &answer);
            // As after a restart.
            answering = serde_json::from_str(&stored(&answering)).expect("restored");
        } else {
            assert_eq!(stored(&answering), before, "what is refused changes nothing");
        }
        churn(&mut offering, step);
        let offer = offering.offer(&local).expect("no offer is outstanding");
        check(&offering, &offer);
        let before = stored(&offering);
        if offering.handle_answer(offer.id, sdp).is_err() {
            assert_eq!(stored(&offering), before, "what is refused changes nothing");
            offering.abandon_offer();
        }
    }
});
