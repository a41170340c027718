//! One peer's network path, sans-IO: ICE-lite, DTLS, SRTP, SCTP with data channels. Owned by `peer`; knows no media.
//!
//! - [`ice`](self) is ours, of RFC 8445 lite; why not the agent of crate `is` stands in that module.
//! - DTLS is `dimpl`, SCTP is `sctp-proto`, both sans-IO; SRTP and DCEP are ours.
//!
//! **Drain rule.** After any call that takes `now`, call [`Transport::poll_transmit`] until `None`, then
//! [`Transport::poll_event`] until `None`; only then is [`Transport::poll_timeout`] meaningful. STUN answers leave on the
//! five-tuple they came by, everything else on [`Transport::egress_path`].
//!
//! DTLS and SRTP are accepted only from a five-tuple that passed a check ([`Transport::accepts`]). That is also why DTLS does
//! without a cookie: a spoofed ClientHello has no such five-tuple and gets no answer, so nothing can be amplified.

mod channel;
mod dtls;
mod event;
mod ice;
mod params;
mod path;
mod record_cipher;
#[cfg(test)]
mod rtc_tests;
mod sctp;
mod signing;
mod srtp;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

#[cfg(any(test, fuzzing))]
pub use ice::fuzz_check;
#[cfg(fuzzing)]
pub use sctp::fuzz_dcep;

pub use channel::{ChannelError, ChannelOptions, SendError};
pub use event::{ChannelId, DropReason, FailReason, TransportEvent};
pub use params::{
    ContextError, DtlsRole, DtlsVersions, Fingerprint, IceCredentials, SctpParams,
    TransportContext, TransportParams,
};
pub use path::{FiveTuple, Protocol};
pub use sctp::MAX_MESSAGE_SIZE;
pub use srtp::{SrtpEgress, SrtpError, SrtpIngress, SrtpKeys, SrtpProfile};

use crate::prefetch::prefetch;

use self::{
    dtls::{DtlsEndpoint, DtlsEvent},
    ice::{IceEvent, IceLite},
    sctp::{Sctp, SctpEvent},
};

/// SCTP packets kept until the association can begin: an INIT and its first repetitions.
const MAX_EARLY_DATA: usize = 4;

/// One peer's network path. In this order: what each packet looks at comes first.
#[derive(Debug)]
#[repr(C)]
pub struct Transport {
    srtp: Option<Box<(SrtpEgress, SrtpIngress)>>,
    state: State,
    ice: IceLite,
    /// Boxed: 3.4 KiB that a packet passes by.
    dtls: Box<DtlsEndpoint>,
    sctp: Option<Box<Sctp>>,
    sctp_params: Option<SctpParams>,
    /// SCTP packets that came before the association could begin.
    early_data: Vec<Bytes>,
    /// STUN answers, each for the five-tuple it came by.
    answers: VecDeque<(FiveTuple, ice::Response)>,
    /// DTLS records for the egress path.
    records: VecDeque<Vec<u8>>,
    events: VecDeque<TransportEvent>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Live,
    /// A goodbye may still be in the queue.
    Ended,
}

