//! Descriptions one after another on the same PeerConnection.

use super::*;

fn assigned(assignment: Assignment) -> String {
    match assignment {
        Assignment::Assigned { mid } => mid,
        Assignment::NeedsSections => panic!("no m-line is free"),
    }
}

/// The client's side of the m-lines that it only receives on, as it offers them again.
fn reoffer(negotiator: &mut Negotiator, id: u32, sdp: &str) -> OfferSummary {
    negotiator.handle_offer(id, sdp).expect("the same offer again")
}

#[test]
fn a_reused_section_passes_through_inactive() {
    let offer = fixture("chromium-join");
    let (mut negotiator, _) = offered("chromium-join");
    let mid = assigned(negotiator.assign(video("TR_1", "video/VP8")));
    // The two others, so that only one can become free.
    for sid in ["TR_2", "TR_3"] {
        assigned(negotiator.assign(video(sid, "video/VP8")));
    }
    let first = negotiator.answer(&local()).expect("answer");
    assert_eq!(direction(&first.sdp, &mid), "sendonly");
    assert!(!negotiator.needs_description());

    negotiator.release("TR_1");
    assert!(negotiator.needs_description());
    assert_eq!(negotiator.assign(video("TR_4", "video/VP8")), Assignment::NeedsSections);
    // The released one will do: the client need not add any, only offer again.
    assert_eq!(negotiator.missing_sections(), (0, 0));
    reoffer(&mut negotiator, 2, &offer);
    assert_eq!(negotiator.assign(video("TR_4", "video/VP8")), Assignment::NeedsSections);
    let second = negotiator.answer(&local()).expect("answer");
    assert_eq!(direction(&second.sdp, &mid), "inactive");
    assert!(!second.mid_to_track_id.contains_key(&mid));
    assert!(negotiator.needs_description());

    assert_eq!(assigned(negotiator.assign(video("TR_4", "video/VP8"))), mid);
    assert!(!negotiator.described("TR_4"));
    reoffer(&mut negotiator, 3, &offer);
    let third = negotiator.answer(&local()).expect("answer");
    assert_eq!(direction(&third.sdp, &mid), "sendonly");
    assert_eq!(third.mid_to_track_id.len(), 3);
    assert!(negotiator.described("TR_4") && !negotiator.needs_description());
}

#[test]
fn a_track_released_before_any_description_leaves_no_trace() {
    let (mut negotiator, _) = offered("chromium-join");
    let mid = assigned(negotiator.assign(video("TR_1", "video/VP8")));
    negotiator.release("TR_1");
    assert_eq!(assigned(negotiator.assign(video("TR_2", "video/VP8"))), mid);
}

#[test]
fn a_released_track_that_comes_back_gets_another_section() {
    let (mut negotiator, _) = offered("chromium-join");
    let before = assigned(negotiator.assign(video("TR_1", "video/VP8")));
    negotiator.answer(&local()).expect("answer");
    negotiator.release("TR_1");
    let after = assigned(negotiator.assign(video("TR_1", "video/VP9")));
    assert_ne!(before, after);
    assert!(!negotiator.described("TR_1"));
}

#[test]
fn the_client_is_asked_for_what_is_missing() {
    let (mut negotiator, _) = offered("chromium-join");
    for index in 0..5 {
        negotiator.assign(video(&format!("TR_{index}"), "video/VP8"));
        negotiator.assign(audio(&format!("TR_a{index}")));
    }
    assert_eq!(negotiator.missing_sections(), (2, 2));
    negotiator.release("TR_4");
    assert_eq!(negotiator.missing_sections(), (2, 1));
    // Asking twice does not ask for more.
    assert_eq!(negotiator.assign(video("TR_3", "video/VP8")), Assignment::NeedsSections);
    assert_eq!(negotiator.missing_sections(), (2, 1));
}

#[test]
fn a_codec_that_the_client_does_not_take_finds_no_section() {
    let (mut negotiator, _) = offered("firefox-join");
    assert!(!negotiator.supports("video/H264", None));
    assert!(negotiator.supports("video/VP8", None) && negotiator.supports("vp8", None));
    assert!(negotiator.supports("video/VP9", Some("0")));
    assert!(!negotiator.supports("video/VP9", Some("3")));
    assert_eq!(negotiator.assign(video("TR_1", "video/H264")), Assignment::NeedsSections);
}

