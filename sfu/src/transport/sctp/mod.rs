//! SCTP over DTLS with data channels (RFC 8831): drives `sctp-proto`, speaks DCEP.
//!
//! Who greets: the DTLS client does at once. The DTLS server waits, since browsers on both sides send INIT anyway, and does so
//! itself after a while for a peer that waits too. While we have an association no other is accepted, and INIT packets that
//! repeat themselves are dropped here: the library closes an established association over one.

mod dcep;
#[cfg(fuzzing)]
pub use dcep::fuzz_dcep;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event,
    Payload, PayloadProtocolIdentifier as Ppid, ReliabilityType, ServerConfig, StreamEvent,
    TransportConfig,
};

use self::dcep::{Dcep, DcepOpen, Reliability};
use super::{ChannelError, ChannelId, ChannelOptions, SctpParams, SendError};

/// Largest message that we take, bytes: to be said in `a=max-message-size`. Somewhat more is let pass, for senders that count
/// without their envelope.
pub const MAX_MESSAGE_SIZE: u32 = 65_536;

const RECEIVE_LIMIT: u32 = MAX_MESSAGE_SIZE + 8_192;

/// Data channels of one peer, whoever opened them.
const MAX_CHANNELS: usize = 64;

/// Bytes of label and protocol that a channel may have.
const MAX_LABEL: usize = 256;

/// Bytes that one channel may hold unacknowledged. Twice what the owner calls a slow reader.
const MAX_BUFFERED: usize = 2 << 20;

/// Receive window, bytes: 100 ms at 40 Mbit/s.
const RECEIVE_BUFFER: u32 = 512 * 1024;

/// SCTP packet that, with DTLS around it (at most 77 bytes were seen), stays within a datagram of 1,200.
const MAX_PACKET: u32 = 1_120;

/// Retransmission timeouts, milliseconds, for real-time use: RFC 9260 has 1 s, 1 s and 60 s. The minimum stays above the
/// 200 ms delayed acknowledgement only where the RTT does; a spurious retransmission costs less than a late message.
const RTO_INITIAL: u64 = 200;
const RTO_MIN: u64 = 100;
const RTO_MAX: u64 = 3_000;

/// A DTLS server that saw no INIT for this long sends one itself.
const GREET_AFTER: Duration = Duration::from_secs(2);

/// Something that happened to the association.
#[derive(Debug)]
pub(super) enum SctpEvent {
    Open { channel: ChannelId, label: String, ordered: bool, by_peer: bool },
    Closed(ChannelId),
    Message { channel: ChannelId, binary: bool, bytes: Bytes },
    Lost,
}

/// The SCTP association of one transport.
pub(super) struct Sctp {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    phase: Phase,
    client: bool,
    params: SctpParams,
    channels: Vec<Channel>,
    events: VecDeque<SctpEvent>,
    packets: VecDeque<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// We greet at this time, unless the peer does first.
    Waiting(Instant),
    Handshake,
    Established,
    Lost,
}

#[derive(Debug)]
struct Channel {
    id: ChannelId,
    state: ChannelState,
}

#[derive(Debug)]
enum ChannelState {
    /// To be opened by us once the association is up.
    Wanted(DcepOpen),
    /// We opened it; the peer has not acknowledged.
    AwaitAck {
        label: String,
        ordered: bool,
    },
    /// A stream that the peer used first; its DCEP open is on the way.
    AwaitOpen,
    Open,
}

impl Sctp {
    pub(super) fn new(now: Instant, client: bool, params: SctpParams) -> Self {
        let mut endpoint_config = EndpointConfig::new();
        endpoint_config.max_payload_size(MAX_PACKET);
        let mut server = ServerConfig::new();
        server.transport = Arc::new(transport_config(params));
        let greet_at = if client { now } else { now + GREET_AFTER };
        Self {
            endpoint: Endpoint::new(Arc::new(endpoint_config), Some(Arc::new(server))),
            association: None,
            phase: Phase::Waiting(greet_at),
            client,
            params,
            channels: Vec::new(),
            events: VecDeque::new(),
            packets: VecDeque::new(),
        }
    }

    pub(super) fn set_remote(&mut self, params: SctpParams) {
        self.params = params;
        if let Some((_, association)) = &mut self.association {
            association.set_max_send_message_size(max_send_size(params));
        }
    }

