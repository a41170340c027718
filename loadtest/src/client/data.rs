//! Data messages: sent at a rate, timed on arrival, and answered by one neighbour each, so that a round trip is seen.

use std::{
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use livekit_protocol as proto;
use prost::Message as _;
use str0m::{Rtc, channel::ChannelId};

use super::Context;
use crate::{
    media::{STAMP_LEN, Stamp, Stream},
    scenario::ClientPlan,
};

#[derive(Debug)]
pub(crate) struct Data {
    context: Rc<Context>,
    /// Channels of the PeerConnection that sends, by label.
    channels: HashMap<String, ChannelId>,
    number: u32,
    place: u32,
    sends: bool,
    next: Option<Instant>,
    count: u32,
    sequence: u32,
}

impl Data {
    pub(crate) fn new(context: Rc<Context>, plan: &ClientPlan) -> Self {
        let sends = plan.publishes() && context.scenario.data_rate > 0.0;
        Self {
            context,
            channels: HashMap::new(),
            number: plan.number,
            place: plan.place,
            sends,
            next: None,
            count: 0,
            sequence: 0,
        }
    }

    pub(crate) fn opened(&mut self, id: ChannelId, label: String) {
        self.channels.insert(label, id);
    }

    fn channel(&self) -> Option<ChannelId> {
        let label = if self.context.scenario.data_reliable { "_reliable" } else { "_lossy" };
        self.channels.get(label).copied()
    }

    /// When the next message is due.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Sends what is due. True when something was written.
    pub(crate) fn produce(&mut self, rtc: &mut Rtc, now: Instant) -> bool {
        if !self.sends || self.channel().is_none() {
            return false;
        }
        let interval = Duration::from_secs_f64(1.0 / self.context.scenario.data_rate);
        let due = *self.next.get_or_insert(now + interval);
        if now < due {
            return false;
        }
        self.next = Some((due + interval).max(now));
        self.count += 1;
        let stamp = Stamp {
            run: self.context.run,
            publisher: self.number,
            stream: Stream::Data { echo: false },
            number: self.count,
            sent: self.context.clock.now(),
        };
        let sent = self.send(rtc, stamp, None);
        if let (true, Some(stats)) = (sent, self.context.recorder.borrow_mut().window()) {
            stats.count.data_sent += 1;
        }
        true
    }

    fn send(&mut self, rtc: &mut Rtc, stamp: Stamp, to: Option<&str>) -> bool {
        let Some(channel) = self.channel() else { return false };
        let size = (self.context.scenario.data_size as usize).max(STAMP_LEN);
        let mut payload = vec![b'.'; size - STAMP_LEN];
        payload.extend_from_slice(&stamp.to_bytes());
        let destination: Vec<String> = to.map(str::to_owned).into_iter().collect();
        let reliable = self.context.scenario.data_reliable;
        self.sequence += 1;
        let packet = proto::DataPacket {
            destination_identities: destination.clone(),
            sequence: if reliable { self.sequence } else { 0 },
            value: Some(proto::data_packet::Value::User(proto::UserPacket {
                payload,
                ..proto::UserPacket::default()
            })),
            ..proto::DataPacket::default()
        };
        let mut channel = match rtc.channel(channel) {
            Some(channel) => channel,
            None => return false,
        };
        channel.write(true, &packet.encode_to_vec()).unwrap_or(false)
    }

    /// A message arrived `at` since the epoch. True when an answer was written to `rtc`.
    pub(crate) fn handle(&mut self, rtc: &mut Rtc, message: &[u8], at: Duration) -> bool {
        let Ok(packet) = proto::DataPacket::decode(message) else { return false };
        let Some(proto::data_packet::Value::User(user)) = &packet.value else { return false };
        let Some(stamp) = Stamp::at_end_of(&user.payload) else { return false };
        if stamp.run != self.context.run {
            return false;
        }
        let taken = at.saturating_sub(self.context.clock.local(stamp.sent));
        if stamp.stream == (Stream::Data { echo: true }) {
            if let (true, Some(stats)) =
                (stamp.publisher == self.number, self.context.recorder.borrow_mut().window())
            {
                stats.data_round_trip.record(taken);
            }
            return false;
        }
        if let Some(stats) = self.context.recorder.borrow_mut().window() {
            stats.count.data_received += 1;
            stats.latency_data.record(taken);
        }
        let Some(sender) = self.answers(stamp.publisher, &packet) else { return false };
        let echo = Stamp { stream: Stream::Data { echo: true }, ..stamp };
        self.send(rtc, echo, Some(&sender))
    }

    /// Whether this client is the one that answers, and to whom.
    fn answers(&self, publisher: u32, packet: &proto::DataPacket) -> Option<String> {
        let scenario = &self.context.scenario;
        let place = publisher / scenario.rooms.max(1);
        let neighbour = (place + 1) % scenario.publishers.max(1);
        (self.sends && neighbour == self.place && publisher != self.number)
            .then(|| packet.participant_identity.clone())
            .filter(|identity| !identity.is_empty())
    }
}
