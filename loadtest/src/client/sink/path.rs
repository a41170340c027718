//! A sink's way to the server: ICE by `is`, DTLS by `dimpl`, SRTP by `rtc-srtp`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use dimpl::{Dtls, DtlsCertificate, Output};
use is::{
    Candidate, IceAgent, IceAgentEvent, IceCreds, Protocol,
    stun::{StunMessage, StunPacket},
};
use rtc_srtp::{
    config::Config as SrtpConfig,
    context::Context as SrtpContext,
    crypto::{RTCCryptoProvider, providers::RingProvider},
    protection_profile::ProtectionProfile,
};

use super::sdp::{Credentials, Remote};
use crate::{
    client::link::{Arrival, Link},
    measure::Header,
    media::Stamp,
    scenario::Impairment,
};

/// What all sinks share: one certificate, one configuration.
static DTLS: LazyLock<Option<(Arc<dimpl::Config>, DtlsCertificate)>> = LazyLock::new(|| {
    let certificate = dimpl::certificate::generate_self_signed_certificate().ok()?;
    Some((Arc::new(dimpl::Config::builder().build().ok()?), certificate))
});

/// Keys of both directions.
pub(super) struct Keys {
    theirs: SrtpContext,
    ours: SrtpContext,
}

impl Keys {
    fn new(material: &[u8], profile: dimpl::SrtpProfile) -> Option<Self> {
        let profile = match profile {
            dimpl::SrtpProfile::AES128_CM_SHA1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            dimpl::SrtpProfile::AEAD_AES_128_GCM => ProtectionProfile::AeadAes128Gcm,
            dimpl::SrtpProfile::AEAD_AES_256_GCM => ProtectionProfile::AeadAes256Gcm,
            _ => return None,
        };
        let mut config = SrtpConfig { profile, ..SrtpConfig::default() };
        let length = config.keying_material_len();
        config.set_session_keys_from_keying_material(material.get(..length)?, true).ok()?;
        let provider = RingProvider::new();
        let context = |key: &[u8], salt: &[u8]| {
            SrtpContext::new(key, salt, profile, None, None, provider.crypto()).ok()
        };
        let keys = &config.keys;
        Some(Self {
            theirs: context(&keys.remote_master_key, &keys.remote_master_salt)?,
            ours: context(&keys.local_master_key, &keys.local_master_salt)?,
        })
    }

    /// The stamp in a packet.
    pub(super) fn stamp(&mut self, packet: &[u8]) -> Option<Stamp> {
        Stamp::at_end_of(&self.theirs.decrypt_rtp(packet).ok()?)
    }
}

enum Dtls1 {
    /// Until the keys are there. Boxed: afterwards its buffers are not needed.
    Handshake(Box<Dtls>, Instant),
    Done(Box<Keys>),
    Failed,
}

pub(super) struct Path {
    link: Link,
    ice: IceAgent,
    credentials: Credentials,
    dtls: Dtls1,
    /// Digest that the answer promised.
    fingerprint: String,
    verified: bool,
    started: bool,
    send_to: Option<SocketAddr>,
    ice_timeout: Instant,
}

impl Path {
    pub(super) fn new(
        local: IpAddr,
        impairment: Option<Impairment>,
        seed: u32,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let link = Link::bind(local, impairment, seed.into())?;
        let creds = IceCreds::new();
        let (ufrag, pwd) = (creds.ufrag.clone(), creds.pass.clone());
        let mut ice = IceAgent::new(creds);
        ice.set_controlling(true);
        ice.set_max_candidate_pairs(8);
        let candidate = Candidate::host(link.local, Protocol::Udp).map_err(io::Error::other)?;
        ice.add_local_candidate(candidate);
        let (config, certificate) =
            DTLS.as_ref().ok_or_else(|| io::Error::other("no certificate"))?;
        let credentials = Credentials { ufrag, pwd, fingerprint: certificate.fingerprint_str() };
        let mut dtls = Dtls::new_12(Arc::clone(config), certificate.clone(), now);
        dtls.set_active(true);
        Ok(Self {
            link,
            ice,
            credentials,
            dtls: Dtls1::Handshake(Box::new(dtls), now),
            fingerprint: String::new(),
            verified: false,
            started: false,
            send_to: None,
            ice_timeout: now,
        })
    }

