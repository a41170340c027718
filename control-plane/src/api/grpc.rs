//! The public gRPC API `chappe.v1`, with health and reflection.

use std::time::Duration;

use axum::Router;
use chappe_proto::v1 as api;
use http::HeaderMap;
use livekit_protocol as proto;
use tonic::{Request, Response, Status};

use super::{ApiState, stats};
use crate::{
    auth::{AuthError, Grants},
    room::{CreateError, RequestError, RoomHandle, RoomOptions},
};

/// Metadata of 512 KiB and what stands around it.
const MAX_REQUEST: usize = 2 << 20;

/// Routes of the gRPC services, to be merged with others on one port: each service has its own path, so that
/// unknown paths stay 404.
pub fn grpc_routes(state: ApiState) -> Router {
    use api::{participant_service_server as participants, room_service_server as rooms};
    let room_service = rooms::RoomServiceServer::new(Service(state.clone()))
        .max_decoding_message_size(MAX_REQUEST);
    let participant_service = participants::ParticipantServiceServer::new(Service(state))
        .max_decoding_message_size(MAX_REQUEST);
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        for name in [rooms::SERVICE_NAME, participants::SERVICE_NAME] {
            reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
    });
    let mut router = Router::new()
        .route_service(&path(rooms::SERVICE_NAME), room_service)
        .route_service(&path(participants::SERVICE_NAME), participant_service)
        .route_service(&path("grpc.health.v1.Health"), health);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(chappe_proto::DESCRIPTORS)
        .build_v1();
    match reflection {
        Ok(reflection) => {
            router = router.route_service(&path("grpc.reflection.v1.ServerReflection"), reflection);
        }
        Err(error) => tracing::error!(%error, "no reflection: the schema cannot be read"),
    }
    router
}

fn path(service: &str) -> String {
    format!("/{service}/{{method}}")
}

#[derive(Clone)]
struct Service(ApiState);

impl Service {
    fn grants<T>(&self, request: &Request<T>) -> Result<Grants, Status> {
        let headers: HeaderMap = request.metadata().clone().into_headers();
        self.0.grants(&headers).map_err(|error| Status::unauthenticated(error.to_string()))
    }

    /// The room that the token lets its holder manage.
    fn managed<T>(&self, request: &Request<T>, room: &str) -> Result<RoomHandle, Status> {
        let grants = self.grants(request)?;
        grants.require_room_admin(room).map_err(denied)?;
        self.0.rooms.get(room).ok_or_else(|| Status::not_found(format!("room {room}")))
    }
}

#[tonic::async_trait]
impl api::room_service_server::RoomService for Service {
    async fn create_room(
        &self,
        request: Request<api::CreateRoomRequest>,
    ) -> Result<Response<api::Room>, Status> {
        self.grants(&request)?.require_room_create().map_err(denied)?;
        let request = request.into_inner();
        let defaults = &self.0.rooms.policy().defaults;
        let options = RoomOptions {
            metadata: request.metadata,
            max_participants: request.max_participants,
            empty_timeout: timeout("empty_timeout", request.empty_timeout, defaults.empty_timeout)?,
            departure_timeout: timeout(
                "departure_timeout",
                request.departure_timeout,
                defaults.departure_timeout,
            )?,
        };
        let room =
            self.0.rooms.create(&request.name, options).await.map_err(|error| match error {
                CreateError::Invalid(why) => Status::invalid_argument(why),
                CreateError::Unavailable(why) => Status::unavailable(why.to_string()),
            })?;
        Ok(Response::new(room_of(room)))
    }

    async fn get_room(
        &self,
        request: Request<api::GetRoomRequest>,
    ) -> Result<Response<api::Room>, Status> {
        let grants = self.grants(&request)?;
        let name = request.into_inner().name;
        grants.require_room_list().or_else(|_| grants.require_room_admin(&name)).map_err(denied)?;
        let missing = || Status::not_found(format!("room {name}"));
        let room = self.0.rooms.get(&name).ok_or_else(missing)?;
        let info = room.room().await.map_err(|_| missing())?;
        Ok(Response::new(room_of(info)))
    }

    async fn list_rooms(
        &self,
        request: Request<api::ListRoomsRequest>,
    ) -> Result<Response<api::ListRoomsResponse>, Status> {
        self.grants(&request)?.require_room_list().map_err(denied)?;
        let names = request.into_inner().names;
        let rooms = self.0.rooms.list().await.into_iter();
        let wanted = rooms.filter(|room| names.is_empty() || names.contains(&room.name));
        let rooms = wanted.map(room_of).collect();
        Ok(Response::new(api::ListRoomsResponse { rooms }))
    }

    async fn delete_room(
        &self,
        request: Request<api::DeleteRoomRequest>,
    ) -> Result<Response<api::DeleteRoomResponse>, Status> {
        self.grants(&request)?.require_room_create().map_err(denied)?;
        let name = request.into_inner().name;
        if !self.0.rooms.delete(&name).await {
            return Err(Status::not_found(format!("room {name}")));
        }
        Ok(Response::new(api::DeleteRoomResponse {}))
    }
}

