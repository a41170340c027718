//! One client of the room: its handshake, its streams, its reports.

use std::{net::Ipv4Addr, net::SocketAddr, sync::Arc, time::Instant};

use aws_lc_rs::hmac;

use crate::{
    floor,
    handshake::{Handshake, Identity},
    packet::{self, Parsed, VIDEO_RTX},
    port::{Arrival, Port},
    room::{self, Described},
    rtcp,
    sink::{self, SAMPLE, Stream, Tally},
    srtp::{Cipher, Session},
    stun,
};

/// What the sinks saw, all together.
#[derive(Default, Debug)]
pub struct Seen {
    /// Of the node.
    pub node: Tally,
    /// Of the floor.
    pub floor: Tally,
    /// Retransmissions and padding of the node.
    pub repairs: u64,
    /// Retransmissions that were opened and not what was sent.
    pub wrong_repairs: u64,
    /// Reports of the node.
    pub reports: u64,
    /// Numbers that were asked for again.
    pub nacked: u64,
    /// What was none of the above.
    pub strays: u64,
    rng: u64,
}

impl Seen {
    /// Starts counting anew.
    pub fn reset(&mut self) {
        *self = Self { rng: self.rng, ..Self::default() };
    }

    /// Xorshift: any sequence without a pattern does.
    fn random(&mut self) -> u64 {
        let mut x = if self.rng == 0 { 0x9e37_79b9_7f4a_7c15 } else { self.rng };
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.rng = x;
        x
    }
}

/// What every client does beside receiving.
#[derive(Clone, Copy, Default, Debug)]
pub struct Habits {
    /// Transport-wide feedback at each visit.
    pub transport_cc: bool,
    /// Of a hundred packets so many are asked for again, though they arrived.
    pub nack_percent: f64,
}

/// Arrivals by transport-wide number since the last feedback.
#[derive(Default, Debug)]
struct Feedback {
    base: Option<u16>,
    arrivals: Vec<Option<u64>>,
    count: u8,
}

impl Feedback {
    fn note(&mut self, number: u16, micros: u64) {
        let base = *self.base.get_or_insert(number);
        let at = usize::from(number.wrapping_sub(base));
        // Behind the last report, or a leap: nothing that a loopback does.
        if at >= 8_192 {
            return;
        }
        if self.arrivals.len() <= at {
            self.arrivals.resize(at + 1, None);
        }
        self.arrivals[at] = Some(micros);
    }

    fn report(&mut self, out: &mut Vec<u8>) {
        let Some(base) = self.base.filter(|_| !self.arrivals.is_empty()) else { return };
        rtcp::transport_cc(base, &self.arrivals, self.count, out);
        self.count = self.count.wrapping_add(1);
        self.base = Some(base.wrapping_add(self.arrivals.len() as u16));
        self.arrivals.clear();
    }
}

/// A client.
#[derive(Debug)]
pub struct Client {
    ip: Ipv4Addr,
    node: SocketAddr,
    username: String,
    key: hmac::Key,
    checks: u64,
    answered: bool,
    handshake: Option<Box<Handshake>>,
    session: Option<Box<Session>>,
    streams: Vec<Stream>,
    repairs: Vec<Stream>,
    floor: Stream,
    feedback: Feedback,
    lost: Vec<(u32, u16)>,
    visits: u64,
}

