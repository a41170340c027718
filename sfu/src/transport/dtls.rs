//! DTLS of one transport: drives `dimpl`, checks the peer's certificate, hands out SRTP keys.
//!
//! Errors of single packets are counted and forgotten: anybody who can forge a source address could send one. A handshake
//! fails by its own deadline, by a certificate that matches no fingerprint, or when no SRTP profile was agreed on.

use std::{collections::VecDeque, time::Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use dimpl::{Dtls, DtlsCertificate, Output};

use super::{
    DropReason, DtlsRole, DtlsVersions, FailReason, Fingerprint, SrtpKeys, SrtpProfile,
    TransportContext, params::MAX_DATAGRAM,
};

/// Something DTLS produced.
#[derive(Debug)]
pub(super) enum DtlsEvent {
    /// Certificate and keys are as they should be: ours to seal with, theirs to open with.
    Connected {
        ours: SrtpKeys,
        theirs: SrtpKeys,
    },
    /// An SCTP packet.
    Data(Bytes),
    CloseNotify,
    Failed(FailReason),
}

/// DTLS endpoint whose role is settled by signalling or by the peer's ClientHello, whichever is first.
#[derive(Debug)]
pub(super) struct DtlsEndpoint {
    context: TransportContext,
    role: Option<DtlsRole>,
    dtls: Option<Dtls>,
    fingerprints: Vec<Fingerprint>,
    /// DER of the peer's certificate.
    certificate: Option<Vec<u8>>,
    keys: Option<(SrtpKeys, SrtpKeys)>,
    handshake_done: bool,
    state: State,
    deadline: Option<Instant>,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Handshake,
    Connected,
    Ended,
}

impl DtlsEndpoint {
    pub(super) fn new(context: TransportContext) -> Self {
        Self {
            context,
            role: None,
            dtls: None,
            fingerprints: Vec::new(),
            certificate: None,
            keys: None,
            handshake_done: false,
            state: State::Handshake,
            deadline: None,
            buffer: Vec::new(),
        }
    }

    /// Takes role and fingerprints from the peer's description. The role of a handshake that has begun stays.
    pub(super) fn set_remote(&mut self, role: Option<DtlsRole>, fingerprints: &[Fingerprint]) {
        if self.dtls.is_none() && role.is_some() {
            self.role = role;
        }
        if self.state == State::Handshake {
            self.fingerprints = fingerprints.to_vec();
        }
    }

    /// Whether we are the DTLS client.
    pub(super) fn is_client(&self) -> bool {
        self.role == Some(DtlsRole::Active)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Begins a handshake as the client, once there is a path: a lost first flight costs a retry.
    pub(super) fn start_if_client(&mut self, now: Instant) {
        if self.role == Some(DtlsRole::Active) && self.state == State::Handshake {
            self.endpoint(now, true);
        }
    }

    /// One datagram.
    pub(super) fn handle(&mut self, now: Instant, packet: &[u8]) -> Result<(), DropReason> {
        if self.state == State::Ended {
            return Err(DropReason::Closed);
        }
        // Without a role from signalling, whoever greets us is the client.
        let client = self.role == Some(DtlsRole::Active);
        let dtls = self.endpoint(now, client);
        // Packets are judged by the logical clock; a failed timer shows at the next `handle_timeout`.
        let _ = dtls.handle_timeout(now);
        dtls.handle_packet(packet).map_err(|_| DropReason::Dtls)
    }

    /// Retransmissions and deadlines.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), FailReason> {
        let Some(dtls) = &mut self.dtls else {
            return Ok(());
        };
        if self.deadline.is_some_and(|deadline| now < deadline) || self.state == State::Ended {
            return Ok(());
        }
        self.deadline = None;
        match dtls.handle_timeout(now) {
            Err(_) if self.state == State::Handshake => {
                self.state = State::Ended;
                Err(FailReason::Dtls)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.state != State::Ended)
    }

    /// Sends one SCTP packet.
    pub(super) fn send(&mut self, now: Instant, data: &[u8]) {
        if self.state != State::Connected {
            return;
        }
        if let Some(dtls) = &mut self.dtls {
            let _ = dtls.handle_timeout(now);
            // A full queue drops the packet; SCTP sends it again.
            let _ = dtls.send_application_data(data);
        }
    }

    /// Says goodbye. Packets remain to be polled once more.
    pub(super) fn close(&mut self) {
        if let Some(dtls) = &mut self.dtls {
            let _ = dtls.close();
        }
    }

    /// Drains the endpoint: datagrams to `packets`, what happened to `events`.
    pub(super) fn drain(&mut self, packets: &mut VecDeque<Vec<u8>>, events: &mut Vec<DtlsEvent>) {
        let Some(dtls) = &mut self.dtls else {
            return;
        };
        if self.state == State::Handshake && self.buffer.is_empty() {
            self.buffer.resize(OUTPUT_BUFFER, 0);
        }
        loop {
            match dtls.poll_output(&mut self.buffer) {
                Output::Packet(packet) => packets.push_back(packet.to_vec()),
                Output::Timeout(at) => {
                    self.deadline = Some(at);
                    break;
                }
                Output::BufferTooSmall { needed } if needed <= MAX_OUTPUT => {
                    self.buffer.resize(needed, 0);
                }
                Output::PeerCert(der) => self.certificate = Some(der.to_vec()),
                Output::KeyingMaterial(material, profile) => {
                    let keys = profile_of(profile)
                        .and_then(|profile| SrtpKeys::from_dtls(profile, &material).ok());
                    self.keys = keys.map(|(client, server)| match self.role {
                        Some(DtlsRole::Active) => (client, server),
                        _ => (server, client),
                    });
                }
                Output::Connected => self.handshake_done = true,
                Output::ApplicationData(data) if self.state == State::Connected => {
                    events.push(DtlsEvent::Data(Bytes::copy_from_slice(data)));
                }
                Output::CloseNotify => events.push(DtlsEvent::CloseNotify),
                // Data before the certificate was checked, or an output of a later version of the library.
                Output::ApplicationData(_) => {}
                _ => break,
            }
        }
        self.conclude(events);
    }

    /// Ends the handshake once DTLS is through with it and the fingerprints are known.
    fn conclude(&mut self, events: &mut Vec<DtlsEvent>) {
        if self.state != State::Handshake || !self.handshake_done || self.fingerprints.is_empty() {
            return;
        }
        let matches = self.certificate.as_ref().is_some_and(|der| {
            self.fingerprints.iter().any(|fingerprint| matches(fingerprint, der))
        });
        let outcome = match self.keys.take() {
            _ if !matches => DtlsEvent::Failed(FailReason::Fingerprint),
            None => DtlsEvent::Failed(FailReason::NoSrtpProfile),
            Some((ours, theirs)) => DtlsEvent::Connected { ours, theirs },
        };
        self.state = match outcome {
            DtlsEvent::Connected { .. } => State::Connected,
            _ => State::Ended,
        };
        // Certificate and room for flights have done their work; a peer lives for hours. Data channels ask for what they need.
        self.certificate = None;
        self.buffer = Vec::new();
        events.push(outcome);
    }

    fn endpoint(&mut self, now: Instant, client: bool) -> &mut Dtls {
        let Self { context, dtls, role, .. } = self;
        dtls.get_or_insert_with(|| {
            role.get_or_insert(DtlsRole::Passive);
            let config = context.dtls.clone();
            let certificate = DtlsCertificate::clone(&context.certificate);
            let mut dtls = match context.versions {
                DtlsVersions::Dtls12 => Dtls::new_12(config, certificate, now),
                DtlsVersions::Dtls13 => Dtls::new_13(config, certificate, now),
                DtlsVersions::Auto => Dtls::new_auto(config, certificate, now),
            };
            dtls.set_active(client);
            // Sets the clock, without which a client has no first flight.
            let _ = dtls.handle_timeout(now);
            dtls
        })
    }
}

/// Largest record of DTLS and then some; handshake flights are cut to [`MAX_DATAGRAM`].
const OUTPUT_BUFFER: usize = MAX_DATAGRAM + 800;
const MAX_OUTPUT: usize = 1 << 16;

fn profile_of(profile: dimpl::SrtpProfile) -> Option<SrtpProfile> {
    match profile {
        dimpl::SrtpProfile::AEAD_AES_128_GCM => Some(SrtpProfile::AeadAes128Gcm),
        dimpl::SrtpProfile::AEAD_AES_256_GCM => Some(SrtpProfile::AeadAes256Gcm),
        dimpl::SrtpProfile::AES128_CM_SHA1_80 => Some(SrtpProfile::AesCm128HmacSha1_80),
        _ => None,
    }
}

fn matches(fingerprint: &Fingerprint, der: &[u8]) -> bool {
    let algorithm = match fingerprint.algorithm.to_ascii_lowercase().as_str() {
        "sha-256" => &digest::SHA256,
        "sha-384" => &digest::SHA384,
        "sha-512" => &digest::SHA512,
        // SHA-1 and older prove nothing any more.
        _ => return false,
    };
    digest::digest(algorithm, der).as_ref() == fingerprint.digest
}
