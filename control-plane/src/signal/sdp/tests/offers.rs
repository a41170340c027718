//! What real offers say to the node.

use super::*;

struct Case {
    fixture: &'static str,
    added: &'static [&'static str],
    free: (u32, u32),
    /// First codec of the video that is published.
    first: Option<&'static str>,
    rids: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case { fixture: "chromium-join", added: &[], free: (3, 3), first: None, rids: &[] },
    Case { fixture: "firefox-join", added: &[], free: (3, 3), first: None, rids: &[] },
    Case {
        fixture: "chromium-publish",
        added: &["6", "7"],
        free: (3, 3),
        first: Some("video/VP8"),
        rids: &["q", "h", "f"],
    },
    Case {
        fixture: "firefox-publish",
        added: &["6", "7"],
        free: (3, 3),
        first: Some("video/VP8"),
        rids: &["q", "h", "f"],
    },
    Case {
        fixture: "chromium-publisher",
        added: &["0", "1"],
        free: (0, 0),
        first: Some("video/VP8"),
        rids: &["q", "h", "f"],
    },
    Case {
        fixture: "firefox-publisher",
        added: &["0", "1"],
        free: (0, 0),
        first: Some("video/VP8"),
        rids: &["q", "h", "f"],
    },
    Case {
        fixture: "chromium-screen",
        added: &["6"],
        free: (3, 3),
        first: Some("video/VP8"),
        rids: &[],
    },
    Case {
        fixture: "firefox-screen",
        added: &["6"],
        free: (3, 3),
        first: Some("video/VP8"),
        rids: &[],
    },
    Case {
        fixture: "chromium-svc",
        added: &["6"],
        free: (3, 3),
        first: Some("video/VP9"),
        rids: &[],
    },
    Case {
        fixture: "firefox-svc",
        added: &["6"],
        free: (3, 3),
        first: Some("video/VP9"),
        rids: &[],
    },
    Case {
        fixture: "chromium-av1",
        added: &["6"],
        free: (3, 3),
        first: Some("video/AV1"),
        rids: &[],
    },
    Case {
        fixture: "firefox-av1",
        added: &["6"],
        free: (3, 3),
        first: Some("video/AV1"),
        rids: &[],
    },
    Case {
        fixture: "chromium-h264",
        added: &["6"],
        free: (3, 3),
        first: Some("video/H264"),
        rids: &["q", "h", "f"],
    },
    Case {
        fixture: "aiortc-publish",
        added: &["0", "1"],
        free: (1, 1),
        first: Some("video/VP8"),
        rids: &[],
    },
];

#[test]
fn real_offers_are_understood() {
    for case in CASES {
        let name = case.fixture;
        let (negotiator, summary) = offered(name);
        assert_eq!(summary.added, case.added, "{name}");
        assert_eq!((summary.free_audios, summary.free_videos), case.free, "{name}");
        assert!(summary.wants_data && negotiator.wants_data(), "{name}");
        assert!(!summary.ice_restart, "{name}");
        let video = negotiator.published().find(|section| section.kind == MediaKind::Video);
        assert_eq!(video.is_some(), case.first.is_some(), "{name}");
        let Some(video) = video else { continue };
        assert!(video.active && !video.cid.is_empty() && !video.stream.is_empty(), "{name}");
        assert_eq!(video.mime_types.first().map(String::as_str), case.first, "{name}");
        let rids: Vec<_> =
            video.encodings.iter().map(|e| e.rid.as_str()).filter(|rid| !rid.is_empty()).collect();
        assert_eq!(rids, case.rids, "{name}");
        assert_eq!(video.encodings.len(), case.rids.len().max(1), "{name}");
    }
}

#[test]
fn ssrcs_beside_rids_say_nothing() {
    // Which is whose: str0m shuffles them from offer to offer.
    let (negotiator, _) = offered("firefox-publish");
    let video = negotiator.published().find(|s| s.kind == MediaKind::Video).expect("video");
    assert_eq!(video.encodings.len(), 3);
    for encoding in &video.encodings {
        assert!(!encoding.rid.is_empty() && encoding.ssrc == 0, "{encoding:?}");
        assert_eq!(encoding.rtx_ssrc, 0, "{encoding:?}");
    }
    let audio = negotiator.published().find(|s| s.kind == MediaKind::Audio).expect("audio");
    assert_ne!(audio.encodings[0].ssrc, 0);
}

#[test]
fn aiortc_names_ssrcs_where_it_receives_and_hashes_its_certificate_thrice() {
    let (negotiator, _) = offered("aiortc-publish");
    let published: Vec<_> = negotiator.published().collect();
    assert_eq!(published.len(), 2, "{published:?}");
    let of = |kind| published.iter().find(|s| s.kind == kind).expect("published").encodings.clone();
    let (audio, video) = (of(MediaKind::Audio), of(MediaKind::Video));
    assert_eq!([audio.len(), video.len()], [1, 1]);
    assert!(audio[0].ssrc != 0 && audio[0].rtx_ssrc == 0, "{audio:?}");
    assert!(video[0].ssrc != 0 && video[0].rtx_ssrc != 0, "{video:?}");
    let fingerprints = negotiator.transport().remote_fingerprints.clone();
    let lengths: Vec<_> =
        fingerprints.iter().map(|one| (one.algorithm.as_str(), one.digest.len())).collect();
    assert_eq!(lengths, [("sha-256", 32), ("sha-384", 48), ("sha-512", 64)]);
}

