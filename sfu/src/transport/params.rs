//! What both sides of a transport tell each other through signalling, and what all transports of a process share.

use std::{fmt, sync::Arc, time::Duration};

use dimpl::DtlsCertificate;

use super::signing;

/// ICE user fragment and password (RFC 8445 section 5.3). The Debug form shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// 4 to 256 ice-chars.
    pub ufrag: String,
    /// 22 to 256 ice-chars.
    pub pwd: String,
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IceCredentials(redacted)")
    }
}

/// This node's DTLS role (RFC 8842).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DtlsRole {
    /// The node is the DTLS client (`a=setup:active`).
    Active,
    /// The node is the DTLS server (`a=setup:passive`).
    Passive,
}

/// Digest of a certificate (RFC 8122).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// Hash function as in SDP, any case: `sha-256`, `sha-384` or `sha-512`.
    pub algorithm: String,
    /// The raw digest.
    pub digest: Vec<u8>,
}

/// The peer's side of the SCTP association (RFC 8841).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SctpParams {
    /// SCTP port of the peer, usually 5000.
    pub remote_port: u16,
    /// Largest message the peer takes, bytes; 0 is no limit of its own.
    pub remote_max_message_size: u32,
}

/// The peer's side of the transport, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TransportParams {
    /// The peer's ICE credentials.
    pub remote_ice: Option<IceCredentials>,
    /// Raised by one to restart ICE: the owner then makes new local credentials and calls
    /// [`Transport::restart_ice`](super::Transport::restart_ice).
    pub ice_generation: u32,
    /// This node's DTLS role.
    pub dtls_role: Option<DtlsRole>,
    /// The peer's certificate must match one of these before DTLS counts as connected.
    pub remote_fingerprints: Vec<Fingerprint>,
    /// Absent: no SCTP association.
    pub sctp: Option<SctpParams>,
    /// Only ICE-TCP paths are answered and used.
    pub force_tcp: bool,
}

/// DTLS versions that are offered and accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DtlsVersions {
    /// 1.2 only: the server's profile order counts, so browsers end on AES-GCM. The default until a 1.3 handshake can
    /// prefer GCM (with 1.3 Chromium ends on AES_CM_128_HMAC_SHA1_80, four to five times dearer per packet).
    #[default]
    Dtls12,
    /// 1.3 only.
    Dtls13,
    /// 1.3 where the peer has it, else 1.2.
    Auto,
}

/// What all transports of a process share: certificate and DTLS configuration. Cheap to clone.
#[derive(Clone)]
pub struct TransportContext {
    pub(super) certificate: Arc<DtlsCertificate>,
    pub(super) dtls: Arc<dimpl::Config>,
    pub(super) versions: DtlsVersions,
    fingerprint: Fingerprint,
}

/// The process has no usable certificate or DTLS configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContextError {
    /// No self-signed certificate could be made.
    #[error("cannot make a self-signed certificate")]
    Certificate,
    /// The DTLS library refused its configuration.
    #[error("DTLS configuration: {0}")]
    Dtls(String),
}

impl TransportContext {
    /// Makes a self-signed P-256 certificate and the DTLS configuration. Draws randomness and reads the clock, once per
    /// process: called by the runtime.
    pub fn generate(versions: DtlsVersions) -> Result<Self, ContextError> {
        let certificate = dimpl::certificate::generate_self_signed_certificate()
            .map_err(|_| ContextError::Certificate)?;
        // No server cookie: DTLS is taken only from a five-tuple that passed an ICE check, so a spoofed ClientHello never
        // gets an answer and there is nothing to amplify; the cookie would cost every join a round trip.
        // Retries: 250 ms doubling 6 times spans 30 s of a lossy join; the library's first retry after 1 s is felt by users.
        let dtls = dimpl::Config::builder()
            .mtu(MAX_DATAGRAM)
            .use_server_cookie(false)
            .flight_start_rto(Duration::from_millis(250))
            .flight_retries(6)
            .handshake_timeout(Duration::from_secs(30))
            .with_crypto_provider(signing::provider())
            .build()
            .map_err(|error| ContextError::Dtls(error.to_string()))?;
        let fingerprint =
            Fingerprint { algorithm: "sha-256".to_owned(), digest: certificate.fingerprint() };
        Ok(Self { certificate: Arc::new(certificate), dtls: Arc::new(dtls), versions, fingerprint })
    }

    /// SHA-256 fingerprint of the process's certificate.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

impl fmt::Debug for TransportContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportContext").field("versions", &self.versions).finish_non_exhaustive()
    }
}

/// Largest UDP payload we make for DTLS, bytes: passes every path with the IPv6 minimum MTU of 1,280.
pub(super) const MAX_DATAGRAM: usize = 1_200;
