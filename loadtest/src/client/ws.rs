//! The signalling WebSocket: how a client gets in, and why it does not.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use livekit_protocol as proto;
use livekit_token::{AccessToken, VideoGrants};
use prost::Message as _;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        protocol::{
            WebSocketConfig,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    },
};

/// Largest signalling message that the protocol allows.
const MAX_MESSAGE: usize = 2 << 20;
/// Largest frame that is sent: the connection keeps a buffer as large as the largest one for its whole life.
const MAX_SENT_FRAME: usize = 4 * 1_024;
/// Life of a client's token: longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// The server under test.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: Uri,
    pub(crate) key: String,
    pub(crate) secret: String,
    pub(crate) tls: Option<TlsConnector>,
    /// This machine's address toward it, known after [`Self::validate`].
    pub(crate) local: IpAddr,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).field("key", &self.key).finish()
    }
}

/// Why a client did not get in.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ConnectError {
    #[error("cannot reach the server: {0}")]
    Unreachable(String),
    #[error("the server refused with {status}: {reason}")]
    Refused { status: u16, reason: String },
    #[error("the server does not speak the protocol: {0}")]
    Protocol(String),
    #[error("timed out while {0}")]
    Timeout(Cow<'static, str>),
}

impl ConnectError {
    /// A few words to count failures by: no addresses, no names.
    pub(crate) fn category(&self) -> String {
        match self {
            Self::Unreachable(_) => "server unreachable".to_owned(),
            Self::Refused { status, .. } => format!("refused with {status}"),
            Self::Protocol(_) => "protocol error".to_owned(),
            Self::Timeout(phase) => format!("timed out while {phase}"),
        }
    }

    /// Whether the server had no room for one more.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Refused { status: 403 | 429 | 503, .. })
    }
}

impl Target {
    /// A token for one client.
    pub(crate) fn token(
        &self,
        room: &str,
        identity: &str,
        publish: bool,
        subscribe: bool,
    ) -> Result<String, ConnectError> {
        let grants = VideoGrants {
            room_join: true,
            room: room.to_owned(),
            can_publish: Some(publish),
            can_subscribe: Some(subscribe),
            can_publish_data: Some(true),
            ..VideoGrants::default()
        };
        AccessToken::with_api_key(&self.key, &self.secret)
            .with_identity(identity)
            .with_ttl(TOKEN_LIFE)
            .with_grants(grants)
            .to_jwt()
            .map_err(|error| ConnectError::Protocol(format!("cannot sign a token: {error}")))
    }

    /// The URL's path in front of the protocol's own.
    fn base(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }

    fn is_tls(&self) -> bool {
        matches!(self.url.scheme_str(), Some("https" | "wss"))
    }