#[tonic::async_trait]
impl api::participant_service_server::ParticipantService for Service {
    async fn list_participants(
        &self,
        request: Request<api::ListParticipantsRequest>,
    ) -> Result<Response<api::ListParticipantsResponse>, Status> {
        let room = self.managed(&request, &request.get_ref().room)?;
        let everybody = room.participants().await.map_err(refused)?;
        let participants = everybody.into_iter().map(participant_of).collect();
        Ok(Response::new(api::ListParticipantsResponse { participants }))
    }

    async fn get_participant(
        &self,
        request: Request<api::GetParticipantRequest>,
    ) -> Result<Response<api::Participant>, Status> {
        let room = self.managed(&request, &request.get_ref().room)?;
        let found = room.participant(&request.get_ref().identity).await.map_err(refused)?;
        Ok(Response::new(participant_of(found)))
    }

    async fn get_participant_stats(
        &self,
        request: Request<api::GetParticipantStatsRequest>,
    ) -> Result<Response<api::ParticipantStats>, Status> {
        let room = self.managed(&request, &request.get_ref().room)?;
        let identity = request.into_inner().identity;
        let report = room.report(&identity).await.map_err(refused)?;
        Ok(Response::new(stats::participant_stats(identity, report)))
    }

    async fn remove_participant(
        &self,
        request: Request<api::RemoveParticipantRequest>,
    ) -> Result<Response<api::RemoveParticipantResponse>, Status> {
        let room = self.managed(&request, &request.get_ref().room)?;
        room.remove_participant(&request.get_ref().identity).await.map_err(refused)?;
        Ok(Response::new(api::RemoveParticipantResponse {}))
    }
}

fn denied(error: AuthError) -> Status {
    Status::permission_denied(error.to_string())
}

fn refused(error: RequestError) -> Status {
    let text = error.to_string();
    match error {
        RequestError::NotAllowed(_) => Status::permission_denied(text),
        RequestError::NotFound(_) => Status::not_found(text),
        RequestError::LimitExceeded(_) => Status::resource_exhausted(text),
        RequestError::Invalid(_) => Status::invalid_argument(text),
        RequestError::Node(_) => Status::unavailable(text),
        // Between looking the room up and asking it, it ended.
        RequestError::Closed => Status::not_found("the room ended"),
    }
}

/// Longest timeout of a room, 136 years: more says the same, and no clock reaches its end.
const LONGEST_SECONDS: i64 = u32::MAX as i64;

/// Absent and 0 are the default.
fn timeout(
    field: &str,
    asked: Option<prost_types::Duration>,
    default: Duration,
) -> Result<Duration, Status> {
    let Some(mut asked) = asked else { return Ok(default) };
    // The conversion negates, which the smallest number does not survive.
    asked.seconds = asked.seconds.clamp(-LONGEST_SECONDS, LONGEST_SECONDS);
    let asked = Duration::try_from(asked)
        .map_err(|_| Status::invalid_argument(format!("{field}: expected a positive duration")))?;
    Ok(if asked.is_zero() { default } else { asked })
}

fn timestamp(unix_ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(unix_ms.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp { seconds: unix_ms.div_euclid(1000), nanos }
}

fn seconds(seconds: u32) -> prost_types::Duration {
    prost_types::Duration { seconds: seconds.into(), nanos: 0 }
}

fn room_of(room: proto::Room) -> api::Room {
    api::Room {
        sid: room.sid,
        name: room.name,
        metadata: room.metadata,
        created_at: Some(timestamp(room.creation_time_ms)),
        num_participants: room.num_participants,
        num_publishers: room.num_publishers,
        max_participants: room.max_participants,
        empty_timeout: Some(seconds(room.empty_timeout)),
        departure_timeout: Some(seconds(room.departure_timeout)),
    }
}

fn participant_of(participant: proto::ParticipantInfo) -> api::Participant {
    use api::participant::State;
    let state = match participant.state() {
        proto::participant_info::State::Active => State::Active,
        _ => State::Joined,
    };
    api::Participant {
        sid: participant.sid,
        identity: participant.identity,
        name: participant.name,
        state: state.into(),
        metadata: participant.metadata,
        attributes: participant.attributes,
        joined_at: Some(timestamp(participant.joined_at_ms)),
        tracks: participant.tracks.into_iter().map(track_of).collect(),
    }
}

fn track_of(track: proto::TrackInfo) -> api::Track {
    use api::track::{Kind, Source};
    let kind = match track.r#type() {
        proto::TrackType::Audio => Kind::Audio,
        proto::TrackType::Video => Kind::Video,
        proto::TrackType::Data => Kind::Unspecified,
    };
    let source = match track.source() {
        proto::TrackSource::Camera => Source::Camera,
        proto::TrackSource::Microphone => Source::Microphone,
        proto::TrackSource::ScreenShare => Source::ScreenShare,
        proto::TrackSource::ScreenShareAudio => Source::ScreenShareAudio,
        proto::TrackSource::Unknown => Source::Unspecified,
    };
    let layers = track.codecs.iter().map(|codec| codec.layers.len()).max().unwrap_or(0);
    api::Track {
        sid: track.sid,
        name: track.name,
        kind: kind.into(),
        source: source.into(),
        muted: track.muted,
        mime_type: track.mime_type,
        width: track.width,
        height: track.height,
        simulcast: kind == Kind::Video && layers > 1,
    }
}
