//! The split form as operators run it: a media node whose API wants a secret, a control plane beside it, and clients
//! on real WebSockets.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, SystemTime},
};

use base64::Engine as _;
use chappe::{
    app::App,
    auth::{Grants, Keys},
    config::{NodeArgs, RawConfig, RunArgs},
};
use chappe_sfu::{
    config::{ApiConfig, CandidateConfig, NodeConfig, Secret},
    control::{Node, NodeHandle},
};
use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol::{self as proto, signal_response::Message as Response};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const NODE_SECRET: &str = "node-api-secret-0123456789abcdef";
pub(crate) const API_SECRET: &str = "api-key-secret-0123456789abcdef0123456789";

/// A port of loopback that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) struct Deployment {
    pub(crate) app: App,
    pub(crate) media: NodeHandle,
    serving: tokio::task::JoinHandle<()>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    keys: Keys,
}

impl Deployment {
    pub(crate) async fn start(name: &str) -> Self {
        let config = NodeConfig {
            shards: 1,
            pin_threads: false,
            udp_port: 0,
            tcp_port: Some(0),
            candidates: CandidateConfig { include_loopback: true, ..CandidateConfig::default() },
            ..NodeConfig::default()
        };
        let media = Node::start(config).await.unwrap();
        let (node_port, port, admin) = (free_port(), free_port(), free_port());
        let api = ApiConfig {
            listen: ([127, 0, 0, 1], node_port).into(),
            secret: Some(Secret::new(NODE_SECRET)),
            tls: None,
        };
        let node = media.clone();
        let serving = tokio::spawn(async move {
            node.serve(&api, std::future::pending()).await.unwrap();
        });
        let file = std::env::temp_dir().join(format!("chappe-{name}-{}.yaml", std::process::id()));
        let yaml = format!(
            "bind: 127.0.0.1\nport: {port}\nadmin: '127.0.0.1:{admin}'\nkeys: {{key: {API_SECRET}}}\n\
             room: {{max_participants: 3}}\ndrain_timeout_seconds: 2\n\
             node: {{urls: ['http://127.0.0.1:{node_port}'], secret: {NODE_SECRET}}}\n"
        );
        std::fs::write(&file, yaml).unwrap();
        let raw = RawConfig::read(Path::new(&file)).unwrap();
        std::fs::remove_file(&file).unwrap();
        let config = raw.check(&RunArgs::default(), Some(&NodeArgs::default())).unwrap();
        let app = App::start(&config).await.unwrap();
        let keys = Keys::new([("key".to_owned(), API_SECRET.to_owned())]).unwrap();
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, admin) = (loopback(port), loopback(admin));
        let deployment = Self { app, media, serving, address, admin, keys };
        deployment.until("/readyz", |text| text.contains("200 OK")).await;
        deployment
    }

    pub(crate) fn token(&self, change: impl FnOnce(&mut Grants)) -> String {
        let mut grants = Grants::to_join("room", "somebody");
        change(&mut grants);
        self.keys.mint(&grants, Duration::from_secs(600), SystemTime::now()).unwrap()
    }

    /// Polls the admin listener until its answer fits; returns that.
    pub(crate) async fn until(&self, path: &str, fits: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let polled = tokio::time::timeout(PATIENCE, async {
            loop {
                last = http(self.admin, "GET", path, "", "").await;
                if fits(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(polled.is_ok(), "{path} never fits: {last}");
        last
    }

    pub(crate) async fn stop(self) {
        self.app.stop().await;
        self.serving.abort();
        self.media.stop().await;
    }
}

/// One request on a connection of its own; empty where nobody listens.
pub(crate) async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    let mut response = String::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = stream.read_to_string(&mut response).await;
    }
    response
}

pub(crate) struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    /// `/rtc/v1` with this request; the status where it is refused.
    pub(crate) async fn join(
        deployment: &Deployment,
        token: &str,
        mut request: proto::JoinRequest,
    ) -> Result<Self, u16> {
        request.connection_settings =
            Some(proto::ConnectionSettings { auto_subscribe: true, ..Default::default() });
        let wrapped =
            proto::WrappedJoinRequest { compression: 0, join_request: request.encode_to_vec() };
        let packed =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(wrapped.encode_to_vec());
        let url = format!(
            "ws://{}/rtc/v1?access_token={token}&join_request={packed}",
            deployment.address
        );
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("x-forwarded-for", "203.0.113.99".parse().unwrap());
        match tokio_tungstenite::connect_async(request).await {
            Ok((stream, _)) => Ok(Self(stream)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn send(&mut self, message: proto::signal_request::Message) {
        let request = proto::SignalRequest { message: Some(message) };
        self.0.send(Message::Binary(request.encode_to_vec().into())).await.unwrap();
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.0.send(Message::Text(text.into())).await.unwrap();
    }

    /// The first message that fits.
    pub(crate) async fn expect<T>(
        &mut self,
        what: &str,
        fits: impl Fn(Response) -> Option<T>,
    ) -> T {
        let wait = async {
            while let Some(Ok(message)) = self.0.next().await {
                let bytes = match message {
                    Message::Binary(bytes) => bytes,
                    _ => continue,
                };
                let response = proto::SignalResponse::decode(bytes.as_ref()).unwrap();
                if let Some(found) = response.message.and_then(&fits) {
                    return Some(found);
                }
            }
            None
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.ok().flatten().unwrap_or_else(|| panic!("never: {what}"))
    }
}
