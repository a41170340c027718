//! What is answered to real offers, line by line.

use super::*;

fn answer(name: &str) -> String {
    let (mut negotiator, _) = offered(name);
    negotiator.assign(audio("TR_audio"));
    negotiator.assign(video("TR_video", "video/VP8"));
    negotiator.answer(&local()).expect(name).sdp
}

macro_rules! snapshots {
    ($($test:ident: $fixture:literal,)*) => {$(
        #[test]
        fn $test() {
            insta::assert_snapshot!($fixture, answer($fixture));
        }
    )*};
}

snapshots! {
    chromium_joins: "chromium-join",
    chromium_publishes: "chromium-publish",
    chromium_publishes_on_its_own_connection: "chromium-publisher",
    chromium_publishes_svc: "chromium-svc",
    chromium_publishes_av1: "chromium-av1",
    chromium_publishes_h264: "chromium-h264",
    firefox_joins: "firefox-join",
    firefox_publishes: "firefox-publish",
    firefox_publishes_on_its_own_connection: "firefox-publisher",
    firefox_publishes_av1: "firefox-av1",
    aiortc_publishes: "aiortc-publish",
}

#[test]
fn the_node_is_lite_and_has_one_transport() {
    let sdp = answer("chromium-join");
    assert!(sdp.lines().any(|line| line == "a=ice-lite"));
    assert_eq!(sdp.matches("a=candidate:1 1 udp 2130706431 192.0.2.1 7882 typ host").count(), 1);
    assert_eq!(
        sdp.matches("a=candidate:2 1 tcp 1671430143 2001:db8::1 7881 typ host tcptype passive")
            .count(),
        1
    );
    assert_eq!(sdp.matches("a=end-of-candidates").count(), 1);
    assert_eq!(sdp.matches("a=setup:passive").count(), 7, "one for each m-line");
    assert!(sdp.contains("a=fingerprint:sha-256 00:01:02:"));
}

#[test]
fn a_track_is_named_by_participant_and_track() {
    let (mut negotiator, _) = offered("chromium-join");
    let Assignment::Assigned { mid } = negotiator.assign(video("TR_v", "video/VP8")) else {
        panic!("there are three free m-lines")
    };
    let description = negotiator.answer(&local()).expect("answer");
    let lines = section(&description.sdp, &mid);
    assert!(lines.contains(&"a=sendonly"));
    assert!(lines.contains(&"a=msid:PA_alice|TR_v TR_v"));
    assert!(lines.contains(&"a=ssrc-group:FID 1000 1001"));
    assert!(lines.iter().any(|line| line.starts_with("a=ssrc:1000 cname:")));
    assert_eq!(description.mid_to_track_id, HashMap::from([(mid, "TR_v".to_owned())]));
    assert!(negotiator.described("TR_v"));
}

#[test]
fn the_preferred_codec_comes_first() {
    let (mut negotiator, _) = offered("chromium-publish");
    let preferred = Some("vp9".to_owned());
    negotiator.configure("7", PublishOptions { preferred_mime: preferred, ..Default::default() });
    negotiator.configure("6", PublishOptions { red: false, ..Default::default() });
    let published = negotiator.published().find(|s| s.mid == "7").expect("video");
    assert_eq!(published.mime_types[0], "video/VP9");
    let sdp = negotiator.answer(&local()).expect("answer").sdp;
    assert!(section(&sdp, "7")[0].starts_with("m=video 9 UDP/TLS/RTP/SAVPF 98 99 "));
    assert!(section(&sdp, "6")[0].starts_with("m=audio 9 UDP/TLS/RTP/SAVPF 111 "));
}

#[test]
fn red_is_preferred_for_speech_only() {
    for (stereo, first) in [(false, "63"), (true, "111")] {
        let (mut negotiator, _) = offered("chromium-publish");
        negotiator.configure("6", PublishOptions { stereo, ..Default::default() });
        let sdp = negotiator.answer(&local()).expect("answer").sdp;
        let line = section(&sdp, "6")[0];
        assert_eq!(line.split(' ').nth(3), Some(first), "stereo {stereo}: {line}");
    }
}

#[test]
fn opus_is_what_add_track_asked_for() {
    struct Case {
        stereo: bool,
        dtx: bool,
        fmtp: &'static str,
    }
    let cases = [
        Case { stereo: false, dtx: true, fmtp: "minptime=10;useinbandfec=1;usedtx=1" },
        Case { stereo: false, dtx: false, fmtp: "minptime=10;useinbandfec=1" },
        Case {
            stereo: true,
            dtx: false,
            fmtp: "minptime=10;useinbandfec=1;stereo=1;maxaveragebitrate=510000",
        },
    ];
    for Case { stereo, dtx, fmtp } in cases {
        let (mut negotiator, _) = offered("chromium-publish");
        negotiator.configure("6", PublishOptions { stereo, dtx, ..Default::default() });
        let sdp = negotiator.answer(&local()).expect("answer").sdp;
        let line = format!("a=fmtp:111 {fmtp}");
        // One set of parameters for a payload type in the whole bundle.
        for mid in ["0", "1", "2", "6"] {
            assert!(section(&sdp, mid).contains(&line.as_str()), "{mid}: {fmtp}\n{sdp}");
        }
    }
}