impl Transport {
    /// A transport that waits for checks addressed to `local`.
    pub fn new(context: &TransportContext, local: &IceCredentials, now: Instant) -> Self {
        Self {
            ice: IceLite::new(local, now),
            dtls: Box::new(DtlsEndpoint::new(context.clone())),
            srtp: None,
            sctp: None,
            sctp_params: None,
            early_data: Vec::new(),
            state: State::Live,
            // Drained after each message.
            answers: VecDeque::with_capacity(1),
            records: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes the peer's side of the transport, as far as it is known; to be called again whenever more is.
    pub fn set_remote(&mut self, now: Instant, params: &TransportParams) {
        if let Some(remote) = &params.remote_ice {
            self.ice.set_remote(remote);
        }
        self.ice.set_only_tcp(params.force_tcp);
        self.dtls.set_remote(params.dtls_role, &params.remote_fingerprints);
        if let Some(sctp) = params.sctp {
            self.sctp_params = Some(sctp);
            if let Some(association) = &mut self.sctp {
                association.set_remote(sctp);
            }
        }
        self.drive(now);
    }

    /// ICE restart: checks for `local` are answered from now on, and those for the old credentials until these have a path
    /// ([`TransportEvent::UfragRetired`]).
    pub fn restart_ice(&mut self, local: &IceCredentials) {
        let mut events = Vec::new();
        self.ice.restart(local, &mut events);
        self.take_ice_events(events);
    }

    /// Whether a check for this local ufrag is for this transport.
    pub fn answers_to(&self, ufrag: &str) -> bool {
        self.ice.answers_to(ufrag)
    }

    /// Whether packets from `path` belong to this peer.
    pub fn accepts(&self, path: &FiveTuple) -> bool {
        self.ice.accepts(path)
    }

    /// Where media leaves. Absent before the first check.
    pub fn egress_path(&self) -> Option<FiveTuple> {
        self.ice.egress_path()
    }

    /// Whether SRTP has its keys.
    pub fn is_connected(&self) -> bool {
        self.srtp.is_some() && self.state == State::Live
    }

    /// A STUN message from any address.
    pub fn handle_stun(
        &mut self,
        now: Instant,
        path: FiveTuple,
        message: &[u8],
    ) -> Result<(), DropReason> {
        if self.state == State::Ended {
            return Err(DropReason::Closed);
        }
        let mut events = Vec::new();
        let answer = self.ice.handle(now, path, message, &mut events)?;
        self.answers.push_back((path, answer));
        self.take_ice_events(events);
        self.drive(now);
        Ok(())
    }

    /// A DTLS datagram; refused unless its five-tuple passed a check.
    pub fn handle_dtls(
        &mut self,
        now: Instant,
        path: FiveTuple,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        if self.state == State::Ended {
            return Err(DropReason::Closed);
        }
        if !self.ice.accepts(&path) {
            return Err(DropReason::NotValidated);
        }
        let outcome = self.dtls.handle(now, packet);
        self.drive(now);
        outcome
    }

    /// Opens an RTP packet in place and returns its plain length; see [`SrtpIngress::unprotect_rtp`].
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        self.srtp_ingress().ok_or(SrtpError::NoKeys)?.unprotect_rtp(packet)
    }

    /// Opens an RTCP compound in place and returns its plain length; see [`SrtpIngress::unprotect_rtcp`].
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        self.srtp_ingress().ok_or(SrtpError::NoKeys)?.unprotect_rtcp(packet)
    }

    /// What seals packets to this peer, once connected. Borrow it once and seal many.
    pub fn srtp_egress(&mut self) -> Option<&mut SrtpEgress> {
        self.srtp.as_deref_mut().map(|(egress, _)| egress)
    }