    /// One SCTP packet.
    pub(super) fn handle(&mut self, now: Instant, packet: Bytes) {
        // Verification tag 0 is INIT (RFC 9260 section 8.5.1).
        let is_init = packet.get(4..8) == Some(&[0; 4]);
        if self.phase == Phase::Lost || (is_init && self.phase == Phase::Established) {
            return;
        }
        let Some((handle, event)) = self.endpoint.handle(now, peer_address(), None, None, packet)
        else {
            return;
        };
        match (event, &mut self.association) {
            (DatagramEvent::NewAssociation(association), None) => {
                self.adopt(handle, association);
            }
            (DatagramEvent::AssociationEvent(event), Some((ours, association)))
                if *ours == handle =>
            {
                association.handle_event(event);
            }
            _ => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match (&self.association, self.phase) {
            (_, Phase::Waiting(at)) => Some(at),
            (Some((_, association)), Phase::Handshake | Phase::Established) => {
                association.poll_timeout()
            }
            _ => None,
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<SctpEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        loop {
            if let Some(packet) = self.packets.pop_front() {
                return Some(packet);
            }
            let (_, association) = self.association.as_mut()?;
            let transmit =
                self.endpoint.poll_transmit().or_else(|| association.poll_transmit(now))?;
            if let Payload::RawEncode(packets) = transmit.payload {
                self.packets.extend(packets);
            }
        }
    }

    pub(super) fn open(&mut self, options: ChannelOptions) -> Result<ChannelId, ChannelError> {
        if self.phase == Phase::Lost {
            return Err(ChannelError::NoAssociation);
        }
        if options.label.len() > MAX_LABEL {
            return Err(ChannelError::Label);
        }
        if self.channels.len() >= MAX_CHANNELS {
            return Err(ChannelError::TooMany);
        }
        // The DTLS client has the even ids (RFC 8832 section 6).
        let first = if self.client { 0 } else { 1 };
        let id = (first..u16::MAX)
            .step_by(2)
            .map(ChannelId)
            .find(|id| self.slot(*id).is_none() && !self.has_stream(*id))
            .ok_or(ChannelError::TooMany)?;
        let reliability = match options.max_retransmits {
            None => Reliability::Reliable,
            Some(count) => Reliability::MaxRetransmits(u32::from(count)),
        };
        let open = DcepOpen {
            ordered: options.ordered,
            reliability,
            label: options.label,
            protocol: String::new(),
        };
        self.channels.push(Channel { id, state: ChannelState::Wanted(open) });
        Ok(id)
    }

    pub(super) fn close_channel(&mut self, id: ChannelId) {
        let Some(slot) = self.slot(id) else {
            return;
        };
        self.channels.remove(slot);
        self.reset_stream(id);
        self.events.push_back(SctpEvent::Closed(id));
    }

    pub(super) fn send(
        &mut self,
        id: ChannelId,
        binary: bool,
        message: &[u8],
    ) -> Result<(), SendError> {
        let slot = self.slot(id).ok_or(SendError::NotOpen)?;
        if !matches!(self.channels[slot].state, ChannelState::Open) {
            return Err(SendError::NotOpen);
        }
        if message.len() > max_send_size(self.params) as usize {
            return Err(SendError::TooLarge);
        }
        let (_, association) = self.association.as_mut().ok_or(SendError::NotOpen)?;
        let mut stream = association.stream(id.0).map_err(|_| SendError::NotOpen)?;
        let buffered = stream.buffered_amount().map_err(|_| SendError::NotOpen)?;
        if buffered + message.len() > MAX_BUFFERED {
            return Err(SendError::Full);
        }
        // SCTP has no empty messages: a byte stands in for one (RFC 8831 section 6.6).
        let (ppid, bytes) = match (binary, message.is_empty()) {
            (true, false) => (Ppid::Binary, message),
            (false, false) => (Ppid::String, message),
            (true, true) => (Ppid::BinaryEmpty, &[0][..]),
            (false, true) => (Ppid::StringEmpty, &[0][..]),
        };
        stream.write_with_ppi(bytes, ppid).map(drop).map_err(|_| SendError::NotOpen)
    }

    pub(super) fn buffered(&mut self, id: ChannelId) -> usize {
        let Some((_, association)) = &mut self.association else {
            return 0;
        };
        association.stream(id.0).and_then(|stream| stream.buffered_amount()).unwrap_or(0)
    }

    /// Ends the association after what was sent is delivered.
    pub(super) fn close(&mut self) {
        if let Some((_, association)) = &mut self.association {
            // Refused before it is established, when there is nothing to end.
            let _ = association.shutdown();
        }
    }

    /// Moves everything that can move: greeting, events, wanted channels.
    pub(super) fn drive(&mut self, now: Instant) {
        if let Phase::Waiting(at) = self.phase
            && now >= at
        {
            self.greet();
        }
        while let Some(event) = self.next_association_event() {
            match event {
                Event::Connected => self.phase = Phase::Established,
                Event::HandshakeFailed { .. } | Event::AssociationLost { .. } => self.lose(),
                Event::Stream(StreamEvent::Readable { id } | StreamEvent::Opened { id }) => {
                    self.read(ChannelId(id));
                }
                Event::Stream(StreamEvent::Finished { id } | StreamEvent::Stopped { id, .. }) => {
                    self.close_channel(ChannelId(id));
                }
                _ => {}
            }
        }
        if self.phase == Phase::Established {
            self.open_wanted();
        }
    }

    fn next_association_event(&mut self) -> Option<Event> {
        let (handle, association) = self.association.as_mut()?;
        while let Some(event) = association.poll_endpoint_event() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                association.handle_event(event);
            }
        }
        association.poll()
    }

