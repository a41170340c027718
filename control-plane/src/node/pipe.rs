//! The node API over an in-memory pipe, for nodes that tests make.

use chappe_proto::node::v1::node_service_server::{NodeService, NodeServiceServer};
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};

/// Bytes in flight each way: a whole snapshot needs not fit.
const PIPE: usize = 256 * 1024;
/// Largest request: 1 MiB of owner state, and what stands around it.
const MAX_REQUEST: usize = 8 << 20;

/// Serves `service` in this process and returns the channel to it. Each reconnect makes a new pipe; the server ends
/// when the last clone of the channel is dropped.
pub(crate) fn channel_to<S: NodeService>(service: S) -> Channel {
    let (pipes, incoming) = mpsc::channel::<DuplexStream>(1);
    let service = NodeServiceServer::new(service)
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(usize::MAX);
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
    tokio::spawn(async move {
        let server = Server::builder().add_service(service).serve_with_incoming(incoming);
        if let Err(error) = server.await {
            tracing::error!(%error, "the node's API ended");
        }
    });
    let connector = tower::service_fn(move |_: Uri| {
        let pipes = pipes.clone();
        async move {
            let (near, far) = tokio::io::duplex(PIPE);
            let closed = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            pipes.send(far).await.map_err(closed)?;
            Ok::<_, std::io::Error>(TokioIo::new(near))
        }
    });
    Endpoint::from_static("http://node.embedded").connect_with_connector_lazy(connector)
}
