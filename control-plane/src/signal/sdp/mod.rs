//! Offers and answers <-> RTP parameters (RFC 9429 on RFC 8866 and 3264).
//!
//! A [`Negotiator`] holds one PeerConnection's m-line table. The client offers on the only PeerConnection of
//! `/rtc/v1` and on the publisher one of `/rtc` ([`Negotiator::answering`]); we offer on the subscriber one
//! ([`Negotiator::offering`]). Nothing outside of this module reads or writes SDP.
//!
//! ```text
//! text --parse--> RemoteDescription --Negotiator--> node::{Transport, Codec, HeaderExtension}, PublishedSection
//! SendTrack, node::LocalTransport --Negotiator--> describe --> text
//! ```
//!
//! One PeerConnection is one BUNDLE (RFC 9143) with rtcp-mux: m-lines outside of it are rejected. Payload types and
//! extension ids are the client's own wherever it offers.

mod answering;
mod attributes;
mod codec;
mod describe;
mod error;
mod extension;
mod negotiator;
mod offering;
mod parse;
mod section;
mod transport;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;
use serde::{Deserialize, Serialize};

pub use error::{MAX_SDP_BYTES, MAX_SECTIONS, SdpError};
pub use negotiator::Negotiator;

/// Audio or video.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum MediaKind {
    /// m=audio
    Audio,
    /// m=video
    Video,
}

/// What an offer changed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct OfferSummary {
    /// M-lines that publish now and did not before.
    pub added: Vec<String>,
    /// M-lines that published before and do not now.
    pub removed: Vec<String>,
    /// M-lines that still publish, but another track or other encodings.
    pub changed: Vec<String>,
    /// Audio m-lines on which a track could be sent now.
    pub free_audios: u32,
    /// Video m-lines on which a track could be sent now.
    pub free_videos: u32,
    /// Tracks whose m-line the client took away: they need another one.
    pub displaced: Vec<String>,
    /// The client changed its ICE credentials.
    pub ice_restart: bool,
    /// The client offers data channels.
    pub wants_data: bool,
}

/// What an answer changed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AnswerSummary {
    /// Tracks whose m-line the client rejected.
    pub displaced: Vec<String>,
}

/// An offer or an answer of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The text.
    pub sdp: String,
    /// Of the offer: ours, or the one that is answered.
    pub id: u32,
    /// Every m-line that sends, with its track: the whole map each time.
    pub mid_to_track_id: HashMap<String, String>,
}

/// An m-line on which the client publishes.
#[derive(Clone, PartialEq, Debug)]
pub struct PublishedSection {
    /// The m-line.
    pub mid: String,
    /// Audio or video.
    pub kind: MediaKind,
    /// The client's track id, as far as it says one; AddTrack names it too.
    pub cid: String,
    /// The client's stream id; may be empty.
    pub stream: String,
    /// Codecs as answered, the one that the client will send first ("video/VP8").
    pub mime_types: Vec<String>,
    /// As the client ordered them; [`Self::encodings_for`] sorts them by quality.
    pub encodings: Vec<node::Encoding>,
    /// False while the m-line does not let the client send.
    pub active: bool,
}

/// What AddTrack says of the track on an m-line: it shapes the answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublishOptions {
    /// Opus in two channels at a music bitrate.
    pub stereo: bool,
    /// Opus may stop sending in silence.
    pub dtx: bool,
    /// Redundant audio is preferred where it is offered.
    pub red: bool,
    /// Codec to be preferred ("video/VP9" or "vp9").
    pub preferred_mime: Option<String>,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self { stereo: false, dtx: true, red: true, preferred_mime: None }
    }
}

/// A track to be sent to the client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SendTrack {
    /// Audio or video.
    pub kind: MediaKind,
    /// `TR_...`
    pub track_sid: String,
    /// `PA_...|TR_...`, or `PA_...|camera` for tracks that are played in step.
    pub stream_id: String,
    /// For example "video/VP8".
    pub mime_type: String,
    /// Of the outgoing stream.
    pub ssrc: u32,
    /// Of its RTX; 0 for none.
    pub rtx_ssrc: u32,
    /// Of its repair packets (FlexFEC), where the m-line has any; 0 for none.
    #[serde(default)]
    pub fec_ssrc: u32,
    /// Stereo Opus: the client is told to decode two channels.
    pub stereo: bool,
}

impl SendTrack {
    /// The track's part of the msid. A browser keeps the first one that an m-line has as the id of its
    /// MediaStreamTrack, and the JavaScript SDK takes one that starts with "TR" for the track's: on an m-line that is
    /// used again it would be that of another. It is left out where the SDK looks by m-line anyway.
    fn msid_appdata(&self) -> &str {
        let named = self.stream_id.ends_with(&self.track_sid);
        if named { &self.track_sid } else { self.track_sid.trim_start_matches("TR_") }
    }
}

/// Where a track to be sent ended up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Assignment {
    /// On this m-line, from the next description on.
    Assigned {
        /// The m-line.
        mid: String,
    },
    /// The client has to offer more m-lines first ([`Negotiator::missing_sections`]); assign again then.
    NeedsSections,
}

impl PublishedSection {
    /// The encodings, lowest quality first: as the layers of AddTrack name their rids or SSRCs, else by the
    /// customary names (q, h, f), else as the client ordered them.
    #[must_use]
    pub fn encodings_for(&self, layers: &[proto::VideoLayer]) -> Vec<node::Encoding> {
        let rank = |encoding: &node::Encoding| -> i32 {
            let layer = layers.iter().find(|layer| {
                let by_rid = !layer.rid.is_empty() && layer.rid == encoding.rid;
                by_rid || (layer.ssrc != 0 && layer.ssrc == encoding.ssrc)
            });
            layer.map_or_else(|| customary_rank(&encoding.rid), |layer| layer.quality)
        };
        let mut encodings = self.encodings.clone();
        encodings.sort_by_key(rank);
        encodings
    }
}

fn customary_rank(rid: &str) -> i32 {
    match rid {
        "q" | "l" | "lo" | "low" => 0,
        "h" | "m" | "mid" | "medium" => 1,
        "f" | "hi" | "high" => 2,
        _ => 0,
    }
}
