//! A client that offers one SRTP profile, made of `rtc-dtls`.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use rtc_dtls::{
    config::{ConfigBuilder, HandshakeConfig},
    crypto::Certificate,
    endpoint::{Endpoint, EndpointEvent},
    extension::extension_use_srtp::SrtpProtectionProfile,
};
use rtc_shared::{TransportProtocol, error::Error};

use crate::srtp::{Profile, Session};

/// One certificate and configuration for all clients.
#[derive(Clone)]
pub(super) struct Offer(Arc<HandshakeConfig>);

/// One association.
pub(super) struct Client(Box<Endpoint>);

/// Any address: there is one association an endpoint.
fn node() -> SocketAddr {
    ([192, 0, 2, 1], 1).into()
}

impl Offer {
    /// With the certificate's fingerprint.
    pub(super) fn new(profile: Profile) -> Result<(Self, Vec<u8>), Error> {
        let provider = rtc_dtls::crypto_provider::default_provider()
            .map_err(|error| Error::Crypto(error.to_string()))?;
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
        Ok((Self(Arc::new(config)), digest.as_ref().to_vec()))
    }
}

impl Client {
    pub(super) fn new(offer: &Offer, now: Instant) -> Result<Self, Error> {
        let any = ([0, 0, 0, 0], 0).into();
        let mut endpoint = Endpoint::new(any, TransportProtocol::UDP, None);
        endpoint.connect(now, node(), Arc::clone(&offer.0), None)?;
        Ok(Self(Box::new(endpoint)))
    }

    /// The session once the handshake is through.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        datagram: &[u8],
    ) -> Result<Option<Session>, String> {
        let events = self.0.read(now, node(), None, BytesMut::from(datagram));
        let events = events.map_err(|error| error.to_string())?;
        let complete = |event: &EndpointEvent| matches!(event, EndpointEvent::HandshakeComplete);
        if !events.iter().any(complete) {
            return Ok(None);
        }
        let state = self.0.get_connection_state(node()).ok_or("no association")?;
        let profile = match state.srtp_protection_profile() {
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => Profile::Gcm128,
            SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => Profile::Gcm256,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => Profile::CmSha1,
            other => return Err(format!("SRTP profile {other:?}")),
        };
        let material = state
            .export_keying_material("EXTRACTOR-dtls_srtp", &[], profile.keying_len())
            .map_err(|error| error.to_string())?;
        let session = Session::of_client(profile, material.as_ref());
        session.map(Some).map_err(|_| "SRTP keys".to_owned())
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), String> {
        self.0.handle_timeout(node(), now).map_err(|error| error.to_string())
    }

    pub(super) fn drain(&mut self, mut send: impl FnMut(&[u8])) {
        while let Some(datagram) = self.0.poll_transmit() {
            send(&datagram.message);
        }
    }
}
