//! The wire protocol's server API: `POST /twirp/livekit.RoomService/<Method>`, protobuf or JSON.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, StatusCode, header};
use livekit_protocol as proto;
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use super::ApiState;
use crate::{
    auth::{AuthError, Grants},
    room::{
        CreateError, ProfileUpdate, RequestError, RoomHandle, RoomOptions, TrackSid, permissions_of,
    },
};

/// A user packet may be this large (the clients' own bound).
const MAX_DATA: usize = 64_000;

/// Routes of the server API.
pub fn routes(state: ApiState) -> Router {
    Router::new()
        .route("/twirp/livekit.RoomService/{method}", post(room_service))
        .route("/twirp/{service}/{method}", post(other_service))
        .with_state(state)
}

/// Twirp's error: a code, its status, and a text for the caller.
#[derive(Debug)]
struct TwirpError {
    code: &'static str,
    status: StatusCode,
    msg: String,
}

impl TwirpError {
    fn new(code: &'static str, status: StatusCode, msg: impl Into<String>) -> Self {
        Self { code, status, msg: msg.into() }
    }

    fn denied(error: AuthError) -> Self {
        Self::new("permission_denied", StatusCode::FORBIDDEN, error.to_string())
    }

    fn no_room(room: &str) -> Self {
        let msg = format!("requested room does not exist: {room}");
        Self::new("not_found", StatusCode::NOT_FOUND, msg)
    }

    fn invalid(msg: impl Into<String>) -> Self {
        Self::new("invalid_argument", StatusCode::BAD_REQUEST, msg)
    }

    fn malformed(msg: impl Into<String>) -> Self {
        Self::new("malformed", StatusCode::BAD_REQUEST, msg)
    }
}

impl From<RequestError> for TwirpError {
    fn from(error: RequestError) -> Self {
        let (code, status) = match &error {
            RequestError::NotAllowed(_) => ("permission_denied", StatusCode::FORBIDDEN),
            RequestError::NotFound(_) | RequestError::Closed => {
                ("not_found", StatusCode::NOT_FOUND)
            }
            RequestError::LimitExceeded(_) => ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
            RequestError::Invalid(_) => ("invalid_argument", StatusCode::BAD_REQUEST),
            RequestError::Node(_) => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
        };
        Self::new(code, status, error.to_string())
    }
}

impl From<CreateError> for TwirpError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Invalid(why) => Self::invalid(why),
            CreateError::Unavailable(why) => {
                Self::new("unavailable", StatusCode::SERVICE_UNAVAILABLE, why.to_string())
            }
        }
    }
}

impl IntoResponse for TwirpError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "code": self.code, "msg": self.msg });
        (self.status, axum::Json(body)).into_response()
    }
}

/// How a caller writes and reads messages.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Self, TwirpError> {
        let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = text.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match kind.to_ascii_lowercase().as_str() {
            "application/json" => Ok(Self::Json),
            "application/protobuf" => Ok(Self::Protobuf),
            other => {
                let msg = format!("unexpected Content-Type: {other:?}");
                Err(TwirpError::new("bad_route", StatusCode::NOT_FOUND, msg))
            }
        }
    }

    fn read<T: Message + Default + DeserializeOwned>(self, body: &[u8]) -> Result<T, TwirpError> {
        match self {
            Self::Json => serde_json::from_slice(body)
                .map_err(|error| TwirpError::malformed(error.to_string())),
            Self::Protobuf => {
                T::decode(body).map_err(|error| TwirpError::malformed(error.to_string()))
            }
        }
    }

    fn write<T: Message + Serialize>(self, answer: &T) -> Response {
        match self {
            Self::Json => axum::Json(answer).into_response(),
            Self::Protobuf => {
                ([(header::CONTENT_TYPE, "application/protobuf")], answer.encode_to_vec())
                    .into_response()
            }
        }
    }
}

async fn other_service(Path((service, method)): Path<(String, String)>) -> TwirpError {
    unimplemented(&service, &method)
}

