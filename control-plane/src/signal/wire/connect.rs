//! What a client says when it connects: the query of `/rtc`, or the `join_request` of `/rtc/v1`.

use std::{borrow::Cow, collections::HashMap, io::Read};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use flate2::read::GzDecoder;
use http::StatusCode;
use livekit_protocol as proto;
use prost::Message;
use proto::wrapped_join_request::Compression;

/// Largest join request, inflated, bytes.
const MAX_JOIN_REQUEST: u64 = 1 << 20;

/// Senders differ in padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Which path was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `/rtc`: two PeerConnections, unless a join request is there.
    Rtc,
    /// `/rtc/v1`: one PeerConnection.
    RtcV1,
}

/// A session to be resumed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reconnect {
    /// Which participant; old clients name none.
    pub participant_sid: Option<String>,
    /// As the client says it (`ReconnectReason`).
    pub reason: i32,
}

/// Everything a client says when it connects, the token apart.
#[derive(Clone, PartialEq, Debug)]
pub struct ConnectParams {
    /// SDK, version, protocol, device.
    pub client: proto::ClientInfo,
    /// Takes every track without asking.
    pub auto_subscribe: bool,
    /// One PeerConnection for both directions.
    pub single_peer: bool,
    /// A publish-only companion of a participant: its identity gets this suffix.
    pub publish: Option<String>,
    /// Resume instead of join.
    pub reconnect: Option<Reconnect>,
    /// Replaces the metadata of the token.
    pub metadata: Option<String>,
    /// Added to the attributes of the token.
    pub attributes: HashMap<String, String>,
    /// Tracks to be published at once.
    pub add_tracks: Vec<proto::AddTrackRequest>,
    /// The first offer.
    pub offer: Option<proto::SessionDescription>,
    /// What the client knows, when it resumes.
    pub sync_state: Option<proto::SyncState>,
}

