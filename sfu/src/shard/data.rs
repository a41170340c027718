//! Data packets between the members of a room.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    DropReason, Event, Lane, Shard,
    timer::{Sleeper, Timer},
};
use crate::{
    relay::DataMessage,
    room::PeerKey,
    transport::{ChannelId, ChannelOptions},
    wire::DataPacket,
};

/// Charged for each data message beside its bytes: the headers around it on the wire, and the work of handing it to a
/// room. Without it empty messages would pass any cap.
const MESSAGE_OVERHEAD: usize = 128;

impl Shard {
    /// Opens the node's channels where the node is to open them.
    pub(super) fn open_channels(&mut self, key: PeerKey) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        let wanted = peer.spec.data.as_ref().is_some_and(|data| data.node_opens);
        if !wanted || peer.data.opened || !peer.connected {
            return;
        }
        for lane in [Lane::Reliable, Lane::Lossy] {
            let options = ChannelOptions {
                label: lane.label().to_owned(),
                ordered: lane == Lane::Reliable,
                max_retransmits: (lane == Lane::Lossy).then_some(0),
            };
            if peer.transport.open_channel(now, options).is_err() {
                return;
            }
        }
        peer.data.opened = true;
    }

    pub(super) fn channel_open(&mut self, key: PeerKey, channel: ChannelId, label: &str) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        let Some(lane) = Lane::of_label(label) else { return };
        peer.data.opened(lane, channel);
        peer.data.flush(now, &mut peer.transport);
        if peer.data.ready() && !peer.data.ready_told {
            peer.data.ready_told = true;
            let (room, peer) = (peer.identity.room_id.clone(), peer.identity.id.clone());
            self.events.push_back(Event::DataReady { room, peer });
        }
    }

    /// A message from a peer: checked, stamped, sent on.
    pub(super) fn handle_data(
        &mut self,
        key: PeerKey,
        channel: ChannelId,
        message: &[u8],
    ) -> Result<(), DropReason> {
        let now = self.now;
        let peer = self.peer_mut(key).ok_or(DropReason::Closed)?;
        let lane = peer.data.lane_of(channel).ok_or(DropReason::DataLabel)?;
        let spec = peer.spec.data.as_ref().filter(|data| data.may_send);
        let spec = spec.ok_or(DropReason::DataForbidden)?;
        // What each reader gets, and what a message costs however short it is.
        let charged = message.len() + spec.stamp.len() + MESSAGE_OVERHEAD;
        if !peer.data.admit(now, charged) {
            return Err(DropReason::OverDataRate);
        }
        let packet = DataPacket::parse(message).map_err(|_| DropReason::DataMalformed)?;
        let mut spliced = vec![0; packet.spliced_len(&spec.stamp)];
        let len =
            packet.splice(&spec.stamp, &mut spliced).map_err(|_| DropReason::DataMalformed)?;
        spliced.truncate(len);
        let destinations = packet.destinations();
        let destinations =
            destinations.filter_map(|to| std::str::from_utf8(to).ok()).map(Arc::from).collect();
        let message = DataMessage {
            room: peer.identity.room_id.clone(),
            from: Some(spec.address.clone()),
            reliable: lane == Lane::Reliable,
            destinations,
            packet: Bytes::from(spliced),
        };
        self.relay_data(&message);
        self.broadcast(message);
        Ok(())
    }

    /// The timer of a reader that stands still.
    pub(super) fn check_stall(&mut self, key: PeerKey) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        let overflow = peer.data.handle_timeout(now, &mut peer.transport);
        let deadline = peer.data.stall_deadline();
        let identity = peer.identity.clone();
        self.timers.set(Sleeper::Peer(key), Timer::DataStall, deadline);
        if overflow {
            self.events
                .push_back(Event::DataOverflow { room: identity.room_id, peer: identity.id });
        }
    }
}