fn unimplemented(service: &str, method: &str) -> TwirpError {
    let msg = format!("{service}/{method} is not implemented by this server");
    TwirpError::new("unimplemented", StatusCode::NOT_IMPLEMENTED, msg)
}

async fn room_service(
    State(state): State<ApiState>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, TwirpError> {
    let encoding = Encoding::of(&headers)?;
    let grants = state.grants(&headers).map_err(|error| {
        TwirpError::new("unauthenticated", StatusCode::UNAUTHORIZED, error.to_string())
    })?;
    let call = Call { state: &state, grants };
    let (read, body) = (encoding, body.as_ref());
    Ok(match method.as_str() {
        "CreateRoom" => encoding.write(&call.create_room(read.read(body)?).await?),
        "ListRooms" => encoding.write(&call.list_rooms(read.read(body)?).await?),
        "DeleteRoom" => encoding.write(&call.delete_room(read.read(body)?).await?),
        "ListParticipants" => encoding.write(&call.list_participants(read.read(body)?).await?),
        "GetParticipant" => encoding.write(&call.get_participant(read.read(body)?).await?),
        "RemoveParticipant" => encoding.write(&call.remove_participant(read.read(body)?).await?),
        "MutePublishedTrack" => encoding.write(&call.mute_track(read.read(body)?).await?),
        "UpdateParticipant" => encoding.write(&call.update_participant(read.read(body)?).await?),
        "UpdateSubscriptions" => {
            encoding.write(&call.update_subscriptions(read.read(body)?).await?)
        }
        "SendData" => encoding.write(&call.send_data(read.read(body)?).await?),
        "UpdateRoomMetadata" => encoding.write(&call.update_metadata(read.read(body)?).await?),
        other => return Err(unimplemented("livekit.RoomService", other)),
    })
}

/// One call, authenticated.
struct Call<'a> {
    state: &'a ApiState,
    grants: Grants,
}

