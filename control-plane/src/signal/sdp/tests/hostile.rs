//! What no browser sends.

use proptest::prelude::*;

use super::*;

fn refused(sdp: &str) -> SdpError {
    let mut negotiator = Negotiator::answering(42);
    negotiator.handle_offer(1, sdp).expect_err("it should be refused")
}

#[test]
fn every_refusal_says_why() {
    let offer = fixture("chromium-publish");
    let cases: &[(&str, String, &str)] = &[
        ("empty", String::new(), "empty"),
        ("blank", " \r\n".to_owned(), "empty"),
        ("noise", "\u{1}\u{2}hello".to_owned(), "not a session description"),
        ("no m-line", "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n".to_owned(), "no m-line"),
        ("too long", "v=0\r\n".to_owned() + &"a=x\r\n".repeat(420_000), "at most 2097152"),
        ("too many m-lines", "v=0\r\n".to_owned() + &"m=audio 9 x 0\r\n".repeat(513), "m-lines"),
        (
            "cut before the transport",
            offer[..offer.find("a=ice-pwd").unwrap_or(0)].to_owned(),
            "mid is missing",
        ),
        ("no mid", offer.replacen("a=mid:0\r\n", "", 1), "mid is missing"),
        ("two mids", offer.replacen("a=mid:1\r\n", "a=mid:0\r\n", 1), "two m-lines"),
        ("no fingerprint", remove(&offer, "a=fingerprint"), "fingerprint is missing"),
        (
            "short fingerprint",
            offer.replace("a=fingerprint:sha-256 00:", "a=fingerprint:sha-256 "),
            "fingerprint is malformed",
        ),
        ("no credentials", remove(&offer, "a=ice-ufrag"), "ice-ufrag is missing"),
        (
            "short password",
            offer.replace("a=ice-pwd:clientclientclientclient", "a=ice-pwd:short"),
            "ice-pwd is malformed",
        ),
        ("holdconn", offer.replace("a=setup:actpass", "a=setup:holdconn"), "setup is malformed"),
        ("no bundle", remove(&offer, "a=group:BUNDLE"), "BUNDLE"),
        (
            "nothing known",
            offer.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP").replace("UDP/DTLS/SCTP", "X"),
            "none of the m-lines",
        ),
        (
            "payload type of two codecs",
            offer.replacen("a=rtpmap:96 VP8/90000", "a=rtpmap:96 VP9/90000", 1),
            "payload type 96",
        ),
        (
            "two rtpmaps",
            offer.replacen(
                "a=rtpmap:96 VP8/90000",
                "a=rtpmap:96 VP8/90000\r\na=rtpmap:96 AV1/90000",
                1,
            ),
            "to two codecs",
        ),
        (
            "extension id of two",
            offer.replacen(
                "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
                "a=extmap:4 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
                1,
            ),
            "extension",
        ),
        ("unknown rid", offer.replace("a=rid:h send\r\n", ""), "never declares"),
        ("rid twice", offer.replace("a=rid:h send", "a=rid:q send"), "twice"),
        ("format 300", offer.replacen("SAVPF 111", "SAVPF 300", 1), "format is malformed"),
    ];
    for (name, sdp, reason) in cases {
        let error = refused(sdp).to_string();
        assert!(error.contains(reason), "{name}: {error}");
        assert!(!error.contains("clientclient") && error.len() < 300, "{name}: {error}");
    }
}

fn remove(sdp: &str, prefix: &str) -> String {
    sdp.split_inclusive("\r\n").filter(|line| !line.starts_with(prefix)).collect()
}

#[test]
fn a_running_negotiation_refuses_contradictions_and_goes_on() {
    let offer = fixture("chromium-join");
    let fewer = &offer[..offer.rfind("m=application").expect("data")];
    let cases: &[(&str, String, &str)] = &[
        ("fewer m-lines", fewer.to_owned(), "m-lines after"),
        ("another mid", offer.replacen("a=mid:1\r\n", "a=mid:x\r\n", 1), "another than before"),
        ("another certificate", offer.replace("sha-256 00:", "sha-256 FF:"), "certificate"),
        ("another role", offer.replace("a=setup:actpass", "a=setup:passive"), "DTLS role"),
    ];
    for (name, sdp, reason) in cases {
        let (mut negotiator, _) = offered("chromium-join");
        negotiator.answer(&local()).expect("answer");
        let before = serde_json::to_string(&negotiator).expect("stored");
        let error = negotiator.handle_offer(2, sdp).expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
        assert_eq!(before, serde_json::to_string(&negotiator).expect("stored"), "{name}");
        assert_eq!(negotiator.answer(&local()), Err(SdpError::NoOffer), "{name}");
        negotiator.handle_offer(2, &offer).expect(name);
    }
}

#[test]
fn sections_that_cannot_be_taken_are_rejected_alone() {
    let offer = fixture("chromium-publish");
    let cases: &[(&str, String, &str)] = &[
        ("text", offer.replacen("m=audio", "m=text", 1), "m=text 0 "),
        ("no rtcp-mux", offer.replacen("a=rtcp-mux\r\n", "", 1), "m=audio 0 "),
        ("not bundled", offer.replacen("BUNDLE 0 ", "BUNDLE ", 1), "m=audio 0 "),
        (
            "no known codec",
            offer.replacen("UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126", "UDP/TLS/RTP/SAVPF 13", 1),
            "m=audio 0 ",
        ),
    ];
    for (name, sdp, line) in cases {
        let mut negotiator = Negotiator::answering(42);
        let summary = negotiator.handle_offer(1, sdp).expect(name);
        assert_eq!(summary.free_audios, 2, "{name}");
        let answer = negotiator.answer(&local()).expect(name).sdp;
        assert!(section(&answer, "0")[0].starts_with(line), "{name}: {answer}");
        assert!(section(&answer, "1")[0].starts_with("m=audio 9 "), "{name}");
        assert!(!answer.contains("BUNDLE 0 "), "{name}");
    }
}

