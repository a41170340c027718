//! Calls to one media node, with time limits, and retries where a repeated call is harmless.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chappe_proto::node::v1 as proto;
use proto::{
    node_service_client::NodeServiceClient,
    node_service_server::{NodeService, NodeServiceServer},
};
use tonic::{
    Code, Request, Status,
    body::Body,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{ClientTlsConfig, Endpoint},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

/// How long one call may take: the node answers from memory.
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// Pauses before a call is repeated: 5 s in sum, a short restart of a link.
const RETRY_AFTER: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1_500),
    Duration::from_millis(3_000),
];
/// A link that is silent for so long is tested, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Snapshots and whole states: far above what a node sends, bounded all the same.
const MAX_MESSAGE: usize = 256 << 20;

/// Why a call to a node failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The revision is not what the node has.
    #[error("stale revision: {0}")]
    Stale(String),
    /// The room has another owner by now.
    #[error("another control plane owns the room: {0}")]
    Fenced(String),
    /// The node does not know the peer or room.
    #[error("unknown to the node: {0}")]
    NotFound(String),
    /// The node refuses the request for good.
    #[error("refused: {0}")]
    Invalid(String),
    /// The node could not be asked, or not in time; it may have done what was asked.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            // node.proto, Fencing.
            Code::FailedPrecondition if text.starts_with("epoch") => Self::Fenced(text),
            Code::FailedPrecondition => Self::Stale(text),
            Code::NotFound => Self::NotFound(text),
            Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied => {
                Self::Invalid(text)
            }
            _ => Self::Unavailable(format!("{:?}: {text}", status.code())),
        }
    }
}

/// Adds the shared secret to each call.
#[derive(Clone)]
struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.0 {
            request.metadata_mut().insert("authorization", secret.clone());
        }
        Ok(request)
    }
}

/// Carries calls: an HTTP/2 connection, or the service itself where it is in this process.
type Carrier = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

type Client = NodeServiceClient<InterceptedService<Carrier, Credentials>>;

/// A media node, as rooms hold it: cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    client: Client,
    /// Peers that live there, as far as this control plane knows.
    peers: AtomicUsize,
    /// Its events are being watched: it is alive.
    attached: AtomicBool,
    /// How often that began.
    attachments: AtomicU64,
}

impl Node {
    /// A node in this process: calls are messages as everywhere, but go to `service` without HTTP/2, which cost more than all the node
    /// does for one. `name` is for logs and tells nodes apart.
    #[must_use]
    pub fn embedded<S: NodeService>(
        name: impl Into<String>,
        service: NodeServiceServer<S>,
    ) -> Self {
        let carrier =
            ServiceExt::<http::Request<Body>>::map_err(service, |never: Infallible| match never {});
        let carrier = BoxCloneSyncService::new(carrier);
        Self::with_credentials(name.into(), carrier, Credentials(None))
    }

