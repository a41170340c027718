//! The node API on TCP. It is never open to everybody: a shared secret, mutual TLS, or both.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use chappe_proto::node::v1::node_service_server::NodeServiceServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use super::service::NodeApi;
use crate::config::{ApiConfig, Secret, TlsFiles};

/// A control plane that vanished is noticed within 20 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Why the node API was not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Neither a secret nor mutual TLS.
    #[error("the node API needs a shared secret or mutual TLS")]
    Unprotected,
    /// The port.
    #[error("node API on port {port}: {error}")]
    Listen {
        /// Which one.
        port: u16,
        /// Why.
        error: io::Error,
    },
    /// A PEM file.
    #[error("{path}: {error}")]
    File {
        /// Which one.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Certificates that do not fit, or the transport failed.
    #[error("node API: {0}")]
    Transport(#[from] tonic::transport::Error),
}

pub(super) async fn serve(
    service: NodeServiceServer<NodeApi>,
    config: &ApiConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let mutual = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if config.secret.is_none() && !mutual {
        return Err(ServeError::Unprotected);
    }
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE));
    if let Some(files) = &config.tls {
        server = server.tls_config(tls(files)?)?;
    }
    let port = config.listen.port();
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| ServeError::Listen { port, error })?;
    let guarded = InterceptedService::new(service, Guard(config.secret.clone().map(Arc::new)));
    let incoming = TcpListenerStream::new(listener);
    server.add_service(guarded).serve_with_incoming_shutdown(incoming, shutdown).await?;
    Ok(())
}

fn tls(files: &TlsFiles) -> Result<ServerTlsConfig, ServeError> {
    let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
    let config = ServerTlsConfig::new().identity(identity);
    Ok(match &files.client_ca {
        Some(path) => config.client_ca_root(Certificate::from_pem(read(path)?)),
        None => config,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ServeError> {
    fs::read(path).map_err(|error| ServeError::File { path: path.display().to_string(), error })
}

/// Lets calls in that bring the secret.
#[derive(Clone, Debug)]
struct Guard(Option<Arc<Secret>>);

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(secret) = &self.0 else { return Ok(request) };
        let given = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let right = given.is_some_and(|given| {
            // How long the comparison takes does not tell how much was right.
            aws_lc_rs::constant_time::verify_slices_are_equal(given, secret.reveal().as_bytes())
                .is_ok()
        });
        if right {
            Ok(request)
        } else {
            Err(Status::unauthenticated("expected authorization: Bearer <node secret>"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_opens() {
        let mut guard = Guard(Some(Arc::new(Secret::new("0123456789abcdef"))));
        let mut call = |authorization: Option<&'static str>| {
            let mut request = Request::new(());
            if let Some(value) = authorization {
                request.metadata_mut().insert("authorization", value.parse().unwrap());
            }
            guard.call(request).is_ok()
        };
        assert!(call(Some("Bearer 0123456789abcdef")));
        for wrong in [
            None,
            Some("0123456789abcdef"),
            Some("Bearer 0123456789abcdeF"),
            Some("Bearer "),
            Some(""),
        ] {
            assert!(!call(wrong), "{wrong:?}");
        }
        assert!(Guard(None).call(Request::new(())).is_ok(), "mutual TLS has checked already");
    }
}
