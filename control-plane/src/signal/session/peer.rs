//! One PeerConnection of the client: what is negotiated, what the node was told of it.

use chappe_proto::node::v1 as node;

use crate::{
    room::PeerRole,
    signal::sdp::{Description, Negotiator},
};

/// Trickled candidates kept for diagnosis, at most.
const MAX_REMOTE_CANDIDATES: usize = 32;

/// Longest of them, bytes; the node takes no longer ones.
const MAX_CANDIDATE: usize = 512;

/// How far an answer to the client's offer has come.
#[derive(Debug)]
pub(super) enum Answering {
    /// No offer is open.
    Idle,
    /// The offer is taken; the answer needs the node's (new) side of the transport.
    NeedsTransport,
    /// Written; goes out once the node has the state that it describes.
    Ready(Description),
}

/// One PeerConnection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) role: PeerRole,
    pub(super) negotiator: Negotiator,
    /// What the node has; its `owner_state` is the one last stored.
    applied: node::PeerState,
    created: bool,
    /// On its way to the node: one command at a time.
    in_flight: Option<node::PeerState>,
    /// The node's side of the transport, once it is known.
    pub(super) local: Option<node::LocalTransport>,
    pub(super) answering: Answering,
    pub(super) remote_candidates: Vec<String>,
    /// Too long, or too many.
    ignored_candidates: u32,
    pub(super) force_tcp: bool,
    /// Bits per second, 0 is no cap (a simulated scenario).
    pub(super) max_egress_bitrate: u64,
}

impl Peer {
    pub(super) fn new(role: PeerRole, negotiator: Negotiator) -> Self {
        Self {
            role,
            negotiator,
            applied: node::PeerState::default(),
            created: false,
            in_flight: None,
            local: None,
            answering: Answering::Idle,
            remote_candidates: Vec::new(),
            ignored_candidates: 0,
            force_tcp: false,
            max_egress_bitrate: 0,
        }
    }

    /// Goes on with a peer that lives on the node.
    pub(super) fn restored(
        role: PeerRole,
        negotiator: Negotiator,
        snapshot: node::PeerSnapshot,
    ) -> Self {
        let applied = snapshot.state.unwrap_or_default();
        let transport = applied.transport.clone().unwrap_or_default();
        Self {
            max_egress_bitrate: applied.max_egress_bitrate,
            applied,
            created: true,
            local: snapshot.transport,
            remote_candidates: transport.remote_candidates,
            force_tcp: transport.force_tcp,
            ..Self::new(role, negotiator)
        }
    }

    /// A command is on its way: nothing else may be sent, and no offer taken, before its reply.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The node knows this peer.
    pub(super) fn is_created(&self) -> bool {
        self.created
    }

    pub(super) fn add_candidate(&mut self, candidate: String) {
        let fits = candidate.len() <= MAX_CANDIDATE;
        if fits && self.remote_candidates.len() < MAX_REMOTE_CANDIDATES {
            self.remote_candidates.push(candidate);
            return;
        }
        self.ignored_candidates = self.ignored_candidates.saturating_add(1);
        let (role, ignored) = (self.role, self.ignored_candidates);
        tracing::debug!(?role, ignored, "candidates of the client that are not kept");
    }

    /// The client's side of the transport, as the node should know it.
    pub(super) fn transport(&self) -> node::Transport {
        let mut transport = self.negotiator.transport();
        transport.remote_candidates.clone_from(&self.remote_candidates);
        transport.force_tcp |= self.force_tcp;
        transport
    }

    /// The command that leads to `desired`, if one is needed and none is on its way.
    pub(super) fn begin(&mut self, desired: node::PeerState) -> Option<node::PeerDelta> {
        if self.is_busy() {
            return None;
        }
        let delta = delta_between(&self.applied, &desired);
        if self.created && delta.is_none() {
            return None;
        }
        self.in_flight = Some(desired);
        Some(delta.unwrap_or_default())
    }

    /// The node has what was on its way.
    pub(super) fn complete(&mut self, local: node::LocalTransport) {
        if let Some(state) = self.in_flight.take() {
            self.applied = state;
            self.created = true;
        }
        self.local = Some(local);
    }

    /// The node refused what was on its way.
    pub(super) fn fail(&mut self) {
        self.in_flight = None;
    }

    /// The node knows the track in this state.
    pub(super) fn has_track(&self, node_track_id: &str) -> bool {
        self.applied.tracks.iter().any(|track| track.track_id == node_track_id)
    }
}

