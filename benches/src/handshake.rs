//! DTLS as the client, once for each sink.
//!
//! Two libraries: `dimpl` offers all SRTP profiles in its own order, as a browser does; `rtc-dtls` can be told to offer
//! one, for the rows of the other ciphers.

use std::{sync::Arc, time::Instant};

use dimpl::{Dtls, DtlsCertificate, Output};

#[cfg(any(test, feature = "ciphers"))]
#[path = "handshake_single.rs"]
mod single;

use crate::srtp::{Profile, Session};

/// One certificate and configuration for all clients.
#[derive(Clone)]
pub struct Identity {
    offer: Offer,
    fingerprint: Vec<u8>,
}

#[derive(Clone)]
enum Offer {
    All(Arc<dimpl::Config>, Box<DtlsCertificate>),
    #[cfg(any(test, feature = "ciphers"))]
    One(single::Offer),
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(redacted)")
    }
}

impl Identity {
    /// A fresh one that offers all profiles, or only this one.
    pub fn generate(only: Option<Profile>) -> Result<Self, String> {
        match only {
            None => Self::offering_all(),
            #[cfg(any(test, feature = "ciphers"))]
            Some(profile) => {
                let (offer, fingerprint) =
                    single::Offer::new(profile).map_err(|error| error.to_string())?;
                Ok(Self { offer: Offer::One(offer), fingerprint })
            }
            #[cfg(not(any(test, feature = "ciphers")))]
            Some(_) => Err("built without --features chappe-benches/ciphers".to_owned()),
        }
    }

    fn offering_all() -> Result<Self, String> {
        let certificate = dimpl::certificate::generate_self_signed_certificate()
            .map_err(|error| format!("certificate: {error:?}"))?;
        let config = dimpl::Config::builder().build().map_err(|error| error.to_string())?;
        let fingerprint = certificate.fingerprint();
        Ok(Self { offer: Offer::All(Arc::new(config), Box::new(certificate)), fingerprint })
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Vec<u8> {
        self.fingerprint.clone()
    }
}

/// A handshake under way.
pub struct Handshake {
    dtls: Client,
    session: Option<Session>,
    connected: bool,
}

enum Client {
    All(Box<Dtls>),
    #[cfg(any(test, feature = "ciphers"))]
    One(single::Client),
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handshake(redacted)")
    }
}

impl Handshake {
    /// Begins; [`Self::drain`] has the first flight.
    pub fn new(identity: &Identity, now: Instant) -> Result<Self, String> {
        let dtls = match &identity.offer {
            Offer::All(config, certificate) => {
                let mut dtls = Dtls::new_12(Arc::clone(config), (**certificate).clone(), now);
                dtls.set_active(true);
                dtls.handle_timeout(now).map_err(|error| error.to_string())?;
                Client::All(Box::new(dtls))
            }
            #[cfg(any(test, feature = "ciphers"))]
            Offer::One(offer) => {
                let client = single::Client::new(offer, now);
                Client::One(client.map_err(|error| error.to_string())?)
            }
        };
        Ok(Self { dtls, session: None, connected: false })
    }

    /// A datagram of the node.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), String> {
        match &mut self.dtls {
            Client::All(dtls) => {
                dtls.handle_timeout(now).map_err(|error| error.to_string())?;
                dtls.handle_packet(datagram).map_err(|error| error.to_string())
            }
            #[cfg(any(test, feature = "ciphers"))]
            Client::One(client) => {
                if let Some(session) = client.handle(now, datagram)? {
                    self.connected = true;
                    self.session = Some(session);
                }
                Ok(())
            }
        }
    }

    /// Time passes: lost flights are sent again.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), String> {
        match &mut self.dtls {
            Client::All(dtls) => dtls.handle_timeout(now).map_err(|error| error.to_string()),
            #[cfg(any(test, feature = "ciphers"))]
            Client::One(client) => client.handle_timeout(now),
        }
    }

    /// Hands out what is to be sent; the session once the handshake is through.
    pub fn drain(&mut self, mut send: impl FnMut(&[u8])) -> Result<Option<Session>, String> {
        match &mut self.dtls {
            Client::All(dtls) => {
                let mut buffer = [0; 2_048];
                loop {
                    match dtls.poll_output(&mut buffer) {
                        Output::Packet(packet) => send(packet),
                        Output::KeyingMaterial(material, profile) => {
                            let session = Session::of_client(Profile::from(profile), &material);
                            self.session = Some(session.map_err(|_| "SRTP keys".to_owned())?);
                        }
                        Output::Connected => self.connected = true,
                        Output::Timeout(_) => break,
                        Output::BufferTooSmall { .. } => {
                            return Err("a datagram over 2,048 bytes".into());
                        }
                        _ => {}
                    }
                }
            }
            #[cfg(any(test, feature = "ciphers"))]
            Client::One(client) => client.drain(send),
        }
        Ok(if self.connected { self.session.take() } else { None })
    }
}