    pub(super) fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// Takes the server's side. A second answer changes nothing of it.
    pub(super) fn set_remote(&mut self, remote: &Remote, now: Instant) {
        if self.fingerprint.is_empty() {
            remote.fingerprint.clone_into(&mut self.fingerprint);
            let creds = IceCreds { ufrag: remote.ufrag.clone(), pass: remote.pwd.clone() };
            self.ice.set_remote_credentials(creds);
            self.ice_timeout = now;
        }
        for candidate in &remote.candidates {
            self.add_candidate(candidate);
        }
    }

    /// A candidate of the server; others than this socket can reach are left out.
    pub(super) fn add_candidate(&mut self, text: &str) {
        if let Ok(candidate) = Candidate::from_sdp_string(text)
            && candidate.addr().is_ipv4() == self.link.local.is_ipv4()
            && candidate.proto() == Protocol::Udp
            && !self.ice.remote_candidates().any(|known| known.addr() == candidate.addr())
        {
            self.ice.add_remote_candidate(candidate);
        }
    }

    pub(super) fn connected(&self) -> bool {
        self.send_to.is_some() && matches!(self.dtls, Dtls1::Done(_))
    }

    pub(super) fn failed(&self) -> bool {
        matches!(self.dtls, Dtls1::Failed)
    }

    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.link.poll_readable(context).map(|_| ())
    }

    /// Reads the socket once; `media` gets RTP with the keys, if they are there. True when there may be more.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        mut media: impl FnMut(Option<&mut Keys>, &Arrival<'_>, Header),
    ) -> bool {
        let Self { link, ice, dtls, fingerprint, verified, .. } = self;
        let local = link.local;
        let mut answers = Vec::new();
        let mut only_media = true;
        let more = link.receive(now, |arrival| {
            only_media &= take(
                ice,
                dtls,
                (fingerprint, verified),
                local,
                now,
                &arrival,
                &mut answers,
                &mut media,
            );
        });
        for packet in answers {
            self.send(now, &packet);
        }
        // Media changes nothing of ICE and DTLS, of which each look would bring the state into the cache.
        if !only_media {
            self.pump(now);
        }
        more
    }

    /// The media path is up: the socket is looked at in the worker's rounds from now on. False when this network needs its
    /// exact moments.
    pub(super) fn look_in_rounds(&mut self, now: Instant) -> bool {
        self.link.look_in_rounds(now)
    }

    pub(super) fn end_look(&mut self, now: Instant) {
        self.link.end_look(now);
    }

    pub(super) fn is_looked_at(&self) -> bool {
        self.link.next_look().is_some()
    }

    /// Timers of the link, of ICE and of DTLS. `media` gets what a bad network has delayed until now.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        mut media: impl FnMut(Option<&mut Keys>, &Arrival<'_>, Header),
    ) {
        if now < self.timeout() {
            return;
        }
        let Self { link, ice, dtls, fingerprint, verified, .. } = self;
        let local = link.local;
        let mut answers = Vec::new();
        link.handle_timeout(now, |arrival| {
            let _ = take(
                ice,
                dtls,
                (fingerprint, verified),
                local,
                now,
                &arrival,
                &mut answers,
                &mut media,
            );
        });
        for packet in answers {
            self.send(now, &packet);
        }
        if now >= self.ice_timeout {
            self.ice.handle_timeout(now);
        }
        if let Dtls1::Handshake(dtls, at) = &mut self.dtls
            && self.started
            && now >= *at
            && dtls.handle_timeout(now).is_err()
        {
            self.dtls = Dtls1::Failed;
        }
        self.pump(now);
    }

    /// Sends what ICE and DTLS have to say.
    fn pump(&mut self, now: Instant) {
        while let Some(event) = self.ice.poll_event() {
            if let IceAgentEvent::NominatedSend { destination, .. } = event {
                self.send_to = Some(destination);
            }
        }
        while let Some(transmit) = self.ice.poll_transmit() {
            self.link.send(now, transmit.destination, &transmit.contents);
        }
        self.ice_timeout = self.ice.poll_timeout().unwrap_or(now + Duration::from_secs(1)).max(now);
        // Nothing before there is a path: a lost first flight costs a second.
        if self.send_to.is_some() {
            if !self.started {
                self.started = true;
                if let Dtls1::Handshake(dtls, _) = &mut self.dtls {
                    let _ = dtls.handle_timeout(now);
                }
            }
            let mut packets = Vec::new();
            drain(&mut self.dtls, (&self.fingerprint, &mut self.verified), &mut packets);
            for packet in packets {
                self.send(now, &packet);
            }
        }
        self.link.flush();
    }

    fn send(&mut self, now: Instant, packet: &[u8]) {
        if let Some(to) = self.send_to {
            self.link.send(now, to, packet);
        }
    }

    pub(super) fn send_rtcp(&mut self, now: Instant, compound: &[u8]) {
        if let Dtls1::Done(keys) = &mut self.dtls
            && let Ok(packet) = keys.ours.encrypt_rtcp(compound)
        {
            self.send(now, &packet);
            self.link.flush();
        }
    }

    pub(super) fn timeout(&self) -> Instant {
        let mut at = self.link.timeout().map_or(self.ice_timeout, |at| at.min(self.ice_timeout));
        if let Dtls1::Handshake(_, dtls) = &self.dtls
            && self.started
        {
            at = at.min(*dtls);
        }
        at
    }

    pub(super) fn take_impaired(&mut self) -> u64 {
        std::mem::take(&mut self.link.impaired)
    }
}