impl Client {
    /// Knows the node, has not met it.
    pub fn new(described: &Described, publishers: usize) -> Self {
        Self {
            ip: described.ip,
            node: described.node,
            username: described.username.clone(),
            key: stun::integrity_key(&described.password),
            checks: 0,
            answered: false,
            handshake: None,
            session: None,
            streams: vec![Stream::default(); publishers],
            repairs: vec![Stream::default(); publishers],
            floor: Stream::default(),
            feedback: Feedback::default(),
            lost: Vec::new(),
            visits: 0,
        }
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// It has keys.
    pub fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// Its streams, by publisher.
    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// What the floor sends it.
    pub fn floor(&self) -> &Stream {
        &self.floor
    }

    /// The session, of which a publisher takes the keys.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// Seals a compound of its own; `None` before it has keys.
    pub fn seal_rtcp(&mut self, compound: &mut Vec<u8>) -> Option<()> {
        self.session.as_mut()?.seal_rtcp(compound).ok()
    }

    /// Sends datagrams to the node.
    pub fn send(&self, port: &Port, bytes: &[u8]) -> bool {
        port.send(self.ip, self.node, bytes, None)
    }

    /// A connectivity check, which is also consent (RFC 7675).
    pub fn check(&mut self, port: &Port) {
        self.checks += 1;
        let mut transaction = [0; 12];
        transaction[..4].copy_from_slice(&self.ip.octets());
        transaction[4..].copy_from_slice(&self.checks.to_be_bytes());
        self.send(port, &stun::binding_request(&self.username, &self.key, transaction));
    }

    /// Joins, one step: sends again what may be lost.
    pub fn nudge(&mut self, now: Instant, port: &Port) -> Result<(), String> {
        if !self.answered {
            self.check(port);
        }
        if let Some(handshake) = &mut self.handshake {
            handshake.handle_timeout(now)?;
            self.drain(port)?;
        }
        Ok(())
    }

    /// A datagram that is no RTP while joining.
    pub fn handle_join(
        &mut self,
        now: Instant,
        datagram: &[u8],
        identity: &Identity,
        port: &Port,
    ) -> Result<(), String> {
        if stun::is_binding_success(datagram) {
            if !std::mem::replace(&mut self.answered, true) {
                self.handshake = Some(Box::new(Handshake::new(identity, now)?));
            }
        } else if let (20..=63, Some(handshake)) =
            (datagram.first().copied().unwrap_or(0), &mut self.handshake)
        {
            handshake.handle(now, datagram)?;
        }
        self.drain(port)
    }

    fn drain(&mut self, port: &Port) -> Result<(), String> {
        let (ip, node) = (self.ip, self.node);
        let Some(handshake) = &mut self.handshake else { return Ok(()) };
        let session = handshake.drain(|packet| {
            port.send(ip, node, packet, None);
        })?;
        if let Some(session) = session {
            self.session = Some(Box::new(session));
        }
        Ok(())
    }

    /// The handshake's state is not needed any more.
    pub fn settle(&mut self) {
        self.handshake = None;
    }

    /// Numbers may stand for other packets from now on: streams were paused while the path was unknown.
    pub fn restart(&mut self) {
        self.streams.iter_mut().for_each(Stream::restart);
    }

    /// A media packet or report.
    pub fn handle_media(
        &mut self,
        arrival: Arrival,
        datagram: &mut [u8],
        floor_keys: &Arc<[Cipher]>,
        place: usize,
        habits: &Habits,
        seen: &mut Seen,
    ) {
        if matches!(datagram, [128..=191, 192..=223, ..]) {
            seen.reports += 1;
            return;
        }
        let Some(parsed) = packet::parse(datagram) else {
            seen.strays += 1;
            return;
        };
        let at = arrival.at.as_nanos() as u64;
        if parsed.ssrc == floor::SSRC {
            let number = self.floor.count(parsed.seq, datagram.len(), &mut seen.floor);
            if seen.floor.packets.is_multiple_of(SAMPLE)
                && let Some(cipher) = floor_keys.get(place)
            {
                self.floor.open(cipher, number, &parsed, datagram, at, &mut seen.floor);
            }
            return;
        }
        if let Some(number) = parsed.transport_cc.filter(|_| habits.transport_cc) {
            self.feedback.note(number, at / 1_000);
        }
        match room::of_ssrc(parsed.ssrc) {
            Some((publisher, false)) => {
                self.handle_stream(at, datagram, &parsed, publisher, habits, seen);
            }
            Some((publisher, true)) => self.handle_repair(datagram, &parsed, publisher, seen),
            None => seen.strays += 1,
        }
    }

    fn handle_stream(
        &mut self,
        at: u64,
        datagram: &mut [u8],
        parsed: &Parsed,
        publisher: usize,
        habits: &Habits,
        seen: &mut Seen,
    ) {
        let (Some(stream), Some(session)) = (self.streams.get_mut(publisher), &self.session) else {
            seen.strays += 1;
            return;
        };
        let number = stream.count(parsed.seq, datagram.len(), &mut seen.node);
        let unlucky = habits.nack_percent > 0.0
            && (seen.random() % 100_000) as f64 <= habits.nack_percent * 1_000.0;
        if unlucky && self.lost.len() < 64 {
            self.lost.push((parsed.ssrc, parsed.seq));
        }
        if seen.node.packets.is_multiple_of(SAMPLE) || stream.latest_index().is_none() {
            let cipher = &session.remote_rtp;
            stream.open(cipher, number, parsed, datagram, at, &mut seen.node);
        }
    }

    /// A retransmission (RFC 4588): one in eight is opened. Padding has no payload that could be checked.
    fn handle_repair(
        &mut self,
        datagram: &mut [u8],
        parsed: &Parsed,
        publisher: usize,
        seen: &mut Seen,
    ) {
        seen.repairs += 1;
        let (Some(stream), Some(session)) = (self.repairs.get_mut(publisher), &self.session) else {
            return;
        };
        let mut ignored = Tally::default();
        let number = stream.count(parsed.seq, 0, &mut ignored);
        if seen.repairs.is_multiple_of(8) && parsed.pt == VIDEO_RTX && !parsed.padded {
            let opened = sink::open(&session.remote_rtp, number, parsed, datagram, 2);
            seen.wrong_repairs += u64::from(opened.is_none());
        }
    }

    /// What a client does ten times a second: feedback and NACKs; once a second a report, every four a check.
    pub fn visit(&mut self, port: &Port, habits: &Habits, seen: &mut Seen) {
        self.visits += 1;
        let mut compound = Vec::new();
        if self.visits % 10 == 1 {
            let streams: Vec<_> = self
                .streams
                .iter()
                .enumerate()
                .filter_map(|(n, stream)| Some((room::ssrc(n), stream.highest? as u32)))
                .collect();
            rtcp::receiver_report(&streams, &mut compound);
        }
        if habits.transport_cc {
            self.feedback.report(&mut compound);
        }
        self.lost.sort_unstable();
        for same in self.lost.chunk_by(|a, b| a.0 == b.0) {
            let numbers: Vec<u16> = same.iter().map(|(_, seq)| *seq).collect();
            seen.nacked += numbers.len() as u64;
            rtcp::nack(same[0].0, &numbers, &mut compound);
        }
        self.lost.clear();
        if self.visits % 40 == 1 {
            self.check(port);
        }
        let Some(session) = self.session.as_mut().filter(|_| !compound.is_empty()) else { return };
        if session.seal_rtcp(&mut compound).is_ok() {
            self.send(port, &compound);
        }
    }
}