#[test]
fn the_transport_is_the_clients() {
    let (negotiator, _) = offered("chromium-join");
    let transport = negotiator.transport();
    let ice = transport.remote_ice.as_ref().expect("credentials");
    assert_eq!((ice.ufrag.as_str(), ice.pwd.as_str()), ("clnt", "clientclientclientclient"));
    assert_eq!(transport.dtls_role(), node::DtlsRole::Passive);
    assert_eq!(transport.remote_fingerprints.len(), 1);
    assert_eq!(transport.remote_fingerprints[0].algorithm, "sha-256");
    assert_eq!(transport.remote_fingerprints[0].digest.len(), 32);
    let sctp = transport.sctp.expect("data");
    assert_eq!((sctp.remote_port, sctp.remote_max_message_size), (5000, 262_144));
}

#[test]
fn codecs_are_the_clients_numbers_in_normal_form() {
    let (negotiator, _) = offered("chromium-publish");
    let codecs = negotiator.codecs();
    let opus = codecs.iter().find(|c| c.kind() == node::CodecKind::Opus).expect("opus");
    assert_eq!((opus.payload_type, opus.clock_rate, opus.channels), (111, 48_000, 2));
    assert!(opus.transport_cc && opus.rtx_payload_type.is_none());
    let red = codecs.iter().find(|c| c.kind() == node::CodecKind::Red).expect("red");
    assert_eq!((red.payload_type, red.red_block_payload_type), (63, Some(111)));
    let vp8 = codecs.iter().find(|c| c.kind() == node::CodecKind::Vp8).expect("vp8");
    assert_eq!((vp8.payload_type, vp8.rtx_payload_type, vp8.channels), (96, Some(97), 0));
    assert!(vp8.nack && vp8.pli && vp8.fir && vp8.transport_cc && !vp8.remb);
    let h264: Vec<_> = codecs
        .iter()
        .filter(|c| c.kind() == node::CodecKind::H264)
        .map(|c| c.profile.as_str())
        .collect();
    assert!(h264.contains(&"42e0/1") && h264.contains(&"4d00/1"), "{h264:?}");
    let mut unique = h264.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), h264.len(), "one payload type for each profile: {h264:?}");
    assert!(codecs.iter().all(|c| c.payload_type < 64 || c.payload_type > 95));
}

#[test]
fn extension_ids_are_the_clients() {
    let (negotiator, _) = offered("firefox-publish");
    let extensions = negotiator.extensions();
    let find = |kind: node::ExtensionKind| extensions.iter().find(|e| e.kind() == kind);
    let mid = find(node::ExtensionKind::Mid).expect("mid");
    assert!(mid.id == 3 && mid.send && mid.receive);
    let rid = find(node::ExtensionKind::Rid).expect("rid");
    assert!(rid.id == 9 && !rid.send && rid.receive);
    let descriptor = find(node::ExtensionKind::DependencyDescriptor).expect("descriptor");
    assert!(descriptor.receive);
    assert!(find(node::ExtensionKind::TransportCc).is_some());
    assert!(find(node::ExtensionKind::AbsSendTime).is_none(), "transport-cc replaces it");
}

#[test]
fn layers_order_the_encodings() {
    let (negotiator, _) = offered("chromium-publish");
    let video = negotiator.published().find(|s| s.kind == MediaKind::Video).expect("video");
    let rids = |layers: &[proto::VideoLayer]| -> Vec<String> {
        video.encodings_for(layers).into_iter().map(|e| e.rid).collect()
    };
    assert_eq!(rids(&[]), ["q", "h", "f"]);
    let layer = |rid: &str, quality: proto::VideoQuality| proto::VideoLayer {
        rid: rid.to_owned(),
        quality: quality as i32,
        ..proto::VideoLayer::default()
    };
    let reversed = [
        layer("f", proto::VideoQuality::Low),
        layer("h", proto::VideoQuality::Medium),
        layer("q", proto::VideoQuality::High),
    ];
    assert_eq!(rids(&reversed), ["f", "h", "q"]);
}