/// Why the parameters were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// `/rtc/v1` without `join_request`.
    #[error("join_request is missing")]
    NoJoinRequest,
    /// It cannot be read.
    #[error("join_request is malformed: {0}")]
    JoinRequest(&'static str),
    /// A query parameter cannot be read.
    #[error("the parameter {0} is malformed")]
    Parameter(&'static str),
}

impl ConnectError {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

/// Names and values.
type Query<'a> = HashMap<Cow<'a, str>, Cow<'a, str>>;

/// Version of the wire protocol that knows streams of several tracks.
const SYNC_STREAMS_SINCE: i32 = 10;

/// Version (major, minor) of the JavaScript SDK that surely reads `mid_to_track_id` of offers; 2.15.7 does not.
const MAPPED_OFFERS_SINCE: (u32, u32) = (2, 16);

/// Major and minor number of "2.16.0-rc.1".
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

impl ConnectParams {
    /// Reads the query of a request, percent-encoded as it came.
    pub fn from_query(endpoint: Endpoint, query: &str) -> Result<Self, ConnectError> {
        // The last of several wins, as in an HTML form that was corrected.
        let query: Query<'_> = form_urlencoded::parse(query.as_bytes()).collect();
        match (query.get("join_request").filter(|text| !text.is_empty()), endpoint) {
            (Some(text), _) => Ok(Self::from_join_request(join_request(text)?)),
            (None, Endpoint::RtcV1) => Err(ConnectError::NoJoinRequest),
            (None, Endpoint::Rtc) => Self::from_parameters(&query),
        }
    }

    /// Whether tracks that belong together may come in one MediaStream, which browsers then play in step.
    ///
    /// A client must not need the track's id in its stream id. The JavaScript SDK finds the track by its m-line
    /// (`mid_to_track_id`): with one PeerConnection always, with two since `MAPPED_OFFERS_SINCE`. In a page it says
    /// nothing of browser and system; in React Native, whose streams have ids of their own, it names the system.
    #[must_use]
    pub fn syncs_streams(&self) -> bool {
        let maps_offers = || version(&self.client.version) >= Some(MAPPED_OFFERS_SINCE);
        self.client.sdk() == proto::client_info::Sdk::Js
            && self.client.protocol >= SYNC_STREAMS_SINCE
            && self.client.os.is_empty()
            && (self.single_peer || maps_offers())
    }

    /// Whether repair packets (FlexFEC) may be described to it in offers of ours. Who offers itself says so; of the others only
    /// browsers are known not to take the stream of repair packets for a second track.
    pub fn may_be_offered_repair(&self) -> bool {
        self.single_peer || self.client.sdk() == proto::client_info::Sdk::Js
    }

    fn from_join_request(request: proto::JoinRequest) -> Self {
        let settings = request.connection_settings.unwrap_or(proto::ConnectionSettings {
            auto_subscribe: true,
            ..proto::ConnectionSettings::default()
        });
        Self {
            client: request.client_info.unwrap_or_default(),
            auto_subscribe: settings.auto_subscribe,
            single_peer: true,
            publish: None,
            reconnect: request.reconnect.then(|| Reconnect {
                participant_sid: some(request.participant_sid),
                reason: request.reconnect_reason,
            }),
            metadata: some(request.metadata),
            attributes: request.participant_attributes,
            add_tracks: request.add_track_requests,
            offer: request.publisher_offer.filter(|offer| !offer.sdp.is_empty()),
            sync_state: request.sync_state,
        }
    }

    fn from_parameters(query: &Query<'_>) -> Result<Self, ConnectError> {
        let text = |name: &str| query.get(name).map_or_else(String::new, ToString::to_string);
        let flag = |name: &str, default: bool| {
            query.get(name).filter(|value| !value.is_empty()).map_or(default, |value| is_set(value))
        };
        let number = |name: &'static str| match query.get(name).map(|value| value.trim()) {
            None | Some("") => Ok(0),
            Some(value) => value.parse::<i32>().map_err(|_| ConnectError::Parameter(name)),
        };
        let client = proto::ClientInfo {
            sdk: sdk(&text("sdk")) as i32,
            version: text("version"),
            protocol: number("protocol")?,
            os: text("os"),
            os_version: text("os_version"),
            device_model: text("device_model"),
            browser: text("browser"),
            browser_version: text("browser_version"),
            network: text("network"),
            client_protocol: number("client_protocol")?,
            capabilities: text("capabilities")
                .split(',')
                .filter_map(|name| proto::client_info::Capability::from_str_name(name.trim()))
                .map(|capability| capability as i32)
                .collect(),
            ..proto::ClientInfo::default()
        };
        let reason = number("reconnect_reason")?;
        Ok(Self {
            client,
            auto_subscribe: flag("auto_subscribe", true),
            single_peer: false,
            publish: some(text("publish")),
            reconnect: flag("reconnect", false)
                .then(|| Reconnect { participant_sid: some(text("sid")), reason }),
            metadata: None,
            attributes: attributes(query.get("attributes").map_or("", AsRef::as_ref))?,
            add_tracks: Vec::new(),
            offer: None,
            sync_state: None,
        })
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn is_set(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

/// Some senders use the other alphabet, and an unescaped `+` arrives as a space.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').bytes().map(|byte| match byte {
        b'+' | b' ' => b'-',
        b'/' => b'_',
        byte => byte,
    });
    BASE64.decode(text.collect::<Vec<u8>>()).ok()
}

fn join_request(text: &str) -> Result<proto::JoinRequest, ConnectError> {
    let malformed = ConnectError::JoinRequest;
    let wrapped = base64(text).ok_or(malformed("it is not base64url"))?;
    let wrapped = proto::WrappedJoinRequest::decode(wrapped.as_slice())
        .map_err(|_| malformed("it is not a WrappedJoinRequest"))?;
    let plain = match Compression::try_from(wrapped.compression) {
        Ok(Compression::None) => wrapped.join_request,
        Ok(Compression::Gzip) => inflate(&wrapped.join_request)?,
        Err(_) => return Err(malformed("its compression is not known")),
    };
    if plain.len() as u64 > MAX_JOIN_REQUEST {
        return Err(malformed("it is too large"));
    }
    proto::JoinRequest::decode(plain.as_slice()).map_err(|_| malformed("it is not a JoinRequest"))
}

/// Never inflates more than the bound, whatever the input promises.
fn inflate(packed: &[u8]) -> Result<Vec<u8>, ConnectError> {
    let mut plain = Vec::new();
    GzDecoder::new(packed)
        .take(MAX_JOIN_REQUEST + 1)
        .read_to_end(&mut plain)
        .map_err(|_| ConnectError::JoinRequest("it is not gzip"))?;
    Ok(plain)
}

fn attributes(text: &str) -> Result<HashMap<String, String>, ConnectError> {
    if text.is_empty() {
        return Ok(HashMap::new());
    }
    let malformed = || ConnectError::Parameter("attributes");
    let json = base64(text).ok_or_else(malformed)?;
    serde_json::from_slice(&json).map_err(|_| malformed())
}

fn sdk(name: &str) -> proto::client_info::Sdk {
    use proto::client_info::Sdk;
    match name.to_ascii_lowercase().as_str() {
        "ios" => Sdk::Swift,
        "reactnative" => Sdk::ReactNative,
        "unityweb" => Sdk::UnityWeb,
        name => Sdk::from_str_name(&name.to_ascii_uppercase()).unwrap_or(Sdk::Unknown),
    }
}
