//! DTLS as the client, once for each sink.

use std::{sync::Arc, time::Instant};

use dimpl::{Config, Dtls, DtlsCertificate, Output};

use crate::srtp::{Profile, Session};

/// One certificate and configuration for all clients.
#[derive(Clone)]
pub struct Identity {
    config: Arc<Config>,
    certificate: DtlsCertificate,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(redacted)")
    }
}

impl Identity {
    /// A fresh one.
    pub fn generate() -> Result<Self, String> {
        let certificate = dimpl::certificate::generate_self_signed_certificate()
            .map_err(|error| format!("certificate: {error:?}"))?;
        let config = Config::builder().build().map_err(|error| error.to_string())?;
        Ok(Self { config: Arc::new(config), certificate })
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Vec<u8> {
        self.certificate.fingerprint()
    }
}

/// A handshake under way.
pub struct Handshake {
    dtls: Dtls,
    session: Option<Session>,
    connected: bool,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handshake(redacted)")
    }
}

impl Handshake {
    /// Begins; [`Self::drain`] has the first flight.
    pub fn new(identity: &Identity, now: Instant) -> Result<Self, String> {
        let mut dtls =
            Dtls::new_12(Arc::clone(&identity.config), identity.certificate.clone(), now);
        dtls.set_active(true);
        dtls.handle_timeout(now).map_err(|error| error.to_string())?;
        Ok(Self { dtls, session: None, connected: false })
    }

    /// A datagram of the node.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), String> {
        self.dtls.handle_timeout(now).map_err(|error| error.to_string())?;
        self.dtls.handle_packet(datagram).map_err(|error| error.to_string())
    }

    /// Time passes: lost flights are sent again.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), String> {
        self.dtls.handle_timeout(now).map_err(|error| error.to_string())
    }

    /// Hands out what is to be sent; the session once the handshake is through.
    pub fn drain(&mut self, mut send: impl FnMut(&[u8])) -> Result<Option<Session>, String> {
        let mut buffer = [0; 2_048];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => send(packet),
                Output::KeyingMaterial(material, profile) => {
                    let session = Session::of_client(Profile::from(profile), &material);
                    self.session = Some(session.map_err(|_| "SRTP keys".to_owned())?);
                }
                Output::Connected => self.connected = true,
                Output::Timeout(_) => break,
                Output::BufferTooSmall { .. } => return Err("a datagram over 2,048 bytes".into()),
                _ => {}
            }
        }
        Ok(if self.connected { self.session.take() } else { None })
    }
}