    /// A node in another process. `secret` is the shared secret of its API, `tls` what to check it against.
    ///
    /// Fails on a malformed URL or secret; the connection is made when it is needed, and again when it is lost.
    pub fn remote(
        url: &str,
        secret: Option<&str>,
        tls: Option<ClientTlsConfig>,
    ) -> Result<Self, String> {
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| format!("{url}: {error}"))?
            .connect_timeout(CALL_WITHIN)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).map_err(|error| format!("{url}: {error}"))?;
        }
        let secret = secret
            .map(|secret| {
                let mut value: MetadataValue<Ascii> = format!("Bearer {secret}")
                    .parse()
                    .map_err(|_| format!("{url}: the secret is not plain ASCII"))?;
                value.set_sensitive(true);
                Ok::<_, String>(value)
            })
            .transpose()?;
        let lost = |error: tonic::transport::Error| Status::from_error(error.into());
        let carrier = BoxCloneSyncService::new(endpoint.connect_lazy().map_err(lost));
        Ok(Self::with_credentials(url.to_owned(), carrier, Credentials(secret)))
    }

    fn with_credentials(name: String, carrier: Carrier, credentials: Credentials) -> Self {
        let client = NodeServiceClient::with_interceptor(carrier, credentials)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self(Arc::new(Inner {
            name,
            client,
            peers: AtomicUsize::new(0),
            attached: AtomicBool::new(false),
            attachments: AtomicU64::new(0),
        }))
    }

    /// For logs; unique among the nodes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Is it the same node (not: an equal one)?
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Peers of this control plane that live there.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.0.peers.load(Ordering::Relaxed)
    }

    /// Its events are being watched.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.0.attached.load(Ordering::Acquire)
    }

    /// How often its link was lost and is there again.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.0.attachments.load(Ordering::Relaxed).saturating_sub(1)
    }

    pub(super) fn set_attached(&self, attached: bool) {
        if !self.0.attached.swap(attached, Ordering::AcqRel) && attached {
            self.0.attachments.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a peer for placement until the guard is dropped.
    pub(crate) fn count_peer(&self) -> PeerCount {
        self.0.peers.fetch_add(1, Ordering::Relaxed);
        PeerCount(self.clone())
    }

    /// Who the node is.
    pub async fn get_node(&self) -> Result<proto::GetNodeResponse, CallError> {
        let mut client = self.0.client.clone();
        within(client.get_node(proto::GetNodeRequest {})).await
    }

    /// Creates or changes a peer. Repeated where the outcome is unknown: an equal revision is answered again.
    pub async fn apply_peer(
        &self,
        request: &proto::ApplyPeerRequest,
    ) -> Result<proto::ApplyPeerResponse, CallError> {
        retry(|| {
            let (mut client, request) = (self.0.client.clone(), request.clone());
            async move { within(client.apply_peer(request)).await }
        })
        .await
    }

    /// What is known of a peer's media.
    pub async fn peer_report(
        &self,
        request: proto::GetPeerReportRequest,
    ) -> Result<proto::PeerReport, CallError> {
        let mut client = self.0.client.clone();
        within(client.get_peer_report(request)).await
    }

    /// Ends a peer.
    pub async fn remove_peer(&self, request: &proto::RemovePeerRequest) -> Result<(), CallError> {
        retry(|| {
            let (mut client, request) = (self.0.client.clone(), request.clone());
            async move { within(client.remove_peer(request)).await.map(drop) }
        })
        .await
    }

    /// Creates a room or replaces what the node keeps of it.
    pub async fn apply_room(&self, request: &proto::ApplyRoomRequest) -> Result<(), CallError> {
        retry(|| {
            let (mut client, request) = (self.0.client.clone(), request.clone());
            async move { within(client.apply_room(request)).await.map(drop) }
        })
        .await
    }

    /// Ends a room and all its peers.
    pub async fn remove_room(&self, request: &proto::RemoveRoomRequest) -> Result<(), CallError> {
        retry(|| {
            let (mut client, request) = (self.0.client.clone(), request.clone());
            async move { within(client.remove_room(request)).await.map(drop) }
        })
        .await
    }

    /// Sends one data packet, once: a repeated packet would be delivered twice.
    pub async fn send_data(&self, request: proto::SendDataRequest) -> Result<(), CallError> {
        let mut client = self.0.client.clone();
        within(client.send_data(request)).await.map(drop)
    }

    pub(super) async fn watch(&self) -> Result<tonic::Streaming<proto::Event>, CallError> {
        let mut client = self.0.client.clone();
        within(client.watch(proto::WatchRequest {})).await
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.0.name).finish()
    }
}

/// One peer counted on a node.
#[derive(Debug)]
pub(crate) struct PeerCount(Node);

impl Drop for PeerCount {
    fn drop(&mut self) {
        self.0.0.peers.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_WITHIN, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(CallError::Unavailable("no answer in time".to_owned())),
    }
}

async fn retry<T, F>(mut call: impl FnMut() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    for pause in RETRY_AFTER {
        match call().await {
            Err(CallError::Unavailable(_)) => tokio::time::sleep(pause).await,
            other => return other,
        }
    }
    call().await
}
