//! Who may call: the token of a request, and what the calls need.

use std::{sync::Arc, time::SystemTime};

use http::HeaderMap;

use crate::{
    auth::{AuthError, Grants, Keys, token_of},
    room::RoomRegistry,
};

/// What the APIs stand on; cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// Live rooms.
    pub rooms: RoomRegistry,
    /// Whose tokens are taken.
    pub keys: Arc<Keys>,
}

impl ApiState {
    pub(super) fn grants(&self, headers: &HeaderMap) -> Result<Grants, AuthError> {
        // Calls are not made from an address bar: no token in the query.
        let token = token_of(headers, "")?;
        self.keys.verify(&token, SystemTime::now())
    }
}
