//! A client as far as signalling sees it: PeerConnections that offer and answer with plausible descriptions.

use std::{collections::BTreeMap, fmt::Write as _};

const AUDIO_CODECS: &str = "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n";
const VIDEO_CODECS: &str = "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n\
    a=rtcp-fb:96 transport-cc\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n";
const VP9_CODEC: &str = "a=rtpmap:98 VP9/90000\r\na=fmtp:98 profile-id=0\r\na=rtcp-fb:98 nack\r\na=rtcp-fb:98 nack pli\r\n\
    a=rtpmap:99 rtx/90000\r\na=fmtp:99 apt=98\r\n";
const TRANSPORT: &str = "a=ice-pwd:0123456789abcdef0123456789\r\na=ice-options:trickle\r\n\
    a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n";

/// An m-line of a PeerConnection on which the client offers.
#[derive(Clone, Debug)]
pub(in crate::signal) struct OfferedSection {
    pub(in crate::signal) kind: &'static str,
    /// `None` receives; a track that is not sent any more leaves an inactive m-line.
    pub(in crate::signal) sends: Option<Sent>,
    pub(in crate::signal) stopped: bool,
}

#[derive(Clone, Debug)]
pub(in crate::signal) struct Sent {
    pub(in crate::signal) cid: String,
    pub(in crate::signal) rids: Vec<&'static str>,
}

/// A PeerConnection that offers.
#[derive(Debug)]
pub(in crate::signal) struct OfferingClient {
    pub(in crate::signal) sections: Vec<OfferedSection>,
    pub(in crate::signal) ice_generation: u32,
    pub(in crate::signal) with_vp9: bool,
    last_id: u32,
    open: Option<(u32, usize)>,
    again: bool,
    /// What arrives, by mid, after the last answer.
    pub(in crate::signal) receiving: BTreeMap<String, String>,
}

impl OfferingClient {
    pub(in crate::signal) fn new(audios: usize, videos: usize) -> Self {
        let receive = |kind| OfferedSection { kind, sends: None, stopped: false };
        let sections = std::iter::repeat_n(receive("audio"), audios)
            .chain(std::iter::repeat_n(receive("video"), videos))
            .collect();
        Self {
            sections,
            ice_generation: 0,
            with_vp9: false,
            last_id: 0,
            open: None,
            again: false,
            receiving: BTreeMap::new(),
        }
    }