    fn greet(&mut self) {
        let mut config = ClientConfig::new();
        config.transport = Arc::new(transport_config(self.params));
        match self.endpoint.connect(config, peer_address()) {
            Ok((handle, association)) => self.adopt(handle, association),
            Err(_) => self.lose(),
        }
    }

    fn adopt(&mut self, handle: AssociationHandle, mut association: Association) {
        association.set_max_send_message_size(max_send_size(self.params));
        // One association is all there is: a peer that greets again and again costs nothing.
        self.endpoint.reject_new_associations();
        self.association = Some((handle, association));
        self.phase = Phase::Handshake;
    }

    fn lose(&mut self) {
        if self.phase == Phase::Lost {
            return;
        }
        self.phase = Phase::Lost;
        for channel in self.channels.drain(..) {
            self.events.push_back(SctpEvent::Closed(channel.id));
        }
        self.events.push_back(SctpEvent::Lost);
    }

    fn open_wanted(&mut self) {
        let Some((_, association)) = &mut self.association else {
            return;
        };
        for channel in &mut self.channels {
            let ChannelState::Wanted(open) = &channel.state else {
                continue;
            };
            // Refused while an earlier channel of this id is still being reset: tried again at the next turn.
            let Ok(mut stream) = association.open_stream(channel.id.0, Ppid::Unknown) else {
                continue;
            };
            let (label, ordered) = (open.label.clone(), open.ordered);
            let bytes = Dcep::Open(open.clone()).to_bytes();
            // The open itself is sent in order and reliably (RFC 8832 section 6).
            if stream.write_with_ppi(&bytes, Ppid::Dcep).is_ok() {
                set_reliability(&mut stream, open);
                channel.state = ChannelState::AwaitAck { label, ordered };
            }
        }
    }

    /// Takes all complete messages of a stream.
    fn read(&mut self, id: ChannelId) {
        if self.slot(id).is_none() {
            if self.channels.len() >= MAX_CHANNELS {
                return self.reset_stream(id);
            }
            self.channels.push(Channel { id, state: ChannelState::AwaitOpen });
        }
        while let Some((ppid, bytes)) = self.read_message(id) {
            let known = match ppid {
                Ppid::Dcep => self.handle_dcep(id, &bytes),
                Ppid::Binary | Ppid::BinaryEmpty => {
                    self.deliver(id, true, if ppid == Ppid::Binary { bytes } else { Bytes::new() })
                }
                Ppid::String | Ppid::StringEmpty => {
                    self.deliver(id, false, if ppid == Ppid::String { bytes } else { Bytes::new() })
                }
                _ => false,
            };
            if !known {
                return self.close_channel(id);
            }
        }
    }

    fn read_message(&mut self, id: ChannelId) -> Option<(Ppid, Bytes)> {
        let (_, association) = self.association.as_mut()?;
        let chunks = association.stream(id.0).ok()?.read().ok()??;
        let mut bytes = vec![0; chunks.len()];
        let len = chunks.read(&mut bytes).ok()?;
        bytes.truncate(len);
        Some((chunks.ppi, Bytes::from(bytes)))
    }

    /// `false` when the channel has to be closed over it.
    fn deliver(&mut self, id: ChannelId, binary: bool, bytes: Bytes) -> bool {
        let state = self.slot(id).map(|slot| &self.channels[slot].state);
        match state {
            // Ahead of the acknowledgement: the peer knows the channel, so it is open.
            Some(ChannelState::AwaitAck { .. }) => self.handle_dcep_ack(id),
            Some(ChannelState::Open) => {}
            // A channel negotiated out of band, which nobody signals to us.
            _ => return false,
        }
        self.events.push_back(SctpEvent::Message { channel: id, binary, bytes });
        true
    }

