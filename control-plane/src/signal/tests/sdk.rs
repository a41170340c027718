//! The Rust SDK's own signalling client against this server, over a small transport of the test's.

use std::sync::Arc;

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use livekit_net::{Header, TransportError, WsClient, WsConnectResult, WsConnection, set_ws_client};
use livekit_protocol::{self as proto, signal_request::Message as Request};
use livekit_signaling::{SignalClient, SignalError, SignalEvent, SignalEvents, SignalOptions};
use tokio::{net::TcpStream, sync::Mutex};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message as WsMessage, client::IntoClientRequest as _, http::HeaderValue},
};

use super::server::{PATIENCE, Server};
use crate::signal::session::tests::kind;

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Transport;

struct Connection {
    sink: Mutex<SplitSink<Stream, WsMessage>>,
    stream: Mutex<SplitStream<Stream>>,
}

#[tonic::async_trait]
impl WsClient for Transport {
    async fn connect(
        &self,
        url: String,
        headers: Vec<Header>,
        _timeout_ms: u64,
    ) -> Result<WsConnectResult, TransportError> {
        let other = |error: &dyn std::fmt::Display| TransportError::Other(error.to_string());
        let mut request = url.into_client_request().map_err(|error| other(&error))?;
        for header in headers {
            let name = header.name.parse::<http::HeaderName>().map_err(|error| other(&error))?;
            let value = HeaderValue::from_str(&header.value).map_err(|error| other(&error))?;
            request.headers_mut().insert(name, value);
        }
        let (stream, _) =
            tokio_tungstenite::connect_async(request).await.map_err(|error| other(&error))?;
        let (sink, stream) = stream.split();
        let connection = Connection { sink: Mutex::new(sink), stream: Mutex::new(stream) };
        Ok(WsConnectResult { connection: Arc::new(connection) })
    }
}

#[tonic::async_trait]
impl WsConnection for Connection {
    async fn send(&self, frame: Vec<u8>) -> Result<(), TransportError> {
        let sent = self.sink.lock().await.send(WsMessage::Binary(frame.into())).await;
        sent.map_err(|error| TransportError::Other(error.to_string()))
    }

    async fn recv(&self) -> Result<Option<Vec<u8>>, TransportError> {
        loop {
            match self.stream.lock().await.next().await {
                Some(Ok(WsMessage::Binary(bytes))) => return Ok(Some(bytes.to_vec())),
                Some(Ok(WsMessage::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(TransportError::Other(error.to_string())),
            }
        }
    }

    async fn close(&self) {
        let _ = self.sink.lock().await.close().await;
    }
}

async fn expect(events: &mut SignalEvents, wanted: &str) {
    let wait = async {
        while let Some(event) = events.recv().await {
            if let SignalEvent::Message(message) = event
                && kind(&message) == wanted
            {
                return;
            }
        }
        panic!("closed before {wanted}");
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {wanted}"));
}

async fn connect(
    server: &Server,
    single: bool,
    offer: Option<proto::SessionDescription>,
) -> Result<(SignalClient, proto::JoinResponse, SignalEvents), SignalError> {
    set_ws_client(Arc::new(Transport));
    let mut options = SignalOptions::default();
    options.single_peer_connection = single;
    SignalClient::connect(&server.url(), &server.token("r", "sdk"), options, offer).await
}

#[tokio::test]
async fn the_rust_sdk_joins_on_both_paths_and_pings() {
    for single in [false, true] {
        let server = Server::default().await;
        let mut peer = super::first_offer();
        let offer = peer.offer().map(|(id, sdp)| proto::SessionDescription {
            r#type: "offer".into(),
            sdp,
            id,
            ..Default::default()
        });
        let (client, join, mut events) =
            connect(&server, single, offer.filter(|_| single)).await.expect("joined");
        assert_eq!(client.is_single_pc_mode_active(), single);
        assert_eq!(join.subscriber_primary, !single);
        assert!(join.participant.is_some_and(|participant| participant.sid.starts_with("PA_")));
        expect(&mut events, if single { "answer" } else { "offer" }).await;
        client.send(Request::PingReq(proto::Ping { timestamp: 1, rtt: 0 })).await;
        expect(&mut events, "pong_resp").await;
        client.close().await;
    }
}

#[tokio::test]
async fn the_rust_sdk_resumes() {
    let server = Server::default().await;
    let (client, join, mut events) = connect(&server, false, None).await.expect("joined");
    expect(&mut events, "offer").await;
    let sid = join.participant.expect("participant").sid;
    server.node.connect(&format!("{sid}/s"));
    expect(&mut events, "update").await;
    let resumed =
        client.restart(proto::ReconnectReason::RrSignalDisconnected).await.expect("resumed");
    assert!(resumed.server_info.is_some());
    client.set_reconnected().await;
    expect(&mut events, "room_update").await;
    client.close().await;
}
