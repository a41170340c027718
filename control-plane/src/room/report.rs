//! Asks a node about a participant's peers. The room does not wait for it.

use chappe_proto::node::v1 as node;

use super::{
    handle::Reply,
    ids,
    types::{ParticipantReport, PeerRole, RequestError},
};
use crate::node::{CallError, Node};

/// Completes `report` with what the node says of the peers of these roles, and answers with it.
pub(super) fn ask(
    node: Node,
    room_id: String,
    mut roles: Vec<PeerRole>,
    mut report: ParticipantReport,
    reply: Reply<ParticipantReport>,
) {
    roles.sort_by_key(|role| *role == PeerRole::Subscriber);
    tokio::spawn(async move {
        for role in roles {
            let (room_id, peer_id) = (room_id.clone(), ids::peer_id(&report.sid, role));
            match node.peer_report(node::GetPeerReportRequest { room_id, peer_id }).await {
                Ok(of_peer) => report.peers.push((role, of_peer)),
                // Not made yet, or gone a moment ago.
                Err(CallError::NotFound(_)) => {}
                Err(error) => {
                    let _ = reply.send(Err(RequestError::Node(error.to_string())));
                    return;
                }
            }
        }
        let _ = reply.send(Ok(report));
    });
}