    /// What the turn of this peer needs; see [`crate::prefetch`].
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.srtp);
        prefetch(&self.state);
        self.ice.prefetch();
    }

    /// What that points to, once it is here.
    #[inline(always)]
    pub(crate) fn prefetch_pointees(&self) {
        if let Some(srtp) = &self.srtp {
            srtp.0.prefetch();
        }
    }

    /// What sealing RTCP needs, once that is here.
    #[inline(always)]
    pub(crate) fn prefetch_rtcp_egress(&self) {
        if let Some(srtp) = &self.srtp {
            srtp.0.prefetch_rtcp();
        }
    }

    /// What opening its RTCP needs, step by step; each step needs what the one before asked for.
    #[inline(always)]
    pub(crate) fn prefetch_rtcp(&self, step: usize) {
        match (step, self.srtp.as_deref()) {
            (0, _) => prefetch(&self.srtp),
            (1, Some((_, ingress))) => ingress.prefetch_rtcp(),
            (_, Some((_, ingress))) => ingress.prefetch_rtcp_pointees(),
            _ => {}
        }
    }

    /// What opens packets of this peer, once connected.
    pub fn srtp_ingress(&mut self) -> Option<&mut SrtpIngress> {
        self.srtp.as_deref_mut().map(|(_, ingress)| ingress)
    }

    /// Timers that are due: retransmissions, consent.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::Ended {
            return;
        }
        let mut events = Vec::new();
        let alive = self.ice.handle_timeout(now, &mut events);
        self.take_ice_events(events);
        if !alive {
            self.fail(FailReason::ConsentLost);
            return;
        }
        if let Err(reason) = self.dtls.handle_timeout(now) {
            self.fail(reason);
            return;
        }
        if let Some(sctp) = &mut self.sctp {
            sctp.handle_timeout(now);
        }
        self.drive(now);
    }

    /// When [`Self::handle_timeout`] is due next. `None` once failed or closed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.state == State::Ended {
            return None;
        }
        let sctp = self.sctp.as_ref().and_then(|sctp| sctp.poll_timeout());
        [Some(self.ice.poll_timeout()), self.dtls.poll_timeout(), sctp].into_iter().flatten().min()
    }

    /// The next datagram: fills `out` and returns where it goes.
    #[must_use]
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<FiveTuple> {
        out.clear();
        if let Some((path, answer)) = self.answers.pop_front() {
            out.extend_from_slice(&answer);
            return Some(path);
        }
        let path = self.ice.egress_path()?;
        let record = self.records.pop_front()?;
        out.extend_from_slice(&record);
        Some(path)
    }

    /// The next thing that happened.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<TransportEvent> {
        let event = self.events.pop_front();
        if event.is_none() {
            // Some come at once while it connects, one at a time from then on.
            self.events.shrink_to(1);
        }
        event
    }

    /// Opens a data channel to the peer; allowed once connected. [`TransportEvent::ChannelOpen`] follows.
    pub fn open_channel(
        &mut self,
        now: Instant,
        options: ChannelOptions,
    ) -> Result<ChannelId, ChannelError> {
        let sctp = self.sctp.as_mut().ok_or(ChannelError::NoAssociation)?;
        let channel = sctp.open(options)?;
        self.drive(now);
        Ok(channel)
    }

    /// Closes a data channel. What was sent on it before is delivered first.
    pub fn close_channel(&mut self, now: Instant, channel: ChannelId) {
        if let Some(sctp) = &mut self.sctp {
            sctp.close_channel(channel);
            self.drive(now);
        }
    }

    /// Sends one message. The caller watches [`Self::buffered`]; what SCTP holds is never dropped on a reliable channel.
    pub fn send(
        &mut self,
        now: Instant,
        channel: ChannelId,
        binary: bool,
        message: &[u8],
    ) -> Result<(), SendError> {
        let sctp = self.sctp.as_mut().ok_or(SendError::NotOpen)?;
        sctp.send(channel, binary, message)?;
        self.drive(now);
        Ok(())
    }

    /// Bytes sent on the channel that the peer has not acknowledged yet.
    pub fn buffered(&mut self, channel: ChannelId) -> usize {
        self.sctp.as_mut().map_or(0, |sctp| sctp.buffered(channel))
    }

    /// Says goodbye: poll the datagrams once more, then drop the transport. [`TransportEvent::Closed`] is for the peer's
    /// goodbye only.
    pub fn close(&mut self, now: Instant) {
        if self.state == State::Ended {
            return;
        }
        if let Some(sctp) = &mut self.sctp {
            sctp.close();
        }
        self.drive(now);
        self.dtls.close();
        self.dtls.drain(&mut self.records, &mut Vec::new());
        self.state = State::Ended;
    }

    /// The description names an association: channels will open.
    pub fn expects_data(&self) -> bool {
        self.sctp_params.is_some()
    }

    /// For the fuzzer and tests: as if DTLS had agreed on these keys, the same in both directions.
    #[cfg(any(test, fuzzing))]
    pub fn fuzz_connect(&mut self, keys: &SrtpKeys) {
        let (Ok(egress), Ok(ingress)) = (SrtpEgress::new(keys), SrtpIngress::new(keys)) else {
            return;
        };
        let profile = egress.profile();
        self.srtp = Some(Box::new((egress, ingress)));
        self.events.push_back(TransportEvent::Connected { profile });
    }

    fn take_ice_events(&mut self, events: Vec<IceEvent>) {
        self.events.extend(events.into_iter().map(|event| match event {
            IceEvent::Added(path) => TransportEvent::PathAdded(path),
            IceEvent::Removed(path) => TransportEvent::PathRemoved(path),
            IceEvent::Selected(path) => TransportEvent::PathSelected(path),
            IceEvent::Retired(ufrag) => TransportEvent::UfragRetired(ufrag),
        }));
    }

    /// Moves what DTLS and SCTP have for each other until both are quiet.
    fn drive(&mut self, now: Instant) {
        if self.state == State::Ended || self.ice.egress_path().is_none() {
            return;
        }
        self.dtls.start_if_client(now);
        let mut events = Vec::new();
        loop {
            self.dtls.drain(&mut self.records, &mut events);
            for event in events.drain(..) {
                self.handle_dtls_event(now, event);
            }
            let progress = self.drive_sctp(now);
            if !progress || self.state == State::Ended {
                return;
            }
        }
    }

    fn handle_dtls_event(&mut self, now: Instant, event: DtlsEvent) {
        if self.state == State::Ended {
            return;
        }
        match event {
            DtlsEvent::Connected { ours, theirs } => {
                let (Ok(egress), Ok(ingress)) = (SrtpEgress::new(&ours), SrtpIngress::new(&theirs))
                else {
                    return self.fail(FailReason::NoSrtpProfile);
                };
                let profile = egress.profile();
                self.srtp = Some(Box::new((egress, ingress)));
                self.events.push_back(TransportEvent::Connected { profile });
            }
            DtlsEvent::Data(packet) => {
                self.start_sctp(now);
                if let Some(sctp) = &mut self.sctp {
                    sctp.handle(now, packet);
                } else if self.early_data.len() < MAX_EARLY_DATA {
                    self.early_data.push(packet);
                }
            }
            DtlsEvent::CloseNotify => {
                self.state = State::Ended;
                self.events.push_back(TransportEvent::Closed);
            }
            DtlsEvent::Failed(reason) => self.fail(reason),
        }
    }

    /// Begins the association once DTLS is complete and the description names one. The client's INIT may have come
    /// earlier: it repeats a lost one only after a second, in which data to it would go nowhere.
    fn start_sctp(&mut self, now: Instant) {
        if self.sctp.is_none()
            && self.dtls.is_connected()
            && let Some(params) = self.sctp_params
        {
            let mut sctp = Box::new(Sctp::new(now, self.dtls.is_client(), params));
            for packet in self.early_data.drain(..) {
                sctp.handle(now, packet);
            }
            self.sctp = Some(sctp);
        }
    }

    /// Whether anything was given to DTLS.
    fn drive_sctp(&mut self, now: Instant) -> bool {
        self.start_sctp(now);
        let Some(sctp) = &mut self.sctp else {
            return false;
        };
        sctp.drive(now);
        while let Some(event) = sctp.poll_event() {
            self.events.push_back(match event {
                SctpEvent::Open { channel, label, ordered, by_peer } => {
                    TransportEvent::ChannelOpen { channel, label, ordered, by_peer }
                }
                SctpEvent::Closed(channel) => TransportEvent::ChannelClosed(channel),
                SctpEvent::Message { channel, binary, bytes } => {
                    TransportEvent::Message { channel, binary, bytes }
                }
                SctpEvent::Lost => TransportEvent::DataLost,
            });
        }
        let mut sent = false;
        let mut events = Vec::new();
        while let Some(packet) = sctp.poll_transmit(now) {
            sent = true;
            self.dtls.send(now, &packet);
            // After each: the library's own queue holds ten records.
            self.dtls.drain(&mut self.records, &mut events);
        }
        for event in events {
            self.handle_dtls_event(now, event);
        }
        sent
    }

    fn fail(&mut self, reason: FailReason) {
        self.state = State::Ended;
        self.events.push_back(TransportEvent::Failed(reason));
    }
}