#[test]
fn a_removed_sender_is_seen() {
    for browser in ["chromium", "firefox"] {
        let mut negotiator = Negotiator::answering(42);
        negotiator.handle_offer(2, &fixture(&format!("{browser}-unpublish"))).expect(browser);
        negotiator.answer(&local()).expect(browser);
        let active: Vec<_> = negotiator.published().filter(|s| s.active).map(|s| s.kind).collect();
        assert_eq!(active, [MediaKind::Audio], "{browser}");
        let summary =
            negotiator.handle_offer(3, &fixture(&format!("{browser}-stereo"))).expect(browser);
        assert_eq!(summary.added.len(), 1, "{browser}");
        assert!(summary.removed.is_empty() && summary.changed.is_empty(), "{browser}");
    }
}

#[test]
fn a_sender_that_goes_inactive_is_removed_and_one_that_changes_is_changed() {
    let offer = fixture("chromium-publish");
    let (mut negotiator, _) = offered("chromium-publish");
    negotiator.answer(&local()).expect("answer");
    let changed = offer.replace("a=simulcast:send q;h;f", "a=simulcast:send q;f");
    let summary = reoffer(&mut negotiator, 2, &changed);
    assert_eq!(summary.changed, ["7"]);
    let summary = reoffer(&mut negotiator, 3, &changed.replace("a=sendonly", "a=inactive"));
    assert_eq!(summary.removed, ["6", "7"]);
    assert!(negotiator.published().all(|section| !section.active));
    let summary = reoffer(&mut negotiator, 4, &changed);
    assert_eq!(summary.added, ["6", "7"]);
}

#[test]
fn a_section_that_the_client_stops_displaces_its_track() {
    let offer = fixture("chromium-join");
    let (mut negotiator, _) = offered("chromium-join");
    let mid = assigned(negotiator.assign(video("TR_1", "video/VP8")));
    negotiator.answer(&local()).expect("answer");
    let stopped = offer.replacen("m=video 9", "m=video 0", 1);
    let summary = reoffer(&mut negotiator, 2, &stopped);
    assert_eq!(summary.displaced, ["TR_1"]);
    let answer = negotiator.answer(&local()).expect("answer");
    assert!(section(&answer.sdp, &mid)[0].starts_with("m=video 0 "));
    assert!(!answer.sdp.lines().any(|line| {
        line.starts_with("a=group:BUNDLE") && line.split(' ').any(|word| word == mid)
    }));
    assert_ne!(assigned(negotiator.assign(video("TR_1", "video/VP8"))), mid);
    // The m-line may carry something else later (RFC 9429 section 5.2.2).
    let recycled = offer.replacen(&format!("a=mid:{mid}\r\n"), "a=mid:new\r\n", 1).replacen(
        &format!(" {mid} "),
        " new ",
        1,
    );
    negotiator.handle_offer(3, &recycled).expect("a recycled m-line");
}

#[test]
fn an_ice_restart_raises_the_generation() {
    let offer = fixture("chromium-join");
    let (mut negotiator, _) = offered("chromium-join");
    assert_eq!(negotiator.transport().ice_generation, 0);
    assert!(!reoffer(&mut negotiator, 2, &offer).ice_restart);
    let restarted = offer.replace("a=ice-ufrag:clnt", "a=ice-ufrag:next");
    assert!(reoffer(&mut negotiator, 3, &restarted).ice_restart);
    let transport = negotiator.transport();
    assert_eq!(transport.ice_generation, 1);
    assert_eq!(transport.remote_ice.expect("credentials").ufrag, "next");
    assert!(!reoffer(&mut negotiator, 4, &restarted).ice_restart);
}

#[test]
fn roles_follow_the_offer() {
    struct Case {
        setup: &'static str,
        role: node::DtlsRole,
        answer: &'static str,
    }
    let cases = [
        Case { setup: "actpass", role: node::DtlsRole::Passive, answer: "a=setup:passive" },
        Case { setup: "active", role: node::DtlsRole::Passive, answer: "a=setup:passive" },
        Case { setup: "passive", role: node::DtlsRole::Active, answer: "a=setup:active" },
    ];
    for case in cases {
        let offer =
            fixture("chromium-join").replace("a=setup:actpass", &format!("a=setup:{}", case.setup));
        let mut negotiator = Negotiator::answering(42);
        negotiator.handle_offer(1, &offer).expect(case.setup);
        assert_eq!(negotiator.transport().dtls_role(), case.role, "{}", case.setup);
        let answer = negotiator.answer(&local()).expect("answer");
        assert!(answer.sdp.contains(case.answer), "{}", case.setup);
        // It stays for the life of the association.
        negotiator.handle_offer(2, &fixture("chromium-join")).expect("re-offer");
        assert_eq!(negotiator.transport().dtls_role(), case.role, "{}", case.setup);
    }
}

