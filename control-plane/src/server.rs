//! One port for HTTP, WebSocket, Twirp and gRPC: plain (HTTP/1.1 and h2c) or TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

/// A client that does not finish its request head or TLS handshake is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What HTTP/2 begins with (RFC 9113 section 3.4); anything else is HTTP/1.1.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bounds memory under a flood of connections; each costs about 20 KiB before its request is read.
const MAX_CONNECTIONS: usize = 50_000;

/// Serves `app` until `stop`, then lets open connections finish for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    app: Router,
    stop: CancellationToken,
    drain: Duration,
) {
    let tls = tls.map(TlsAcceptor::from);
    let tasks = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let (stream, visitor, slot) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async { (slot.await, listener.accept().await) } => match accepted {
                (Ok(slot), Ok((stream, visitor))) => (stream, visitor, slot),
                (_, Err(error)) => {
                    // Out of file descriptors: accepting again at once would spin.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                (Err(_), _) => break,
            },
        };
        let (tls, app, stop) = (tls.clone(), app.clone(), stop.clone());
        tasks.spawn(async move {
            connection(stream, visitor, tls, app, stop).await;
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        warn!(open = tasks.len(), "connections were still open when the drain time ended");
    }
}

async fn connection(
    stream: TcpStream,
    visitor: SocketAddr,
    tls: Option<TlsAcceptor>,
    app: Router,
    stop: CancellationToken,
) {
    // Signalling is small messages that somebody waits for.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return begin(stream, visitor, app, stop, HANDSHAKE_TIMEOUT).await };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => begin(stream, visitor, app, stop, HANDSHAKE_TIMEOUT).await,
        Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
        Err(_) => debug!("TLS handshake took too long"),
    }
}

/// Waits for the bytes that tell HTTP/1.1 and HTTP/2 apart: hyper has no timer for them.
async fn begin<S>(
    mut stream: S,
    visitor: SocketAddr,
    app: Router,
    stop: CancellationToken,
    patience: Duration,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let head = tokio::select! {
        head = tokio::time::timeout(patience, version_bytes(&mut stream)) => head,
        () = stop.cancelled() => return,
    };
    match head {
        Ok(Ok(head)) if head.is_empty() => debug!("connection closed without a request"),
        Ok(Ok(head)) => http(Begun { head, taken: 0, stream }, visitor, app, stop).await,
        Ok(Err(error)) => debug!(%error, "connection ended before its request"),
        Err(_) => debug!("no request came"),
    }
}

/// The first bytes: as many as it takes to know the version of HTTP, or all where the peer sends no more.
async fn version_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HTTP2_PREFACE.len());
    while head.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&head) {
        let mut rest = (&mut *stream).take((HTTP2_PREFACE.len() - head.len()) as u64);
        if rest.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

/// A stream whose first bytes were read already.
struct Begun<S> {
    head: Vec<u8>,
    taken: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = this.head.get(this.taken..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, into);
        }
        let (now, _) = left.split_at(left.len().min(into.remaining()));
        into.put_slice(now);
        this.taken += now.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn http<S>(stream: S, visitor: SocketAddr, app: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(visitor));
        app.clone().oneshot(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(20));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// A certificate made for the given names and addresses, for development over https.
pub fn self_signed(names: Vec<String>) -> Result<rustls::ServerConfig, String> {
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    tls_config(vec![made.cert.der().clone()], key.into())
}

/// The certificate chain and key of two PEM files.
pub fn from_files(
    cert: &std::path::Path,
    key: &std::path::Path,
) -> Result<rustls::ServerConfig, String> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{}: {error}", cert.display()))?;
    if chain.is_empty() {
        return Err(format!("{}: expected at least one PEM certificate", cert.display()));
    }
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("{}: expected a PEM private key: {error}", key.display()))?;
    tls_config(chain, key)
}

fn tls_config(
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig, String> {
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// What comes back for these bytes, until the server closes.
    async fn answer(sent: &[u8], patience: Duration) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(4096);
        let app = Router::new().route("/", axum::routing::get(|| async { "here" }));
        let visitor = SocketAddr::from(([127, 0, 0, 1], 1));
        tokio::spawn(begin(server, visitor, app, CancellationToken::new(), patience));
        client.write_all(sent).await.expect("sent");
        let mut got = Vec::new();
        let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut got)).await;
        read.expect("the server closes").expect("read");
        got
    }

    #[tokio::test]
    async fn a_peer_that_never_says_which_http_it_speaks_is_cut_off() {
        for silent in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n"] {
            assert_eq!(answer(silent, Duration::from_millis(50)).await, b"", "{silent:?}");
        }
    }

    #[tokio::test]
    async fn the_first_bytes_are_not_lost() {
        let request = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
        let got = answer(request, PATIENCE).await;
        let got = String::from_utf8_lossy(&got);
        assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("here"), "{got}");
        // A method that begins like the preface.
        let got =
            answer(b"P / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n", PATIENCE).await;
        assert!(got.starts_with(b"HTTP/1.1 405"), "{}", String::from_utf8_lossy(&got));
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(HTTP2_PREFACE).await.expect("sent");
        client.write_all(b"frames").await.expect("sent");
        assert_eq!(version_bytes(&mut server).await.expect("read"), HTTP2_PREFACE);
    }
}