    /// A connection to the server, and this machine's address on it.
    async fn dial(&self) -> Result<(Box<dyn Stream>, IpAddr), ConnectError> {
        let host = self.url.host().unwrap_or("localhost").trim_matches(['[', ']']).to_owned();
        let port = self.url.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 });
        let unreachable = |error: std::io::Error| ConnectError::Unreachable(error.to_string());
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(unreachable)?;
        let _ = tcp.set_nodelay(true);
        let local = tcp.local_addr().map_err(unreachable)?.ip();
        let Some(tls) = self.tls.as_ref().filter(|_| self.is_tls()) else {
            return Ok((Box::new(tcp), local));
        };
        let name = ServerName::try_from(host)
            .map_err(|error| ConnectError::Unreachable(error.to_string()))?;
        Ok((Box::new(tls.connect(name, tcp).await.map_err(unreachable)?), local))
    }

    /// Asks over plain HTTP whether a client would be let in, and learns this machine's address.
    pub(crate) async fn validate(&mut self, token: &str, path: &str) -> Result<(), ConnectError> {
        let (stream, local) = self.dial().await?;
        self.local = local;
        let host = self.url.authority().map_or("localhost", |authority| authority.as_str());
        let request = proto::JoinRequest {
            connection_settings: Some(proto::ConnectionSettings {
                auto_subscribe: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let path = format!("{}{path}?{}", self.base(), join_query(token, &request));
        let (status, body) =
            crate::fetch::fetch(stream, host, &path).await.map_err(ConnectError::Protocol)?;
        if status.is_success() {
            return Ok(());
        }
        Err(ConnectError::Refused { status: status.as_u16(), reason: sentence(&body) })
    }
}

/// The first line of an answer's body, bounded.
fn sentence(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.lines().next().unwrap_or_default().trim().chars().take(200).collect()
}

/// TCP, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An open signalling connection.
pub(crate) struct Ws {
    stream: WebSocketStream<Box<dyn Stream>>,
    /// The last message. While it is held the connection cannot keep the buffer that it came in, and makes a small one for the
    /// next: descriptions of 30 KiB would be part of each client for its whole life.
    last_message: Bytes,
}

impl Ws {
    /// Opens the WebSocket at `path` (with its query).
    pub(crate) async fn connect(target: &Target, path: &str) -> Result<Self, ConnectError> {
        let (stream, _) = target.dial().await?;
        let scheme = if target.is_tls() { "wss" } else { "ws" };
        let authority = target.url.authority().map_or("localhost", |authority| authority.as_str());
        let request = format!("{scheme}://{authority}{}{path}", target.base())
            .into_client_request()
            .map_err(|error| ConnectError::Protocol(error.to_string()))?;
        // Thousands of clients: the usual buffers of 128 KiB each are too much.
        let config = WebSocketConfig::default()
            .read_buffer_size(4 * 1_024)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((stream, _)) => Ok(Self { stream, last_message: Bytes::new() }),
            Err(tungstenite::Error::Http(response)) => Err(ConnectError::Refused {
                status: response.status().as_u16(),
                reason: sentence(response.body().as_deref().unwrap_or_default()),
            }),
            Err(tungstenite::Error::Io(error)) => Err(ConnectError::Unreachable(error.to_string())),
            Err(error) => Err(ConnectError::Protocol(error.to_string())),
        }
    }

    /// The next message; `None` when the connection is gone.
    pub(crate) async fn next(&mut self) -> Option<proto::signal_response::Message> {
        loop {
            match self.stream.next().await? {
                Ok(Message::Binary(bytes)) => {
                    drop(std::mem::replace(&mut self.last_message, bytes.clone()));
                    let response = proto::SignalResponse::decode(bytes).ok()?;
                    if let Some(message) = response.message {
                        return Some(message);
                    }
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Sends a request; errors show in [`Self::next`].
    pub(crate) async fn send(&mut self, message: proto::signal_request::Message) {
        let request = proto::SignalRequest { message: Some(message) };
        let mut rest = Bytes::from(request.encode_to_vec());
        let mut kind = Data::Binary;
        while rest.len() > MAX_SENT_FRAME {
            let part = rest.split_to(MAX_SENT_FRAME);
            let frame = Frame::message(part, OpCode::Data(kind), false);
            let _ = self.stream.feed(Message::Frame(frame)).await;
            kind = Data::Continue;
        }
        let frame = Frame::message(rest, OpCode::Data(kind), true);
        let _ = self.stream.send(Message::Frame(frame)).await;
    }

    pub(crate) async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_millis(200), self.stream.close(None)).await;
    }
}

impl std::fmt::Debug for Ws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ws").finish_non_exhaustive()
    }
}

/// The query value of a join request: base64url of a WrappedJoinRequest without compression.
pub(crate) fn join_query(token: &str, request: &proto::JoinRequest) -> String {
    let wrapped = proto::WrappedJoinRequest {
        compression: proto::wrapped_join_request::Compression::None.into(),
        join_request: request.encode_to_vec(),
    };
    format!("access_token={token}&join_request={}", base64url(&wrapped.encode_to_vec()))
}

/// RFC 4648 section 5, padded; `=` as it stands in a query.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = u32::from(chunk[0]) << 16
            | u32::from(*chunk.get(1).unwrap_or(&0)) << 8
            | u32::from(*chunk.get(2).unwrap_or(&0));
        for place in 0..4 {
            if place <= chunk.len() {
                text.push(DIGITS[(word >> (18 - 6 * place)) as usize & 63] as char);
            } else {
                text.push_str("%3D");
            }
        }
    }
    text
}

/// Trusts these certificates (PEM), or the system's.
pub(crate) fn tls_connector(pem: Option<&str>) -> Result<TlsConnector, String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
    let fail = |error: &dyn std::fmt::Display| match pem {
        Some(_) => format!("certificates to trust: {error}"),
        None => format!("certificates in {SYSTEM}: {error}"),
    };
    let pem = match pem {
        Some(pem) => pem.as_bytes().to_vec(),
        None => std::fs::read(SYSTEM).map_err(|error| fail(&error))?,
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| fail(&error))?;
        // The system's list may hold some that rustls does not take.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(fail(&"none"));
    }
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::base64url;

    #[test]
    fn base64url_has_the_vectors_of_rfc_4648() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg%3D%3D"), ("fo", "Zm8%3D"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64url(plain.as_bytes()), encoded);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8%3D");
    }
}
