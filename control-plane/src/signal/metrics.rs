//! What signalling counts. Label values are constants of this crate: never names, identities or rooms.

use livekit_protocol::request_response::Reason;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

type Label = [(&'static str, &'static str); 1];

/// Counters of all sessions; cheap to clone, shared by the clones.
#[derive(Clone, Debug, Default)]
pub(super) struct SignalMetrics {
    /// Participants that were let in.
    pub(super) joins: Counter,
    refused: Family<Label, Counter>,
    resumes: Family<Label, Counter>,
    /// Readable messages of clients.
    pub(super) requests: Counter,
    refusals: Family<Label, Counter>,
    /// Frames of clients that were no message.
    pub(super) garbage: Counter,
    /// Messages to clients.
    pub(super) responses: Counter,
    /// WebSockets closed because their client did not read.
    pub(super) deaf: Counter,
}

impl SignalMetrics {
    pub(super) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    pub(super) fn resume(&self, outcome: &'static str) {
        self.resumes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A request that was refused, with the wire protocol's reason in lower case: a cap, a missing permission, and so on.
    pub(super) fn refuse_request(&self, reason: Reason) {
        let reason = match reason {
            Reason::Ok | Reason::Queued => return,
            Reason::NotFound => "not_found",
            Reason::NotAllowed => "not_allowed",
            Reason::LimitExceeded => "limit_exceeded",
            Reason::UnsupportedType => "unsupported_type",
            Reason::InvalidRequest => "invalid_request",
            _ => "other",
        };
        self.refusals.get_or_create(&[("reason", reason)]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { joins, refused, resumes, requests, refusals, garbage, responses, deaf } =
            self.clone();
        registry.register("joins", "Participants that were let in", joins);
        registry.register("joins_refused", "Joins that were refused, by reason", refused);
        registry.register("resumes", "Clients that came back to their session", resumes);
        registry.register("signal_requests", "Messages of clients", requests);
        let help = "Requests of clients that were refused, by reason";
        registry.register("signal_requests_refused", help, refusals);
        registry.register("signal_garbage", "Frames of clients that were no message", garbage);
        registry.register("signal_responses", "Messages to clients", responses);
        let help = "WebSockets closed because their client did not read";
        registry.register("signal_slow_readers", help, deaf);
    }
}