#[test]
fn a_stored_table_negotiates_on() {
    let offer = fixture("chromium-publish");
    let (mut negotiator, _) = offered("chromium-publish");
    let mid = assigned(negotiator.assign(video("TR_1", "video/VP8")));
    negotiator.answer(&local()).expect("answer");
    negotiator.release("TR_1");

    let stored = serde_json::to_string(&negotiator).expect("stored");
    let mut restored: Negotiator = serde_json::from_str(&stored).expect("restored");
    assert_eq!(restored.transport(), negotiator.transport());
    assert_eq!(restored.codecs(), negotiator.codecs());
    assert_eq!(restored.extensions(), negotiator.extensions());
    assert_eq!(
        restored.published().collect::<Vec<_>>(),
        negotiator.published().collect::<Vec<_>>()
    );
    for negotiator in [&mut negotiator, &mut restored] {
        let summary = negotiator.handle_offer(2, &offer).expect("re-offer");
        assert!(summary.added.is_empty() && summary.removed.is_empty());
    }
    let answers = [&mut negotiator, &mut restored].map(|n| n.answer(&local()).expect("answer"));
    assert_eq!(answers[0], answers[1]);
    assert_eq!(direction(&answers[1].sdp, &mid), "inactive");
}

#[test]
fn the_largest_table_fits_into_a_peers_owner_state() {
    let mut negotiator = Negotiator::offering(42);
    for index in 0..MAX_SECTIONS - 1 {
        let mut track = video(&format!("TR_VCabcdefgh{index:04}"), "video/VP8");
        track.ssrc = u32::MAX;
        track.rtx_ssrc = u32::MAX;
        track.fec_ssrc = u32::MAX;
        assigned(negotiator.assign(track));
    }
    assert_eq!(negotiator.assign(audio("TR_more")), Assignment::NeedsSections);
    assert_eq!(negotiator.missing_sections(), (0, 0));
    negotiator.offer(&local()).expect("offer");
    let stored = serde_json::to_vec(&negotiator).expect("stored").len();
    assert!(stored < 200 << 10, "{stored} bytes");
}

#[test]
fn we_offer_data_first_and_tracks_behind() {
    for browser in ["chromium", "firefox"] {
        let mut negotiator = Negotiator::offering(42);
        assert!(negotiator.needs_description() && !negotiator.wants_data());
        let offer = negotiator.offer(&local()).expect("offer");
        assert_eq!(offer.id, 1);
        assert!(section(&offer.sdp, "0")[0].starts_with("m=application 9 UDP/DTLS/SCTP"));
        assert!(offer.sdp.contains("a=setup:actpass"));
        assert_eq!(negotiator.offer(&local()), Err(SdpError::OfferOutstanding(1)));
        let answer = fixture(&format!("{browser}-answer-data"));
        assert_eq!(negotiator.handle_answer(7, &answer), Err(SdpError::StaleAnswer { got: 7 }));
        negotiator.handle_answer(1, &answer).expect(browser);
        assert!(negotiator.wants_data() && !negotiator.needs_description());
        let transport = negotiator.transport();
        assert_eq!(transport.dtls_role(), node::DtlsRole::Passive, "{browser}");
        assert!(transport.sctp.is_some() && transport.remote_ice.is_some());

        assert_eq!(assigned(negotiator.assign(audio("TR_a"))), "1");
        assert_eq!(assigned(negotiator.assign(video("TR_v", "video/VP8"))), "2");
        assert_eq!(assigned(negotiator.assign(video("TR_h", "video/H264"))), "3");
        let offer = negotiator.offer(&local()).expect("offer");
        assert_eq!(offer.mid_to_track_id.len(), 3);
        assert!(section(&offer.sdp, "3")[0].starts_with("m=video 9 UDP/TLS/RTP/SAVPF 125 "));
        assert!(!negotiator.described("TR_v"));
        let answer = fixture(&format!("{browser}-answer-media"));
        let summary = negotiator.handle_answer(2, &answer).expect(browser);
        assert!(summary.displaced.is_empty() && negotiator.described("TR_v"));
        assert_eq!(negotiator.supports("video/H264", None), browser == "chromium");
        let mid =
            negotiator.extensions().into_iter().find(|e| e.kind() == node::ExtensionKind::Mid);
        assert!(mid.is_some_and(|mid| mid.id == 4 && mid.send), "{browser}");

        negotiator.release("TR_v");
        assert_eq!(assigned(negotiator.assign(video("TR_w", "video/VP8"))), "4");
        negotiator.release("TR_w");
        let offer = negotiator.offer(&local()).expect("offer");
        assert_eq!(direction(&offer.sdp, "2"), "inactive");
    }
}