    fn handle_dcep(&mut self, id: ChannelId, message: &[u8]) -> bool {
        let Some(slot) = self.slot(id) else {
            return false;
        };
        match (Dcep::parse(message), &self.channels[slot].state) {
            (Some(Dcep::Ack), ChannelState::AwaitAck { .. }) => {
                self.handle_dcep_ack(id);
                true
            }
            // Acknowledged by data already.
            (Some(Dcep::Ack), ChannelState::Open) => true,
            (Some(Dcep::Open(open)), ChannelState::AwaitOpen)
                if open.label.len() + open.protocol.len() <= MAX_LABEL =>
            {
                self.accept(slot, open)
            }
            _ => false,
        }
    }

    fn handle_dcep_ack(&mut self, id: ChannelId) {
        let Some(slot) = self.slot(id) else {
            return;
        };
        let state = std::mem::replace(&mut self.channels[slot].state, ChannelState::Open);
        if let ChannelState::AwaitAck { label, ordered } = state {
            self.events.push_back(SctpEvent::Open { channel: id, label, ordered, by_peer: false });
        }
    }

    fn accept(&mut self, slot: usize, open: DcepOpen) -> bool {
        let channel = self.channels[slot].id;
        let Some((_, association)) = &mut self.association else {
            return false;
        };
        let Ok(mut stream) = association.stream(channel.0) else {
            return false;
        };
        if stream.write_with_ppi(&Dcep::Ack.to_bytes(), Ppid::Dcep).is_err() {
            return false;
        }
        set_reliability(&mut stream, &open);
        self.channels[slot].state = ChannelState::Open;
        self.events.push_back(SctpEvent::Open {
            channel,
            label: open.label,
            ordered: open.ordered,
            by_peer: true,
        });
        true
    }

    fn reset_stream(&mut self, id: ChannelId) {
        if let Some((_, association)) = &mut self.association
            && let Ok(mut stream) = association.stream(id.0)
        {
            // Fails only without an established association, which has no streams to reset.
            let _ = stream.close();
        }
    }

    fn slot(&self, id: ChannelId) -> Option<usize> {
        self.channels.iter().position(|channel| channel.id == id)
    }

    fn has_stream(&mut self, id: ChannelId) -> bool {
        self.association.as_mut().is_some_and(|(_, association)| association.stream(id.0).is_ok())
    }
}

impl std::fmt::Debug for Sctp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sctp")
            .field("phase", &self.phase)
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

fn transport_config(params: SctpParams) -> TransportConfig {
    let remote_port = if params.remote_port == 0 { 5_000 } else { params.remote_port };
    // No limit on retransmissions: whether the peer is there is for ICE to say.
    TransportConfig::default()
        .with_max_receive_buffer_size(RECEIVE_BUFFER)
        .with_max_receive_message_size(RECEIVE_LIMIT)
        .with_max_send_message_size(max_send_size(params))
        .with_max_num_inbound_streams(MAX_STREAMS)
        .with_max_num_outbound_streams(MAX_STREAMS)
        .with_max_init_retransmits(None)
        .with_max_data_retransmits(None)
        .with_rto_initial_ms(RTO_INITIAL)
        .with_rto_min_ms(RTO_MIN)
        .with_rto_max_ms(RTO_MAX)
        .with_remote_port(remote_port)
}

/// As many as browsers ask for.
const MAX_STREAMS: u16 = 1_024;

fn max_send_size(params: SctpParams) -> u32 {
    match params.remote_max_message_size {
        0 => RECEIVE_LIMIT,
        size => size.min(RECEIVE_LIMIT),
    }
}

fn set_reliability(stream: &mut sctp_proto::Stream<'_>, open: &DcepOpen) {
    let (kind, value) = match open.reliability {
        Reliability::Reliable => (ReliabilityType::Reliable, 0),
        Reliability::MaxRetransmits(count) => (ReliabilityType::Rexmit, count),
        Reliability::MaxLifetime(millis) => (ReliabilityType::Timed, millis),
    };
    // Fails only for a stream that is gone, which the next event tells.
    let _ = stream.set_reliability_params(!open.ordered, kind, value);
}

/// The library wants an address; below it there is DTLS.
fn peer_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 5_000))
}
