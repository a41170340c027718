use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use livekit_token::Claims;
use rand::{Rng, distr::Alphanumeric};

use super::{AuthError, Grants, Permissions};
use crate::config::Secret;

/// Clocks of the server and of whoever signs tokens may differ by this much.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Shortest life of a refreshed token: long enough for a client to come back after a bad network.
pub const MIN_REFRESH_LIFE: Duration = Duration::from_secs(600);
/// Metadata is part of a token, and bounded by 512 KiB.
const MAX_TOKEN: usize = 1 << 20;

/// Why a set of keys is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key at all.
    #[error("at least one API key is needed")]
    None,
    /// An empty name.
    #[error("an API key has no name")]
    EmptyKey,
    /// An empty secret.
    #[error("API key {0} has no secret")]
    EmptySecret(String),
    /// The same name twice.
    #[error("API key {0} is there twice")]
    Twice(String),
}

/// API keys and their secrets.
#[derive(Clone, Debug)]
pub struct Keys {
    secrets: BTreeMap<String, Secret>,
}

impl Keys {
    /// Keys by name, with their secrets.
    pub fn new(keys: impl IntoIterator<Item = (String, String)>) -> Result<Self, KeyError> {
        let mut secrets = BTreeMap::new();
        for (key, secret) in keys {
            if key.is_empty() {
                return Err(KeyError::EmptyKey);
            }
            if secret.is_empty() {
                return Err(KeyError::EmptySecret(key));
            }
            if secrets.insert(key.clone(), Secret::new(secret)).is_some() {
                return Err(KeyError::Twice(key));
            }
        }
        if secrets.is_empty() { Err(KeyError::None) } else { Ok(Self { secrets }) }
    }

    /// The key `devkey` with a random secret.
    #[must_use]
    pub fn development() -> Self {
        let secret =
            rand::rng().sample_iter(Alphanumeric).take(40).map(char::from).collect::<String>();
        Self { secrets: BTreeMap::from([("devkey".to_owned(), Secret::new(secret))]) }
    }

    /// Names and secrets, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.secrets.iter().map(|(key, secret)| (key.as_str(), secret))
    }

    /// Verifies a token (JWT, HS256) and returns what it says.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Grants, AuthError> {
        if token.len() > MAX_TOKEN {
            return Err(AuthError::Malformed("it is too long"));
        }
        // The key's name is needed before its secret can be.
        let unverified = Claims::from_unverified(token).map_err(|_| {
            AuthError::Malformed("it is not a JWT with the claims of an access token")
        })?;
        let secret = self.secrets.get(&unverified.iss).ok_or(AuthError::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked below, against the caller's clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let key = DecodingKey::from_secret(secret.reveal().as_bytes());
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => AuthError::BadSignature,
                ErrorKind::InvalidAlgorithm => AuthError::Malformed("it is not signed with HS256"),
                _ => AuthError::Malformed("it cannot be read"),
            })?
            .claims;
        let now = seconds(now);
        let skew = CLOCK_SKEW.as_secs();
        let expires = u64::try_from(claims.exp).unwrap_or(u64::MAX);
        let not_before = u64::try_from(claims.nbf).unwrap_or(u64::MAX);
        if expires == 0 {
            return Err(AuthError::NoExpiry);
        }
        if expires.saturating_add(skew) < now {
            return Err(AuthError::Expired);
        }
        if not_before > now.saturating_add(skew) {
            return Err(AuthError::NotYetValid);
        }
        Ok(Grants::from_claims(claims))
    }

    /// Signs a token: with the key that the grants name, else with the first. `None` when that key is gone.
    #[must_use]
    pub fn mint(&self, grants: &Grants, life: Duration, now: SystemTime) -> Option<String> {
        let (api_key, secret) = match grants.api_key.as_str() {
            "" => self.secrets.iter().next(),
            key => self.secrets.get_key_value(key),
        }?;
        install_signatures();
        let now = seconds(now);
        let expires = now.saturating_add(life.as_secs());
        let claims = grants.to_claims(api_key, expires, now);
        let key = EncodingKey::from_secret(secret.reveal().as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).ok()
    }

    /// A fresh token for a connected participant, which lives as long as its own, but ten minutes at least.
    #[must_use]
    pub fn refresh(
        &self,
        grants: &Grants,
        permissions: &Permissions,
        now: SystemTime,
    ) -> Option<String> {
        let remaining = grants.expires_at.duration_since(now).unwrap_or(Duration::ZERO);
        self.mint(&grants.with_permissions(permissions), remaining.max(MIN_REFRESH_LIFE), now)
    }
}

/// The token of a request: `Authorization: Bearer`, else `access_token` of the query.
pub fn token_of(headers: &HeaderMap, query: &str) -> Result<String, AuthError> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let value = value.to_str().map_err(|_| AuthError::Malformed("the Authorization header"))?;
        let (scheme, token) = value.trim().split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
            return Err(AuthError::Malformed("the Authorization header is not `Bearer <token>`"));
        }
        return Ok(token.trim().to_owned());
    }
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, value)| name == "access_token" && !value.is_empty())
        .map(|(_, token)| token.into_owned())
        .ok_or(AuthError::Missing)
}

/// jsonwebtoken takes its signatures from a process-wide provider, which livekit-token installs on first use.
fn install_signatures() {
    let _ = Claims::from_unverified("");
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