/// What turns one state into the other; `None` where they are equal. Remote candidates alone are no reason to bother
/// the node: they ride along with the next change.
fn delta_between(from: &node::PeerState, to: &node::PeerState) -> Option<node::PeerDelta> {
    let same_transport = match (&from.transport, &to.transport) {
        (Some(from), Some(to)) => {
            node::Transport { remote_candidates: Vec::new(), ..from.clone() }
                == node::Transport { remote_candidates: Vec::new(), ..to.clone() }
        }
        (from, to) => from == to,
    };
    let mut delta = node::PeerDelta {
        owner_state: (from.owner_state != to.owner_state).then(|| to.owner_state.clone()),
        transport: if same_transport { None } else { to.transport.clone() },
        codecs: (from.codecs != to.codecs).then(|| node::CodecList { codecs: to.codecs.clone() }),
        extensions: (from.extensions != to.extensions)
            .then(|| node::HeaderExtensionList { extensions: to.extensions.clone() }),
        data: if from.data == to.data { None } else { to.data.clone() },
        max_egress_bitrate: (from.max_egress_bitrate != to.max_egress_bitrate)
            .then_some(to.max_egress_bitrate),
        ..node::PeerDelta::default()
    };
    delta.put_tracks =
        to.tracks.iter().filter(|track| !from.tracks.contains(track)).cloned().collect();
    let gone = |track: &&node::Track| to.tracks.iter().all(|kept| kept.track_id != track.track_id);
    delta.remove_track_ids =
        from.tracks.iter().filter(gone).map(|track| track.track_id.clone()).collect();
    delta.put_subscriptions =
        to.subscriptions.iter().filter(|put| !from.subscriptions.contains(put)).cloned().collect();
    let gone = |had: &&node::Subscription| {
        to.subscriptions.iter().all(|kept| kept.track_id != had.track_id)
    };
    delta.remove_subscription_track_ids =
        from.subscriptions.iter().filter(gone).map(|had| had.track_id.clone()).collect();
    (delta != node::PeerDelta::default()).then_some(delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(tracks: &[&str], subscriptions: &[(&str, bool)]) -> node::PeerState {
        node::PeerState {
            tracks: tracks
                .iter()
                .map(|id| node::Track { track_id: (*id).into(), ..node::Track::default() })
                .collect(),
            subscriptions: subscriptions
                .iter()
                .map(|(id, paused)| node::Subscription {
                    track_id: (*id).into(),
                    paused: *paused,
                    ..node::Subscription::default()
                })
                .collect(),
            ..node::PeerState::default()
        }
    }

    #[test]
    fn a_delta_names_what_changed_and_nothing_else() {
        let from = state(&["TR_a", "TR_b"], &[("TR_x", false), ("TR_y", false)]);
        let to = state(&["TR_b", "TR_c"], &[("TR_x", true)]);
        let delta = delta_between(&from, &to).expect("they differ");
        let put: Vec<_> = delta.put_tracks.iter().map(|track| track.track_id.as_str()).collect();
        assert_eq!(put, ["TR_c"]);
        assert_eq!(delta.remove_track_ids, ["TR_a"]);
        assert_eq!(delta.put_subscriptions.len(), 1);
        assert!(delta.put_subscriptions[0].paused);
        assert_eq!(delta.remove_subscription_track_ids, ["TR_y"]);
        assert_eq!((delta.transport, delta.codecs, delta.owner_state), (None, None, None));
        assert_eq!(delta_between(&to, &to), None);
    }

    #[test]
    fn candidates_that_the_node_would_refuse_are_ignored() {
        let mut peer = Peer::new(PeerRole::Single, Negotiator::answering(1));
        peer.add_candidate("x".repeat(MAX_CANDIDATE + 1));
        assert_eq!(peer.transport().remote_candidates, [""; 0]);
        for _ in 0..40 {
            peer.add_candidate("x".repeat(MAX_CANDIDATE));
        }
        assert_eq!(peer.transport().remote_candidates.len(), MAX_REMOTE_CANDIDATES);
        assert_eq!(peer.ignored_candidates, 9);
    }

    #[test]
    fn trickled_candidates_wait_for_a_real_change() {
        let transport =
            node::Transport { remote_candidates: vec!["c".into()], ..node::Transport::default() };
        let from = node::PeerState {
            transport: Some(node::Transport::default()),
            ..node::PeerState::default()
        };
        let to = node::PeerState { transport: Some(transport), ..node::PeerState::default() };
        assert_eq!(delta_between(&from, &to), None);
    }
}