#[test]
fn our_offers_name_both_kinds_of_feedback_and_the_answer_picks_one() {
    const CCFB: &str = "a=rtcp-fb:* ack ccfb";
    for by_stream in [false, true] {
        let mut negotiator = Negotiator::offering(42);
        assigned(negotiator.assign(audio("TR_a")));
        assigned(negotiator.assign(video("TR_v", "video/VP8")));
        assigned(negotiator.assign(video("TR_h", "video/H264")));
        let offer = negotiator.offer(&local()).expect("offer");
        for mid in ["1", "2", "3"] {
            let lines = section(&offer.sdp, mid);
            let has = |wanted: &str| lines.iter().any(|line| line.ends_with(wanted));
            assert!(has(CCFB) && has(" transport-cc"), "m-line {mid}: {lines:?}");
        }
        let answer: Vec<String> = fixture("chromium-answer-media")
            .lines()
            .filter(|line| !(by_stream && line.ends_with(" transport-cc")))
            .flat_map(|line| {
                let more = (by_stream && line == "a=rtcp-mux").then_some(CCFB);
                [line].into_iter().chain(more).map(str::to_owned)
            })
            .collect();
        let answer = answer.join("\r\n") + "\r\n";
        // The extension is answered by who does not use it, too.
        assert!(answer.contains("transport-wide-cc-extensions"));
        negotiator.handle_answer(offer.id, &answer).expect("answer");
        let codecs = negotiator.codecs();
        let kinds = [codecs.iter().any(|c| c.transport_cc), codecs.iter().any(|c| c.ccfb)];
        assert_eq!(kinds, [!by_stream, by_stream]);
        let extensions = negotiator.extensions();
        let numbers = extensions.iter().any(|one| one.kind() == node::ExtensionKind::TransportCc);
        assert_eq!(numbers, !by_stream);
    }
}

#[test]
fn who_only_estimates_for_itself_gets_the_times_that_it_needs() {
    const SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
    let mut negotiator = Negotiator::offering(42);
    assigned(negotiator.assign(audio("TR_a")));
    assigned(negotiator.assign(video("TR_v", "video/VP8")));
    assigned(negotiator.assign(video("TR_h", "video/H264")));
    let offer = negotiator.offer(&local()).expect("offer");
    assert!(section(&offer.sdp, "2").contains(&"a=rtcp-fb:96 goog-remb"));
    let time = format!("a=extmap:2 {SEND_TIME}");
    assert!(section(&offer.sdp, "2").contains(&&*time));
    // As aiortc answers: REMB for its codecs, and for RTX what we offer for all payload types.
    let answer: Vec<String> = fixture("chromium-answer-media")
        .lines()
        .filter(|line| !line.contains("transport-"))
        .flat_map(|line| {
            let more = match line {
                "a=rtpmap:96 VP8/90000" => Some("a=rtcp-fb:96 goog-remb"),
                "a=rtpmap:97 rtx/90000" => Some("a=rtcp-fb:97 ack ccfb"),
                _ if line.starts_with("m=video") => Some(&*time),
                _ => None,
            };
            [line].into_iter().chain(more).map(str::to_owned)
        })
        .collect();
    negotiator.handle_answer(offer.id, &(answer.join("\r\n") + "\r\n")).expect("answer");
    assert!(negotiator.codecs().iter().any(|codec| codec.remb));
    assert!(!negotiator.codecs().iter().any(|codec| codec.transport_cc || codec.ccfb));
    let extensions = negotiator.extensions();
    let sent =
        extensions.iter().any(|one| one.kind() == node::ExtensionKind::AbsSendTime && one.send);
    assert!(sent, "{extensions:?}");
}

