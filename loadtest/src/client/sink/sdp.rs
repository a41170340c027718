//! The few lines of SDP that a sink needs: sections to receive in, and what an answer says of the path.

use std::fmt::Write;

/// Id of the transport-wide sequence number in our offers.
pub(super) const TRANSPORT_CC: u8 = 3;

/// Id of abs-capture-time.
pub(super) const CAPTURE_TIME: u8 = 8;

const TRANSPORT_CC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// What a sink says of itself.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) pwd: String,
    pub(super) fingerprint: String,
}

/// The sink's side of the negotiation.
#[derive(Debug)]
pub(super) struct Description {
    credentials: Credentials,
    bandwidth_feedback: bool,
    /// Kinds of the sections in the order they were added: sections never move.
    video: Vec<bool>,
    version: u32,
    pending: bool,
    wanted: Option<(u32, u32)>,
}

impl Description {
    pub(super) fn new(
        credentials: Credentials,
        sections: (u32, u32),
        bandwidth_feedback: bool,
    ) -> Self {
        let mut description = Self {
            credentials,
            bandwidth_feedback,
            video: Vec::new(),
            version: 0,
            pending: false,
            wanted: None,
        };
        description.add(sections);
        description
    }

    fn add(&mut self, (audio, video): (u32, u32)) {
        self.video.extend(std::iter::repeat_n(false, audio as usize));
        self.video.extend(std::iter::repeat_n(true, video as usize));
    }

    pub(super) fn want(&mut self, audio: u32, video: u32) {
        let wanted = self.wanted.get_or_insert((0, 0));
        *wanted = (wanted.0 + audio, wanted.1 + video);
    }

    /// Whether an answer is that of the offer last made.
    pub(super) fn is_current(&self, id: u32) -> bool {
        id == 0 || id == self.version
    }

    pub(super) fn answered(&mut self) {
        self.pending = false;
    }

    /// Another offer, when one is wanted and none is pending.
    pub(super) fn poll_offer(&mut self) -> Option<(u32, String)> {
        if self.pending {
            return None;
        }
        let more = self.wanted.take()?;
        self.add(more);
        let sdp = self.offer();
        Some((self.version, sdp))
    }

    /// The offer as it stands.
    pub(super) fn offer(&mut self) -> String {
        self.version += 1;
        self.pending = true;
        let Credentials { ufrag, pwd, fingerprint } = &self.credentials;
        let mids: Vec<_> = (0..self.video.len()).map(|mid| mid.to_string()).collect();
        let mut sdp = format!(
            "v=0\r\no=- 4711 {} IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\na=msid-semantic: WMS *\r\n",
            self.version,
            mids.join(" ")
        );
        for (mid, video) in self.video.iter().enumerate() {
            let (media, payloads) =
                if *video { ("video", "96 97 125 107") } else { ("audio", "111") };
            // Writing to a string cannot fail.
            let _ = write!(
                sdp,
                "m={media} 9 UDP/TLS/RTP/SAVPF {payloads}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
                 a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\na=ice-options:trickle\r\n\
                 a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\na=mid:{mid}\r\n\
                 a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
                 a=extmap:{CAPTURE_TIME} http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time\r\na=recvonly\r\na=rtcp-mux\r\na=rtcp-rsize\r\n"
            );
            if self.bandwidth_feedback {
                let _ = write!(sdp, "a=extmap:{TRANSPORT_CC} {TRANSPORT_CC_URI}\r\n");
            }
            sdp.push_str(if *video {
                "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 ccm fir\r\na=rtcp-fb:96 nack\r\n\
                 a=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
                 a=rtpmap:125 H264/90000\r\na=rtcp-fb:125 transport-cc\r\na=rtcp-fb:125 ccm fir\r\na=rtcp-fb:125 nack\r\n\
                 a=rtcp-fb:125 nack pli\r\na=fmtp:125 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
                 a=rtpmap:107 rtx/90000\r\na=fmtp:107 apt=125\r\n"
            } else {
                "a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n"
            });
        }
        sdp
    }
}

/// What an answer says of the server's path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) ufrag: String,
    pub(super) pwd: String,
    /// Digest of the certificate (SHA-256), upper-case with colons.
    pub(super) fingerprint: String,
    pub(super) candidates: Vec<String>,
}

impl Remote {
    /// Reads the first value of each kind: all sections share one path.
    pub(super) fn read(sdp: &str) -> Self {
        let mut remote = Self::default();
        for line in sdp.lines() {
            let Some((name, value)) =
                line.trim().strip_prefix("a=").and_then(|l| l.split_once(':'))
            else {
                continue;
            };
            let place = match name {
                "ice-ufrag" => &mut remote.ufrag,
                "ice-pwd" => &mut remote.pwd,
                "fingerprint" => {
                    if let Some(digest) = value.strip_prefix("sha-256 ")
                        && remote.fingerprint.is_empty()
                    {
                        remote.fingerprint = digest.trim().to_uppercase();
                    }
                    continue;
                }
                "candidate" => {
                    remote.candidates.push(format!("candidate:{value}"));
                    continue;
                }
                _ => continue,
            };
            if place.is_empty() {
                value.clone_into(place);
            }
        }
        remote.candidates.sort();
        remote.candidates.dedup();
        remote
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        let text = |text: &str| text.to_owned();
        let credentials =
            Credentials { ufrag: text("u"), pwd: text("p"), fingerprint: text("AA:BB") };
        Description::new(credentials, (1, 1), true)
    }

    #[test]
    fn sections_are_added_behind_the_ones_that_are_there() {
        let mut description = description();
        let first = description.offer();
        assert!(first.contains("a=group:BUNDLE 0 1\r\n"));
        description.want(1, 0);
        assert_eq!(description.poll_offer(), None, "one offer at a time");
        assert!(description.is_current(1) && !description.is_current(2));
        description.answered();
        let (id, second) = description.poll_offer().unwrap();
        assert_eq!(id, 2);
        assert!(second.contains("a=group:BUNDLE 0 1 2\r\n"));
        let kinds: Vec<_> = second.lines().filter(|line| line.starts_with("m=")).collect();
        assert!(kinds[1].starts_with("m=video") && kinds[2].starts_with("m=audio"), "{kinds:?}");
    }

    #[test]
    fn an_answer_tells_the_path() {
        let remote = Remote::read(
            "v=0\r\na=ice-lite\r\nm=audio 9 X 1\r\na=ice-ufrag:abc\r\na=ice-pwd:def\r\n\
             a=fingerprint:sha-256 aa:0b\r\na=candidate:1 1 udp 1 10.0.0.1 7882 typ host\r\n\
             m=video 9 X 1\r\na=ice-ufrag:abc\r\na=candidate:1 1 udp 1 10.0.0.1 7882 typ host\r\n",
        );
        assert_eq!((remote.ufrag.as_str(), remote.pwd.as_str()), ("abc", "def"));
        assert_eq!(remote.fingerprint, "AA:0B");
        assert_eq!(remote.candidates, ["candidate:1 1 udp 1 10.0.0.1 7882 typ host"]);
    }
}