impl Call<'_> {
    fn managed(&self, room: &str) -> Result<RoomHandle, TwirpError> {
        self.grants.require_room_admin(room).map_err(TwirpError::denied)?;
        self.state.rooms.get(room).ok_or_else(|| TwirpError::no_room(room))
    }

    async fn create_room(
        &self,
        request: proto::CreateRoomRequest,
    ) -> Result<proto::Room, TwirpError> {
        self.grants.require_room_create().map_err(TwirpError::denied)?;
        let defaults = &self.state.rooms.policy().defaults;
        let seconds = |asked: u32, default| match asked {
            0 => default,
            asked => std::time::Duration::from_secs(asked.into()),
        };
        let options = RoomOptions {
            metadata: request.metadata,
            max_participants: request.max_participants,
            empty_timeout: seconds(request.empty_timeout, defaults.empty_timeout),
            departure_timeout: seconds(request.departure_timeout, defaults.departure_timeout),
        };
        Ok(self.state.rooms.create(&request.name, options).await?)
    }

    async fn list_rooms(
        &self,
        request: proto::ListRoomsRequest,
    ) -> Result<proto::ListRoomsResponse, TwirpError> {
        self.grants.require_room_list().map_err(TwirpError::denied)?;
        let mut rooms = self.state.rooms.list().await;
        rooms.retain(|room| request.names.is_empty() || request.names.contains(&room.name));
        Ok(proto::ListRoomsResponse { rooms })
    }

    async fn delete_room(
        &self,
        request: proto::DeleteRoomRequest,
    ) -> Result<proto::DeleteRoomResponse, TwirpError> {
        self.grants.require_room_create().map_err(TwirpError::denied)?;
        if !self.state.rooms.delete(&request.room).await {
            return Err(TwirpError::no_room(&request.room));
        }
        Ok(proto::DeleteRoomResponse {})
    }

    async fn list_participants(
        &self,
        request: proto::ListParticipantsRequest,
    ) -> Result<proto::ListParticipantsResponse, TwirpError> {
        let participants = self.managed(&request.room)?.participants().await?;
        Ok(proto::ListParticipantsResponse { participants })
    }

    async fn get_participant(
        &self,
        request: proto::RoomParticipantIdentity,
    ) -> Result<proto::ParticipantInfo, TwirpError> {
        Ok(self.managed(&request.room)?.participant(&request.identity).await?)
    }

    async fn remove_participant(
        &self,
        request: proto::RoomParticipantIdentity,
    ) -> Result<proto::RemoveParticipantResponse, TwirpError> {
        self.managed(&request.room)?.remove_participant(&request.identity).await?;
        Ok(proto::RemoveParticipantResponse {})
    }

    async fn mute_track(
        &self,
        request: proto::MuteRoomTrackRequest,
    ) -> Result<proto::MuteRoomTrackResponse, TwirpError> {
        let track = TrackSid(request.track_sid.into());
        let room = self.managed(&request.room)?;
        let info = room.mute_published_track(&request.identity, &track, request.muted).await?;
        Ok(proto::MuteRoomTrackResponse { track: Some(info) })
    }

    async fn update_participant(
        &self,
        request: proto::UpdateParticipantRequest,
    ) -> Result<proto::ParticipantInfo, TwirpError> {
        let room = self.managed(&request.room)?;
        // Empty is "as it was": the request has no other way to say so.
        let profile = ProfileUpdate {
            name: Some(request.name).filter(|name| !name.is_empty()),
            metadata: Some(request.metadata).filter(|metadata| !metadata.is_empty()),
            attributes: request.attributes,
        };
        let permissions = request.permission.as_ref().map(permissions_of);
        Ok(room.update_participant(&request.identity, profile, permissions).await?)
    }

    async fn update_subscriptions(
        &self,
        request: proto::UpdateSubscriptionsRequest,
    ) -> Result<proto::UpdateSubscriptionsResponse, TwirpError> {
        let room = self.managed(&request.room)?;
        let grouped = request.participant_tracks.into_iter().flat_map(|group| group.track_sids);
        let tracks = request.track_sids.into_iter().chain(grouped);
        let tracks = tracks.map(|sid| TrackSid(sid.into())).collect();
        room.update_subscriptions_of(&request.identity, tracks, request.subscribe).await?;
        Ok(proto::UpdateSubscriptionsResponse {})
    }

    async fn send_data(
        &self,
        request: proto::SendDataRequest,
    ) -> Result<proto::SendDataResponse, TwirpError> {
        let room = self.managed(&request.room)?;
        if request.data.len() > MAX_DATA {
            return Err(TwirpError::invalid(format!("data: at most {MAX_DATA} bytes")));
        }
        let reliable = request.kind() == proto::data_packet::Kind::Reliable;
        #[allow(deprecated)] // callers of some age still name sids
        let sids = &request.destination_sids;
        let mut destinations = request.destination_identities.clone();
        if !sids.is_empty() {
            let people = room.participants().await?.into_iter();
            let named = people.filter(|person| sids.contains(&person.sid));
            destinations.extend(named.map(|person| person.identity));
            if destinations.is_empty() {
                return Err(TwirpError::new(
                    "not_found",
                    StatusCode::NOT_FOUND,
                    "no such participant",
                ));
            }
        }
        let packet = data_packet(request, &destinations);
        room.send_data(packet, reliable, destinations).await?;
        Ok(proto::SendDataResponse {})
    }

    async fn update_metadata(
        &self,
        request: proto::UpdateRoomMetadataRequest,
    ) -> Result<proto::Room, TwirpError> {
        Ok(self.managed(&request.room)?.set_room_metadata(request.metadata).await?)
    }
}

#[allow(deprecated)] // clients of some age still read `kind` and the packet's own destinations
fn data_packet(request: proto::SendDataRequest, destinations: &[String]) -> proto::DataPacket {
    let user = proto::UserPacket {
        payload: request.data,
        topic: request.topic,
        destination_identities: destinations.to_vec(),
        nonce: request.nonce,
        ..Default::default()
    };
    proto::DataPacket {
        kind: request.kind,
        destination_identities: destinations.to_vec(),
        value: Some(proto::data_packet::Value::User(user)),
        ..Default::default()
    }
}