    pub(in crate::signal) fn publish(
        &mut self,
        kind: &'static str,
        cid: &str,
        rids: &[&'static str],
    ) {
        let sent = Sent { cid: cid.to_owned(), rids: rids.to_vec() };
        self.sections.push(OfferedSection { kind, sends: Some(sent), stopped: false });
    }

    pub(in crate::signal) fn unpublish(&mut self, cid: &str) {
        for section in &mut self.sections {
            if section.sends.as_ref().is_some_and(|sent| sent.cid == cid) {
                section.stopped = true;
            }
        }
    }

    pub(in crate::signal) fn add_sections(&mut self, audios: u32, videos: u32) {
        let receive = |kind| OfferedSection { kind, sends: None, stopped: false };
        self.sections.extend((0..audios).map(|_| receive("audio")));
        self.sections.extend((0..videos).map(|_| receive("video")));
    }

    /// An offer, unless one is open: then another one follows its answer.
    pub(in crate::signal) fn offer(&mut self) -> Option<(u32, String)> {
        if self.open.is_some() {
            self.again = true;
            return None;
        }
        self.last_id += 1;
        self.open = Some((self.last_id, self.sections.len()));
        Some((self.last_id, self.text()))
    }

    /// The signalling connection broke: what was under way is forgotten.
    pub(in crate::signal) fn roll_back(&mut self) {
        self.open = None;
        self.again = false;
    }

    fn text(&self) -> String {
        let mids: Vec<_> = (0..=self.sections.len()).map(|mid| mid.to_string()).collect();
        let mut sdp = format!(
            "v=0\r\no=- 1 {} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=extmap-allow-mixed\r\n",
            self.last_id,
            mids.join(" ")
        );
        let transport =
            format!("a=ice-ufrag:gen{}\r\n{TRANSPORT}a=setup:actpass\r\n", self.ice_generation);
        let _ = write!(
            sdp,
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n{transport}a=mid:0\r\n\
             a=sctp-port:5000\r\na=max-message-size:262144\r\n"
        );
        for (index, section) in self.sections.iter().enumerate() {
            let (formats, codecs) = match (section.kind, self.with_vp9) {
                ("audio", _) => ("111", AUDIO_CODECS.to_owned()),
                (_, false) => ("96 97", VIDEO_CODECS.to_owned()),
                (_, true) => ("96 97 98 99", format!("{VIDEO_CODECS}{VP9_CODEC}")),
            };
            let direction = match (&section.sends, section.stopped) {
                (None, _) => "recvonly",
                (Some(_), false) => "sendonly",
                (Some(_), true) => "inactive",
            };
            let _ = write!(
                sdp,
                "m={} 9 UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\n{transport}a=mid:{}\r\n\
                 a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
                 a=extmap:2 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\na={direction}\r\na=rtcp-mux\r\n{codecs}",
                section.kind,
                index + 1
            );
            if let Some(sent) = section.sends.as_ref().filter(|_| !section.stopped) {
                let _ = write!(sdp, "a=msid:- {}\r\n", sent.cid);
                for rid in &sent.rids {
                    let _ = write!(sdp, "a=rid:{rid} send\r\n");
                }
                if sent.rids.is_empty() {
                    let _ = write!(sdp, "a=ssrc:{} cname:c\r\n", 1000 + index);
                } else {
                    let _ = write!(sdp, "a=simulcast:send {}\r\n", sent.rids.join(";"));
                }
            }
        }
        sdp
    }

    /// Applies an answer as a browser does; returns the next offer if one is due.
    pub(in crate::signal) fn answered(&mut self, id: u32, sdp: &str) -> Option<(u32, String)> {
        let (_, sections) = self.open.filter(|(open, _)| *open == id)?;
        let media = media_of(sdp);
        assert_eq!(media.len(), sections + 1, "an answer has as many m-lines as its offer");
        self.receiving = check_reuse(&self.receiving, &media);
        self.open = None;
        if std::mem::take(&mut self.again) { self.offer() } else { None }
    }
}

/// A PeerConnection that answers.
#[derive(Debug, Default)]
pub(in crate::signal) struct AnsweringClient {
    pub(in crate::signal) receiving: BTreeMap<String, String>,
    pub(in crate::signal) has_data: bool,
}

impl AnsweringClient {
    pub(in crate::signal) fn answer(&mut self, sdp: &str) -> String {
        let media = media_of(sdp);
        self.receiving = check_reuse(&self.receiving, &media);
        let mids: Vec<_> = media.iter().map(|media| media.mid.clone()).collect();
        let mut answer = format!(
            "v=0\r\no=- 2 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n",
            mids.join(" ")
        );
        for media in &media {
            let transport =
                format!("a=ice-ufrag:answ\r\n{TRANSPORT}a=setup:active\r\na=mid:{}\r\n", media.mid);
            if media.kind == "application" {
                self.has_data = true;
                let _ = write!(
                    answer,
                    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n{transport}\
                     a=sctp-port:5000\r\na=max-message-size:262144\r\n"
                );
                continue;
            }
            let direction = if media.sending.is_some() { "recvonly" } else { "inactive" };
            let codecs: String = media
                .lines
                .iter()
                .filter(|line| {
                    ["a=rtpmap", "a=fmtp", "a=rtcp-fb", "a=extmap"]
                        .iter()
                        .any(|p| line.starts_with(p))
                })
                .map(|line| format!("{line}\r\n"))
                .collect();
            let _ = write!(
                answer,
                "{}\r\nc=IN IP4 0.0.0.0\r\n{transport}a={direction}\r\na=rtcp-mux\r\n{codecs}",
                media.lines[0]
            );
        }
        answer
    }
}

struct Media<'a> {
    kind: &'a str,
    mid: String,
    /// The track id in its msid, where the m-line sends.
    sending: Option<String>,
    lines: Vec<&'a str>,
}

fn media_of(sdp: &str) -> Vec<Media<'_>> {
    let mut media: Vec<Media<'_>> = Vec::new();
    for line in sdp.lines() {
        if let Some(kind) = line.strip_prefix("m=") {
            let kind = kind.split(' ').next().unwrap_or_default();
            media.push(Media { kind, mid: String::new(), sending: None, lines: Vec::new() });
        }
        let Some(current) = media.last_mut() else { continue };
        current.lines.push(line);
        if let Some(mid) = line.strip_prefix("a=mid:") {
            current.mid = mid.to_owned();
        }
    }
    for media in &mut media {
        let sends = media.lines.iter().any(|line| ["a=sendonly", "a=sendrecv"].contains(line));
        let msid = media.lines.iter().find_map(|line| line.strip_prefix("a=msid:"));
        media.sending =
            msid.filter(|_| sends).and_then(|msid| msid.split(' ').nth(1)).map(ToOwned::to_owned);
    }
    media
}

/// What arrives now. A browser tells its page of a new track only where the m-line was idle in between.
fn check_reuse(before: &BTreeMap<String, String>, media: &[Media<'_>]) -> BTreeMap<String, String> {
    let mut now = BTreeMap::new();
    for media in media {
        let Some(track) = &media.sending else { continue };
        if let Some(known) = before.get(&media.mid) {
            assert_eq!(known, track, "m-line {} changed its track without a pause", media.mid);
        }
        assert!(!now.values().any(|other| other == track), "{track} is on two m-lines");
        now.insert(media.mid.clone(), track.clone());
    }
    now
}
