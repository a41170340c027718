//! DTLS as the client, once for each sink.
//!
//! Two libraries: `dimpl` offers all SRTP profiles in its own order, as a browser does; `rtc-dtls` can be told to offer
//! one, for the rows of the other ciphers.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use dimpl::{Dtls, DtlsCertificate, Output};
use rtc_dtls::{
    config::{ConfigBuilder, HandshakeConfig},
    crypto::Certificate,
    endpoint::{Endpoint, EndpointEvent},
    extension::extension_use_srtp::SrtpProtectionProfile,
};
use rtc_shared::TransportProtocol;

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
    One(Arc<HandshakeConfig>),
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
            Some(profile) => Self::offering(profile).map_err(|error| error.to_string()),
        }
    }

    fn offering_all() -> Result<Self, String> {
        let certificate = dimpl::certificate::generate_self_signed_certificate()
            .map_err(|error| format!("certificate: {error:?}"))?;
        let config = dimpl::Config::builder().build().map_err(|error| error.to_string())?;
        let fingerprint = certificate.fingerprint();
        Ok(Self { offer: Offer::All(Arc::new(config), Box::new(certificate)), fingerprint })
    }

    fn offering(profile: Profile) -> Result<Self, rtc_shared::error::Error> {
        let provider = rtc_dtls::crypto_provider::default_provider()
            .map_err(|error| rtc_shared::error::Error::Crypto(error.to_string()))?;
        let certificate =
            Certificate::generate_self_signed(vec!["sink".to_owned()], provider.crypto())?;
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            certificate.certificate.first().map_or(&[], AsRef::as_ref),
        );
        let offered = match profile {
            Profile::Gcm128 => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
            Profile::Gcm256 => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
            Profile::CmSha1 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
        };
        let config = ConfigBuilder::default()
            .with_crypto_provider(provider)
            .with_certificates(vec![certificate])
            .with_srtp_protection_profiles(vec![offered])
            // Sinks trust whoever answers: this is loopback.
            .with_insecure_skip_verify(true)
            .build(true, None)?;
        Ok(Self { offer: Offer::One(Arc::new(config)), fingerprint: digest.as_ref().to_vec() })
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
    One(Box<Endpoint>),
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handshake(redacted)")
    }
}

/// Any address: there is one association an endpoint.
fn node() -> SocketAddr {
    ([192, 0, 2, 1], 1).into()
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
            Offer::One(config) => {
                let any = ([0, 0, 0, 0], 0).into();
                let mut endpoint = Endpoint::new(any, TransportProtocol::UDP, None);
                endpoint
                    .connect(now, node(), Arc::clone(config), None)
                    .map_err(|error| error.to_string())?;
                Client::One(Box::new(endpoint))
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
            Client::One(endpoint) => {
                let events = endpoint
                    .read(now, node(), None, BytesMut::from(datagram))
                    .map_err(|error| error.to_string())?;
                if events.iter().any(|event| matches!(event, EndpointEvent::HandshakeComplete)) {
                    self.connected = true;
                    self.session = Some(session_of(endpoint)?);
                }
                Ok(())
            }
        }
    }

    /// Time passes: lost flights are sent again.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), String> {
        match &mut self.dtls {
            Client::All(dtls) => dtls.handle_timeout(now).map_err(|error| error.to_string()),
            Client::One(endpoint) => {
                endpoint.handle_timeout(node(), now).map_err(|error| error.to_string())
            }
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
            Client::One(endpoint) => {
                while let Some(datagram) = endpoint.poll_transmit() {
                    send(&datagram.message);
                }
            }
        }
        Ok(if self.connected { self.session.take() } else { None })
    }
}

/// Keys of what the node and the one client agreed on.
fn session_of(endpoint: &Endpoint) -> Result<Session, String> {
    let state = endpoint.get_connection_state(node()).ok_or("no association")?;
    let profile = match state.srtp_protection_profile() {
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => Profile::Gcm128,
        SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => Profile::Gcm256,
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => Profile::CmSha1,
        other => return Err(format!("SRTP profile {other:?}")),
    };
    let material = state
        .export_keying_material("EXTRACTOR-dtls_srtp", &[], profile.keying_len())
        .map_err(|error| error.to_string())?;
    Session::of_client(profile, material.as_ref()).map_err(|_| "SRTP keys".to_owned())
}