#[test]
fn feedback_and_repair_that_only_some_clients_offer() {
    struct Case {
        name: &'static str,
        /// What is left out of the offer of a browser, and what is put behind each media section's rtcp-mux.
        without: &'static str,
        with: &'static [&'static str],
        /// transport-cc, ccfb, FlexFEC's payload type.
        expect: (bool, bool, Option<u32>),
    }
    const CCFB: &str = "a=rtcp-fb:* ack ccfb";
    let cases = [
        Case { name: "as it is", without: "-", with: &[], expect: (true, false, Some(49)) },
        Case { name: "both", without: "-", with: &[CCFB], expect: (true, false, Some(49)) },
        Case {
            name: "RFC 8888 only",
            without: " transport-cc",
            with: &[CCFB],
            expect: (false, true, Some(49)),
        },
    ];
    for case in cases {
        let offer: Vec<String> = fixture("chromium-publish")
            .lines()
            .filter(|line| !(line.starts_with("a=rtcp-fb") && line.ends_with(case.without)))
            .flat_map(|line| {
                let more = if line == "a=rtcp-mux" { case.with } else { &[] };
                [line].into_iter().chain(more.iter().copied()).map(str::to_owned)
            })
            .collect();
        let mut negotiator = Negotiator::answering(42);
        negotiator.handle_offer(1, &(offer.join("\r\n") + "\r\n")).expect(case.name);
        let codecs = negotiator.codecs();
        let fec = codecs.iter().find(|c| c.kind() == node::CodecKind::Flexfec03);
        let got = (
            codecs.iter().any(|c| c.transport_cc),
            codecs.iter().any(|c| c.ccfb),
            fec.map(|c| c.payload_type),
        );
        assert_eq!(got, case.expect, "{}", case.name);
        let numbers = |extensions: Vec<node::HeaderExtension>| {
            extensions.iter().any(|one| one.kind() == node::ExtensionKind::TransportCc)
        };
        // Browsers offer the numbers in any case.
        assert_eq!(numbers(negotiator.extensions()), case.expect.0, "{}", case.name);
        let answer = negotiator.answer(&local()).expect(case.name).sdp;
        let lines = answer.lines().filter(|line| *line == CCFB).count();
        let sections = answer.matches("m=audio").count() + answer.matches("m=video").count();
        assert_eq!(lines, if case.expect.1 { sections } else { 0 }, "{}", case.name);
        let uri = "transport-wide-cc-extensions";
        assert_eq!(answer.contains(uri), case.expect.0, "{}", case.name);
        assert!(!answer.contains("ccfb") || lines > 0, "{}: for all payload types", case.name);
    }
}

#[test]
fn repair_packets_are_taken_where_they_are_offered() {
    let offer = fixture("chromium-publish");
    // Browsers name repair packets where they receive; the last section is the one that sends.
    let named = offer.matches("a=rtpmap:49 flexfec-03/90000").count();
    assert_eq!(named, 3);
    let line = offer.lines().rfind(|line| line.starts_with("m=video")).expect("video");
    let more = format!("{line} 49");
    let with = "a=rtpmap:49 flexfec-03/90000\r\na=fmtp:49 repair-window=10000000\r\na=rtcp-mux";
    let (before, video) = offer.split_once(line).expect("its section");
    let video = video.replacen("a=rtcp-mux", with, 1);
    let mut negotiator = Negotiator::answering(42);
    negotiator.handle_offer(1, &format!("{before}{more}{video}")).expect("it is well formed");
    let codecs = negotiator.codecs();
    let fec = codecs.iter().find(|c| c.kind() == node::CodecKind::Flexfec03).expect("taken");
    assert_eq!((fec.payload_type, fec.clock_rate), (49, 90_000));
    let answer = negotiator.answer(&local()).expect("answered").sdp;
    assert_eq!(answer.matches("a=rtpmap:49 flexfec-03/90000").count(), named + 1, "{answer}");
    assert!(!answer.contains("FEC-FR"), "nothing is sent");
    assert!(!negotiator.supports("video/H265", None) && negotiator.supports("video/VP8", None));
}

#[test]
fn repair_packets_are_sent_on_m_lines_that_name_them() {
    for (name, takes) in [("chromium-join", true), ("firefox-join", false)] {
        let (mut negotiator, _) = offered(name);
        assert!(!negotiator.takes_repair("TR_v"), "{name}: no m-line");
        let Assignment::Assigned { mid } = negotiator.assign(video("TR_v", "video/VP8")) else {
            panic!("{name}: there are free m-lines")
        };
        negotiator.assign(audio("TR_a"));
        assert_eq!(negotiator.takes_repair("TR_v"), takes, "{name}");
        assert!(!negotiator.takes_repair("TR_a"), "{name}");
        let sdp = negotiator.answer(&local()).expect(name).sdp;
        let lines = section(&sdp, &mid);
        let has = |wanted: &str| lines.contains(&wanted);
        assert_eq!(has("a=ssrc-group:FEC-FR 1000 1002"), takes, "{name}: {lines:?}");
        assert_eq!(has("a=ssrc:1002 cname:PA_alice|TR_v"), takes, "{name}: {lines:?}");
        assert_eq!(has("a=fmtp:49 repair-window=10000000"), takes, "{name}: {lines:?}");
        assert!(has("a=ssrc-group:FID 1000 1001"), "{name}: {lines:?}");
        assert_eq!(sdp.matches("FEC-FR").count(), usize::from(takes), "{name}");
    }
    // Sessions that were stored before know no SSRC for them.
    let (mut negotiator, _) = offered("chromium-join");
    negotiator.assign(SendTrack { fec_ssrc: 0, ..video("TR_v", "video/VP8") });
    assert!(!negotiator.answer(&local()).expect("answer").sdp.contains("FEC-FR"));
}
