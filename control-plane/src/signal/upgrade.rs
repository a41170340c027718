//! Turns a request of HTTP/1.1 into a WebSocket (RFC 6455 section 4.2). What is moved on it is none of this module's business.

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The only version that there is (RFC 6455 section 4.1).
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// A request for a WebSocket that can be granted.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// Proves that the request was understood.
    accept: HeaderValue,
    connection: OnUpgrade,
}

/// Why a request cannot become a WebSocket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum UpgradeRefusal {
    /// A browser that was pointed here, for example.
    #[error("this is the address of a WebSocket: the request has to ask for an upgrade")]
    NotAsked,
    #[error("version 13 of the WebSocket protocol is spoken here")]
    Version,
    #[error("the request lacks Sec-WebSocket-Key")]
    Key,
    /// HTTP/2, or a proxy's doing.
    #[error("this connection cannot be upgraded: HTTP/1.1 can")]
    Connection,
}

impl Upgrade {
    /// The response that grants it. `run` gets the connection once the client has that; it is dropped where the client went
    /// away before.
    pub(super) fn grant<F>(
        self,
        run: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { accept, connection } = self;
        tokio::spawn(async move {
            match connection.await {
                Ok(stream) => run(TokioIo::new(stream)).await,
                Err(error) => tracing::debug!(%error, "no WebSocket after all"),
            }
        });
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = UpgradeRefusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, UpgradeRefusal> {
        let headers = &parts.headers;
        if parts.method != Method::GET
            || !has(headers, &header::CONNECTION, "upgrade")
            || !has(headers, &header::UPGRADE, "websocket")
        {
            return Err(UpgradeRefusal::NotAsked);
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(UpgradeRefusal::Version);
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(UpgradeRefusal::Key)?;
        let accept = derive_accept_key(key.as_bytes());
        let accept = HeaderValue::try_from(accept).map_err(|_| UpgradeRefusal::Key)?;
        let connection = parts.extensions.remove().ok_or(UpgradeRefusal::Connection)?;
        Ok(Self { accept, connection })
    }
}

/// Whether one of the comma-separated words of a header is `word`, in any case.
fn has(headers: &HeaderMap, name: &header::HeaderName, word: &str) -> bool {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|known| known.trim().eq_ignore_ascii_case(word))
}

impl IntoResponse for UpgradeRefusal {
    fn into_response(self) -> Response {
        let reason = self.to_string();
        match self {
            Self::NotAsked | Self::Key => (StatusCode::BAD_REQUEST, reason).into_response(),
            Self::Version | Self::Connection => {
                let headers = [
                    (header::UPGRADE, HeaderValue::from_static("websocket")),
                    (header::SEC_WEBSOCKET_VERSION, VERSION),
                ];
                (StatusCode::UPGRADE_REQUIRED, headers, reason).into_response()
            }
        }
    }
}