#[test]
fn the_other_side_cannot_turn_the_roles_around() {
    let mut offering = Negotiator::offering(42);
    assert_eq!(offering.handle_offer(1, &fixture("chromium-join")), Err(SdpError::WrongRole));
    assert_eq!(offering.answer(&local()), Err(SdpError::WrongRole));
    let mut answering = Negotiator::answering(42);
    assert_eq!(answering.handle_answer(1, "v=0"), Err(SdpError::WrongRole));
    assert_eq!(answering.offer(&local()), Err(SdpError::WrongRole));
    assert_eq!(answering.answer(&local()), Err(SdpError::NoOffer));
    let mut bare = local();
    bare.fingerprint = None;
    assert_eq!(offering.offer(&bare), Err(SdpError::NoLocalTransport));
}

#[test]
fn credentials_stay_out_of_debug_output() {
    let (mut negotiator, _) = offered("chromium-join");
    negotiator.answer(&local()).expect("answer");
    let text = format!("{negotiator:?}");
    assert!(!text.contains("clnt") && !text.contains("clientclient"), "{text}");
}

/// Whatever was taken has to be answered and stored without a panic, and answered in as many m-lines.
fn exercise(sdp: &str) {
    let mut negotiator = Negotiator::answering(42);
    if negotiator.handle_offer(1, sdp).is_ok() {
        negotiator.assign(audio("TR_a"));
        negotiator.assign(video("TR_v", "video/VP8"));
        let published: Vec<_> = negotiator.published().collect();
        assert!(published.iter().all(|section| !section.encodings.is_empty()));
        let answer = negotiator.answer(&local()).expect("an answer to what was taken");
        let lines = |sdp: &str| sdp.lines().filter(|line| line.starts_with("m=")).count();
        assert_eq!(lines(&answer.sdp), lines(sdp));
        negotiator.release("TR_v");
        let stored = serde_json::to_string(&negotiator).expect("stored");
        let mut restored: Negotiator = serde_json::from_str(&stored).expect("restored");
        let _ = restored.handle_offer(2, sdp);
    }
    let mut offering = Negotiator::offering(42);
    let offer = offering.offer(&local()).expect("offer");
    let _ = offering.handle_answer(offer.id, sdp);
}

const REAL: [&str; 6] = [
    "chromium-publish",
    "chromium-publisher",
    "chromium-h264",
    "firefox-publish",
    "firefox-publisher",
    "firefox-answer-data",
];

#[derive(Clone, Debug)]
enum Mutation {
    Cut(usize),
    Drop(usize),
    Repeat(usize),
    Swap(usize, usize),
    Byte(usize, u8),
    Number(usize, u64),
    Insert(usize, String),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<usize>();
    prop_oneof![
        1 => at.prop_map(Mutation::Cut),
        4 => at.prop_map(Mutation::Drop),
        4 => at.prop_map(Mutation::Repeat),
        4 => (at, at).prop_map(|(a, b)| Mutation::Swap(a, b)),
        4 => (at, any::<u8>()).prop_map(|(a, b)| Mutation::Byte(a, b)),
        4 => (at, any::<u64>()).prop_map(|(a, n)| Mutation::Number(a, n)),
        4 => (at, "[a-z]=[ -~]{0,40}").prop_map(|(a, text)| Mutation::Insert(a, text)),
    ]
}

fn mutate(sdp: &str, mutations: &[Mutation]) -> String {
    let mut lines: Vec<String> = sdp.lines().map(str::to_owned).collect();
    for mutation in mutations {
        if lines.is_empty() {
            break;
        }
        let count = lines.len();
        match mutation {
            Mutation::Cut(at) => lines.truncate(at % count),
            Mutation::Drop(at) => drop(lines.remove(at % count)),
            Mutation::Repeat(at) => lines.insert(at % count, lines[at % count].clone()),
            Mutation::Swap(a, b) => lines.swap(a % count, b % count),
            Mutation::Insert(at, text) => lines.insert(at % count, text.clone()),
            Mutation::Byte(at, byte) => {
                let line = &mut lines[at % count];
                let mut bytes = std::mem::take(line).into_bytes();
                let length = bytes.len().max(1);
                if let Some(old) = bytes.get_mut((at / 7) % length) {
                    *old = *byte;
                }
                *line = String::from_utf8_lossy(&bytes).into_owned();
            }
            Mutation::Number(at, number) => {
                let line = &mut lines[at % count];
                let digits = line.find(|c: char| c.is_ascii_digit());
                if let Some(start) = digits {
                    let end = line[start..]
                        .find(|c: char| !c.is_ascii_digit())
                        .map_or(line.len(), |length| start + length);
                    line.replace_range(start..end, &number.to_string());
                }
            }
        }
    }
    lines.join("\r\n") + "\r\n"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn mutated_descriptions_never_panic(
        which in 0..REAL.len(),
        mutations in prop::collection::vec(mutation(), 1..8),
    ) {
        exercise(&mutate(&fixture(REAL[which]), &mutations));
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn lines_of_noise_never_panic(lines in prop::collection::vec("[vosmatc]=[ -~]{0,40}", 0..40)) {
        exercise(&format!("v=0\r\n{}", lines.join("\r\n")));
    }
}
