//! The way in: everything that can fail is checked before the upgrade, so that a refusal is an HTTP status with a
//! reason. Clients read the reason from the validate endpoint, which answers the same way.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use livekit_protocol as proto;
use tokio::sync::mpsc;

use super::{
    SignalState,
    driver::{Attach, Driver, Parts},
    session::{Session, SessionFacts, leave_message},
    upgrade::{Upgrade, UpgradeRefusal},
    wire::{ConnectParams, Endpoint},
    ws::{self, Connection, Socket},
};
use crate::{
    auth::{self, Grants, Permissions},
    room::{JoinError, JoinRequest, ParticipantSid, RoomHandle},
};

/// Room events that wait for a session, at most (the room drops a session that is slower).
const EVENT_QUEUE: usize = 1024;

pub(super) fn routes(state: SignalState) -> Router {
    Router::new()
        .route("/rtc", get(connect_v0))
        .route("/rtc/v1", get(connect_v1))
        .route("/rtc/validate", get(validate_v0))
        .route("/rtc/v1/validate", get(validate_v1))
        .with_state(state)
}

async fn connect_v0(
    State(state): State<SignalState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Result<Upgrade, UpgradeRefusal>,
) -> Response {
    connect(state, Endpoint::Rtc, query.unwrap_or_default(), headers, upgrade).await
}

async fn connect_v1(
    State(state): State<SignalState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Result<Upgrade, UpgradeRefusal>,
) -> Response {
    connect(state, Endpoint::RtcV1, query.unwrap_or_default(), headers, upgrade).await
}

async fn validate_v0(
    state: State<SignalState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    validate(&state, Endpoint::Rtc, &query.unwrap_or_default(), &headers).await
}

async fn validate_v1(
    state: State<SignalState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    validate(&state, Endpoint::RtcV1, &query.unwrap_or_default(), &headers).await
}

/// Why a client is not let in.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    /// Which kind, for the metrics.
    kind: &'static str,
    reason: String,
}

impl From<JoinError> for Refusal {
    fn from(error: JoinError) -> Self {
        let (status, kind) = match error {
            JoinError::RoomNotFound => (StatusCode::NOT_FOUND, "room_not_found"),
            JoinError::RoomFull(_) => (StatusCode::FORBIDDEN, "room_full"),
            JoinError::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            JoinError::UnknownParticipant => (StatusCode::GONE, "gone"),
            JoinError::NoNode(_) => (StatusCode::SERVICE_UNAVAILABLE, "no_node"),
            JoinError::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        };
        Self { status, kind, reason: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, [ANY_ORIGIN], self.reason).into_response()
    }
}

/// The page may come from elsewhere, and its script has to read the reason of a refusal.
const ANY_ORIGIN: (header::HeaderName, HeaderValue) =
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));

/// A request that may go on to its room.
struct Admitted {
    grants: Grants,
    room: String,
    identity: String,
    permissions: Permissions,
    params: ConnectParams,
}

fn admit(
    state: &SignalState,
    endpoint: Endpoint,
    query: &str,
    headers: &HeaderMap,
) -> Result<Admitted, Refusal> {
    let refuse = |error: auth::AuthError| Refusal {
        status: error.status(),
        kind: "token",
        reason: error.to_string(),
    };
    let token = auth::token_of(headers, query).map_err(refuse)?;
    let grants = state.shared.keys.verify(&token, SystemTime::now()).map_err(refuse)?;
    let room = grants.join_room().map_err(refuse)?.to_owned();
    let params = ConnectParams::from_query(endpoint, query).map_err(|error| Refusal {
        status: error.status(),
        kind: "invalid",
        reason: error.to_string(),
    })?;
    let mut identity = grants.identity.clone();
    let mut permissions = grants.permissions();
    if let Some(suffix) = &params.publish {
        // A second connection of the same person that only sends (a screen, for example).
        identity = format!("{identity}#{suffix}");
        if identity.len() > auth::MAX_IDENTITY {
            let reason = format!("identity with its suffix: at most {} bytes", auth::MAX_IDENTITY);
            return Err(Refusal { status: StatusCode::BAD_REQUEST, kind: "invalid", reason });
        }
        permissions.can_subscribe = false;
    }
    Ok(Admitted { grants, room, identity, permissions, params })
}