#[test]
fn our_section_is_reused_once_its_inactive_state_was_answered() {
    let mut negotiator = Negotiator::offering(42);
    for (sid, mime) in [("TR_v", "video/VP8"), ("TR_h", "video/H264")] {
        if sid == "TR_v" {
            assigned(negotiator.assign(audio("TR_a")));
        }
        assigned(negotiator.assign(video(sid, mime)));
    }
    let exchange = |negotiator: &mut Negotiator, answer: &str| {
        let offer = negotiator.offer(&local()).expect("offer");
        negotiator.handle_answer(offer.id, &fixture(answer)).expect(answer);
    };
    exchange(&mut negotiator, "chromium-answer-media");
    negotiator.release("TR_v");
    exchange(&mut negotiator, "chromium-answer-released");
    assert_eq!(assigned(negotiator.assign(video("TR_9", "video/AV1"))), "2");
    exchange(&mut negotiator, "chromium-answer-reused");
    assert!(negotiator.described("TR_9") && !negotiator.needs_description());
}

#[test]
fn an_offer_that_was_lost_is_repeated() {
    let mut negotiator = Negotiator::offering(42);
    let lost = negotiator.offer(&local()).expect("offer");
    negotiator.restart_ice();
    assert_eq!(negotiator.transport().ice_generation, 1);
    assert!(!negotiator.offer_outstanding() && negotiator.needs_description());
    let again = negotiator.offer(&local()).expect("offer");
    assert_eq!(again.id, lost.id + 1);
    let answer = fixture("chromium-answer-data");
    assert!(negotiator.handle_answer(lost.id, &answer).is_err());
    negotiator.handle_answer(again.id, &answer).expect("answer");
}

#[test]
fn redundant_audio_reaches_who_takes_opus_only() {
    let (mut negotiator, _) = offered("firefox-join");
    assert!(negotiator.supports("audio/red", None));
    let red = SendTrack { mime_type: "audio/red".to_owned(), ..audio("TR_a") };
    assigned(negotiator.assign(red));
}

#[test]
fn repair_packets_that_we_offer_are_sent_where_the_answer_names_them() {
    // As a Chromium answers, and as it was recorded when it was offered none, which is what a Firefox says.
    for takes in [true, false] {
        let mut negotiator = Negotiator::offering(42);
        negotiator.assign(audio("TR_a"));
        for (sid, mime) in [("TR_v", "video/VP8"), ("TR_h", "video/H264")] {
            negotiator.assign(video(sid, mime));
        }
        let offer = negotiator.offer(&local()).expect("offer");
        let lines = section(&offer.sdp, "2");
        for wanted in [
            "a=rtpmap:49 flexfec-03/90000",
            "a=rtcp-fb:49 transport-cc",
            "a=fmtp:49 repair-window=10000000",
            "a=ssrc-group:FEC-FR 1000 1002",
            "a=ssrc:1002 cname:PA_alice|TR_v",
        ] {
            assert!(lines.contains(&wanted), "{wanted} in {lines:?}");
        }
        assert!(!lines.contains(&"a=rtcp-fb:49 nack"), "{lines:?}");
        let mut answer = fixture("chromium-answer-media");
        if takes {
            let line = "m=video 9 UDP/TLS/RTP/SAVPF 96";
            assert!(answer.contains(line), "{answer}");
            answer = answer.replace(line, &format!("{line} 49")).replace(
                "a=rtpmap:96 VP8/90000",
                "a=rtpmap:49 flexfec-03/90000\r\na=fmtp:49 repair-window=10000000\r\na=rtpmap:96 VP8/90000",
            );
        }
        negotiator.handle_answer(offer.id, &answer).expect("answer");
        assert_eq!(negotiator.takes_repair("TR_v"), takes);
        let fec = negotiator.codecs().into_iter().find(|c| c.kind() == node::CodecKind::Flexfec03);
        assert_eq!(fec.map(|codec| codec.payload_type), takes.then_some(49));
        assert!(negotiator.supports("video/VP8", None), "one is left to send");
    }
}