/// Deals with one datagram; true when it was media.
#[allow(clippy::too_many_arguments)] // The borrowed parts of one Path.
fn take(
    ice: &mut IceAgent,
    dtls: &mut Dtls1,
    trust: (&str, &mut bool),
    local: SocketAddr,
    now: Instant,
    arrival: &Arrival<'_>,
    answers: &mut Vec<Vec<u8>>,
    media: &mut impl FnMut(Option<&mut Keys>, &Arrival<'_>, Header),
) -> bool {
    match arrival.bytes.first() {
        Some(0..=3) => {
            if let Ok(message) = StunMessage::parse(arrival.bytes) {
                let packet = StunPacket {
                    proto: Protocol::Udp,
                    source: arrival.from,
                    destination: local,
                    message,
                };
                ice.handle_packet(now, packet);
            }
            false
        }
        Some(20..=63) => {
            if let Dtls1::Handshake(handshake, _) = dtls {
                let _ = handshake.handle_timeout(now);
                let _ = handshake.handle_packet(arrival.bytes);
                drain(dtls, trust, answers);
            }
            false
        }
        _ => {
            if let Some(header) = Header::parse(arrival.bytes) {
                let keys = match dtls {
                    Dtls1::Done(keys) => Some(&mut **keys),
                    _ => None,
                };
                media(keys, arrival, header);
            }
            true
        }
    }
}

/// Drains the handshake: datagrams to `packets`; ends it when certificate and keys are there.
fn drain(dtls: &mut Dtls1, trust: (&str, &mut bool), packets: &mut Vec<Vec<u8>>) {
    let Dtls1::Handshake(handshake, deadline) = dtls else { return };
    let mut buffer = vec![0; 2_048];
    let mut keys = None;
    loop {
        match handshake.poll_output(&mut buffer) {
            Output::Packet(packet) => packets.push(packet.to_vec()),
            Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
            Output::PeerCert(der) => {
                let digest = dimpl::certificate::calculate_fingerprint(der);
                *trust.1 = dimpl::certificate::format_fingerprint(&digest) == trust.0;
            }
            Output::KeyingMaterial(material, profile) => keys = Some(Keys::new(&material, profile)),
            Output::Timeout(at) => {
                *deadline = at;
                break;
            }
            _ => {}
        }
    }
    match keys {
        Some(Some(keys)) if *trust.1 => *dtls = Dtls1::Done(Box::new(keys)),
        Some(_) => *dtls = Dtls1::Failed,
        None => {}
    }
}