async fn validate(
    state: &SignalState,
    endpoint: Endpoint,
    query: &str,
    headers: &HeaderMap,
) -> Response {
    let admitted = match admit(state, endpoint, query, headers) {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal.into_response(),
    };
    match check(state, &admitted).await {
        Ok(()) => ([ANY_ORIGIN], "success").into_response(),
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// Whether a join would be let in now.
async fn check(state: &SignalState, admitted: &Admitted) -> Result<(), JoinError> {
    let rooms = &state.shared.rooms;
    if !rooms.room_exists(&admitted.room).await {
        return Err(JoinError::RoomNotFound);
    }
    if !rooms.is_ready() {
        return Err(JoinError::NoNode("none is connected".to_owned()));
    }
    let Some(handle) = rooms.get(&admitted.room) else { return Ok(()) };
    let Ok(room) = handle.room().await else { return Ok(()) };
    let full = room.max_participants > 0 && room.num_participants >= room.max_participants;
    // Who is in already takes its own place.
    if full && handle.participant(&admitted.identity).await.is_err() {
        return Err(JoinError::RoomFull(room.max_participants));
    }
    Ok(())
}

async fn connect(
    state: SignalState,
    endpoint: Endpoint,
    query: String,
    headers: HeaderMap,
    upgrade: Result<Upgrade, UpgradeRefusal>,
) -> Response {
    let admitted = match admit(&state, endpoint, &query, &headers) {
        Ok(admitted) => admitted,
        Err(refusal) => return refuse(&state, refusal),
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(refusal) => {
            state.shared.metrics.refuse("no_upgrade");
            return refusal.into_response();
        }
    };
    // The join must not be torn in the middle when the client goes away: it runs on its own.
    let entered = tokio::spawn(enter(state.clone(), admitted)).await;
    let socket = match entered {
        Ok(Ok(socket)) => socket,
        Ok(Err(refusal)) => return refuse(&state, refusal),
        Err(error) => {
            tracing::error!(%error, "join failed");
            let reason = "internal error".to_owned();
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return refuse(&state, Refusal { status, kind: "internal", reason });
        }
    };
    let config = state.shared.config.clone();
    // Dropped without having run (a client that left during the upgrade), the socket tells its session by itself.
    upgrade.grant(move |stream| ws::run(stream, socket, config))
}

fn refuse(state: &SignalState, refusal: Refusal) -> Response {
    state.shared.metrics.refuse(refusal.kind);
    refusal.into_response()
}

/// Joins or resumes; the session's first message is on its way when this returns.
async fn enter(state: SignalState, admitted: Admitted) -> Result<Socket, Refusal> {
    match admitted.params.reconnect.as_ref().map(|reconnect| reconnect.participant_sid.clone()) {
        None => join(state, admitted).await,
        Some(sid) => Ok(resume(state, admitted, sid.unwrap_or_default()).await),
    }
}

async fn join(state: SignalState, admitted: Admitted) -> Result<Socket, Refusal> {
    let (events_in, mut events) = mpsc::channel(EVENT_QUEUE);
    let two_peers = !admitted.params.single_peer;
    let request = join_request(&admitted);
    let (room, joined) = state.shared.rooms.join(&admitted.room, request, events_in).await?;
    let (socket, connection) = ws::pair(&state.shared.config, state.shared.sockets.token());
    let now = Instant::now();
    let facts = facts(joined.sid.clone(), &admitted, now);
    let Admitted { grants, params, .. } = admitted;
    let mut session = Session::join(facts, state.shared.config.session.clone(), joined, now);
    // Tracks that are there already ride in the first description.
    while let Ok(event) = events.try_recv() {
        session.handle_room(*event, now);
    }
    for request in params.add_tracks {
        session.handle_request(request_of(proto::signal_request::Message::AddTrack(request)), now);
    }
    if let Some(offer) = params.offer {
        session.handle_request(request_of(proto::signal_request::Message::Offer(offer)), now);
    }
    state.shared.metrics.joins.inc();
    Driver::spawn(state, Parts { session, room, grants, connection, events, two_peers });
    Ok(socket)
}

fn join_request(admitted: &Admitted) -> JoinRequest {
    let Admitted { grants, params, permissions, .. } = admitted;
    let mut metadata = grants.metadata.clone();
    let mut attributes = grants.attributes.clone();
    if permissions.can_update_own_metadata {
        if let Some(own) = &params.metadata {
            metadata.clone_from(own);
        }
        attributes.extend(params.attributes.clone());
    }
    JoinRequest {
        identity: admitted.identity.clone(),
        name: grants.name.clone(),
        metadata,
        attributes,
        permissions: permissions.clone(),
        kind: grants.kind,
        auto_subscribe: params.auto_subscribe,
        two_peers: !params.single_peer,
        protocol: u32::try_from(params.client.protocol).unwrap_or(0),
        client_protocol: params.client.client_protocol,
    }
}

/// A client that comes back. Whatever fails, the upgrade succeeds: the first message then tells it to start anew.
async fn resume(state: SignalState, admitted: Admitted, sid: String) -> Socket {
    let sid = ParticipantSid::from(sid);
    let (socket, connection) = ws::pair(&state.shared.config, state.shared.sockets.token());
    let resumed = try_resume(&state, admitted, &sid, connection).await;
    state.shared.metrics.resume(if resumed.is_ok() { "resumed" } else { "told_to_join_anew" });
    if let Err(connection) = resumed {
        tracing::info!(participant = %sid, "cannot resume: told to reconnect");
        let leave = leave_message(
            proto::DisconnectReason::StateMismatch,
            proto::leave_request::Action::Reconnect,
        );
        connection.send(ws::Outgoing::Message(leave.into()));
    }
    socket
}

async fn try_resume(
    state: &SignalState,
    admitted: Admitted,
    sid: &ParticipantSid,
    connection: Connection,
) -> Result<(), Connection> {
    let two_peers = !admitted.params.single_peer;
    let live = state.shared.sessions.get(sid).map(|entry| entry.value().clone());
    if live.as_ref().is_some_and(|live| live.two_peers != two_peers) {
        return Err(connection);
    }
    let (events_in, events) = mpsc::channel(EVENT_QUEUE);
    let (room, resumed) =
        match state.shared.rooms.resume(&admitted.room, sid, &admitted.identity, events_in).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, participant = %sid, "resume refused");
                return Err(connection);
            }
        };
    let now = Instant::now();
    let facts = facts(sid.clone(), &admitted, now);
    let Admitted { grants, params, .. } = admitted;
    let requests = params
        .sync_state
        .map(proto::signal_request::Message::SyncState)
        .into_iter()
        .chain(params.offer.map(proto::signal_request::Message::Offer))
        .map(request_of)
        .collect();
    if let Some(live) = live {
        // The session may end while we speak.
        let Ok(permit) = live.inbox.reserve().await else { return Err(connection) };
        permit.send(Box::new(Attach { connection, room, resumed, events, grants, requests }));
        return Ok(());
    }
    match Session::restore(facts, state.shared.config.session.clone(), resumed, now) {
        Ok(mut session) => {
            tracing::info!(participant = %sid, "session rebuilt from the media node");
            for request in requests {
                session.handle_request(request, now);
            }
            Driver::spawn(
                state.clone(),
                Parts { session, room, grants, connection, events, two_peers },
            );
            Ok(())
        }
        Err(error) => {
            tracing::warn!(%error, participant = %sid, "session cannot be rebuilt");
            give_up(room, sid.clone());
            Err(connection)
        }
    }
}

fn give_up(room: RoomHandle, sid: ParticipantSid) {
    tokio::spawn(async move { room.leave(&sid, proto::DisconnectReason::StateMismatch).await });
}

fn facts(sid: ParticipantSid, admitted: &Admitted, now: Instant) -> SessionFacts {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SessionFacts {
        sid,
        identity: admitted.identity.clone(),
        two_peers: !admitted.params.single_peer,
        syncs_streams: admitted.params.syncs_streams(),
        may_be_offered_repair: admitted.params.may_be_offered_repair(),
        permissions: admitted.permissions.clone(),
        unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX),
        started: now,
        seed: rand::random(),
    }
}

fn request_of(message: proto::signal_request::Message) -> proto::SignalRequest {
    proto::SignalRequest { message: Some(message) }
}
