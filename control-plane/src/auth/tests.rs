use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, StatusCode, header::AUTHORIZATION};
use livekit_protocol::participant_info::Kind;

use super::*;

const SECRET: &str = "a secret of some length, for tests only";

fn keys() -> Keys {
    let pairs = [("devkey", SECRET), ("other", "another secret, just as long as the first")];
    Keys::new(pairs.map(|(key, secret)| (key.to_owned(), secret.to_owned()))).expect("keys")
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn at(offset: i64) -> SystemTime {
    let moved = Duration::from_secs(offset.unsigned_abs());
    if offset < 0 { now() - moved } else { now() + moved }
}

fn token(grants: &Grants) -> String {
    keys().mint(grants, Duration::from_secs(3600), now()).expect("a key")
}

/// A token with these claims, signed whatever they are.
fn raw(claims: &serde_json::Value, secret: &str) -> String {
    // Installs the signatures.
    let _ = livekit_token::Claims::from_unverified("");
    jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
        claims,
        &jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()),
    )
    .expect("a token")
}

#[test]
fn what_is_minted_is_verified() {
    let mut grants = Grants::to_join("room", "alice");
    grants.metadata = "data".to_owned();
    grants.attributes.insert("k".to_owned(), "v".to_owned());
    grants.kind = Kind::Agent;
    let verified = keys().verify(&token(&grants), now()).expect("valid");
    assert_eq!(verified.api_key, "devkey");
    assert_eq!(verified.expires_at, at(3600));
    assert_eq!(verified.join_room(), Ok("room"));
    let expected = Grants { api_key: "devkey".to_owned(), expires_at: at(3600), ..grants.clone() };
    assert_eq!(verified, expected);
}

#[test]
fn tokens_of_the_published_library_are_understood() {
    let token = livekit_token::AccessToken::with_api_key(
        "other",
        "another secret, just as long as the first",
    )
    .with_identity("bob")
    .with_name("Bob")
    .with_grants(VideoGrants {
        room_join: true,
        room: "r".to_owned(),
        can_publish: Some(false),
        ..VideoGrants::default()
    })
    .to_jwt()
    .expect("a token");
    let grants = keys().verify(&token, SystemTime::now()).expect("valid");
    assert_eq!((grants.api_key.as_str(), grants.identity.as_str()), ("other", "bob"));
    assert!(!grants.permissions().can_publish_data, "follows canPublish");
    // And the other way round.
    let ours = keys().mint(&grants, Duration::from_secs(60), SystemTime::now()).expect("a key");
    let verifier = livekit_token::TokenVerifier::with_api_key(
        "other",
        "another secret, just as long as the first",
    );
    assert_eq!(verifier.verify(&ours).expect("valid").sub, "bob");
}

#[test]
fn every_refusal_has_its_reason() {
    let claims = |exp: u64, nbf: u64| serde_json::json!({"iss": "devkey", "sub": "a", "exp": exp, "nbf": nbf});
    let n = 2_000_000_000;
    let good = raw(&claims(n + 60, n), SECRET);
    let (head, tail) = good.rsplit_once('.').expect("three parts");
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let unsigned = format!("{none}.{}.", head.split('.').nth(1).expect("claims"));
    let hs512 = {
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS512);
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&header, &claims(n + 60, n), &key).expect("a token")
    };
    let first = if tail.starts_with('A') { "B" } else { "A" };
    let altered = format!("{head}.{first}{}", &tail[1..]);
    let malformed = |error: &AuthError| matches!(error, AuthError::Malformed(_));
    for (name, text) in [
        ("empty", String::new()),
        ("noise", "....".to_owned()),
        ("one part", "abc".to_owned()),
        ("no algorithm", unsigned),
        ("another algorithm", hs512),
        ("claims of wrong types", raw(&serde_json::json!({"iss": 7}), SECRET)),
        ("too long", "a".repeat(2 << 20)),
    ] {
        let error = keys().verify(&text, now()).expect_err(name);
        assert!(malformed(&error), "{name}: {error:?}");
        assert_eq!(error.status(), StatusCode::UNAUTHORIZED, "{name}");
    }
    let cases = [
        ("another secret", raw(&claims(n + 60, n), "wrong"), AuthError::BadSignature),
        ("altered signature", altered, AuthError::BadSignature),
        (
            "unknown key",
            raw(&serde_json::json!({"iss": "x", "exp": n}), SECRET),
            AuthError::UnknownKey,
        ),
        ("no key", raw(&serde_json::json!({"exp": n}), SECRET), AuthError::UnknownKey),
        ("no expiry", raw(&serde_json::json!({"iss": "devkey"}), SECRET), AuthError::NoExpiry),
        ("expired", raw(&claims(n - 61, 0), SECRET), AuthError::Expired),
        ("not yet", raw(&claims(n + 600, n + 61), SECRET), AuthError::NotYetValid),
    ];
    for (name, text, expected) in cases {
        assert_eq!(keys().verify(&text, now()), Err(expected), "{name}");
    }
    for (name, text) in [
        ("skewed expiry", raw(&claims(n - 60, 0), SECRET)),
        ("skewed start", raw(&claims(n + 600, n + 60), SECRET)),
    ] {
        keys().verify(&text, now()).expect(name);
    }
}

#[test]
fn joining_needs_grant_room_and_identity() {
    let join = |change: fn(&mut Grants)| {
        let mut grants = Grants::to_join("room", "alice");
        change(&mut grants);
        grants.join_room().map(str::to_owned)
    };
    assert_eq!(join(|_| ()), Ok("room".to_owned()));
    assert_eq!(join(|g| g.video.room_join = false), Err(AuthError::MissingGrant("roomJoin")));
    assert_eq!(join(|g| g.video.room.clear()), Err(AuthError::NoRoom));
    assert_eq!(join(|g| g.identity.clear()), Err(AuthError::NoIdentity));
    let long = join(|g| g.identity = "x".repeat(257)).expect_err("too long");
    assert_eq!(long.status(), StatusCode::BAD_REQUEST);
    assert_eq!(AuthError::MissingGrant("roomJoin").status(), StatusCode::UNAUTHORIZED);
}

#[test]
fn permissions_have_the_protocols_defaults() {
    struct Case {
        name: &'static str,
        video: VideoGrants,
        expected: Permissions,
    }
    let cases = [
        Case {
            name: "nothing set",
            video: VideoGrants::default(),
            expected: Permissions::default(),
        },
        Case {
            name: "data follows canPublish",
            video: VideoGrants { can_publish: Some(false), ..VideoGrants::default() },
            expected: Permissions {
                can_publish: false,
                can_publish_data: false,
                ..Permissions::default()
            },
        },
        Case {
            name: "data on its own",
            video: VideoGrants {
                can_publish: Some(false),
                can_publish_data: Some(true),
                ..VideoGrants::default()
            },
            expected: Permissions { can_publish: false, ..Permissions::default() },
        },
        Case {
            name: "sources, hidden, own metadata",
            video: VideoGrants {
                can_publish_sources: vec!["Camera".to_owned()],
                hidden: true,
                can_subscribe: Some(false),
                can_update_own_metadata: Some(true),
                ..VideoGrants::default()
            },
            expected: Permissions {
                can_publish_sources: vec!["camera".to_owned()],
                hidden: true,
                can_subscribe: false,
                can_update_own_metadata: true,
                ..Permissions::default()
            },
        },
    ];
    for Case { name, video, expected } in cases {
        let grants = Grants { video, ..Grants::to_join("room", "alice") };
        assert_eq!(grants.permissions(), expected, "{name}");
        // A refreshed token grants the same.
        let refreshed = keys().refresh(&grants, &expected, now()).expect("a key");
        let verified = keys().verify(&refreshed, now()).expect(name);
        assert_eq!(verified.permissions(), expected, "{name}");
    }
}

#[test]
fn a_refreshed_token_lives_ten_minutes_at_least() {
    for (name, remaining, life) in [("short", 30, 600), ("past", -30, 600), ("long", 7200, 7200)] {
        let mut grants =
            keys().verify(&token(&Grants::to_join("room", "alice")), now()).expect(name);
        grants.expires_at = at(remaining);
        let refreshed = keys().refresh(&grants, &grants.permissions(), now()).expect("a key");
        assert_eq!(keys().verify(&refreshed, now()).expect(name).expires_at, at(life), "{name}");
    }
    let mut gone = Grants::to_join("room", "alice");
    gone.api_key = "gone".to_owned();
    assert_eq!(keys().refresh(&gone, &Permissions::default(), now()), None);
}

#[test]
fn server_grants_are_separate() {
    let video = VideoGrants { room: "room".to_owned(), ..VideoGrants::default() };
    let with = |change: fn(&mut VideoGrants)| {
        let mut grants = Grants { video: video.clone(), ..Grants::to_join("", "") };
        change(&mut grants.video);
        grants
    };
    let none = with(|_| ());
    assert_eq!(none.require_room_create(), Err(AuthError::MissingGrant("roomCreate")));
    assert_eq!(none.require_room_list(), Err(AuthError::MissingGrant("roomList")));
    assert_eq!(none.require_room_admin("room"), Err(AuthError::MissingGrant("roomAdmin")));
    assert_eq!(with(|v| v.room_create = true).require_room_create(), Ok(()));
    assert_eq!(with(|v| v.room_list = true).require_room_list(), Ok(()));
    let admin = with(|v| v.room_admin = true);
    assert_eq!(admin.require_room_admin("room"), Ok(()));
    assert_eq!(admin.require_room_admin("elsewhere"), Err(AuthError::OtherRoom));
}

#[test]
fn the_header_goes_before_the_query() {
    let header = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        headers
    };
    let none = HeaderMap::new();
    assert_eq!(token_of(&header("Bearer abc"), "access_token=x"), Ok("abc".to_owned()));
    assert_eq!(token_of(&header("bearer  abc "), ""), Ok("abc".to_owned()));
    assert_eq!(token_of(&none, "a=b&access_token=a%2Eb&c"), Ok("a.b".to_owned()));
    assert_eq!(token_of(&none, "access_token="), Err(AuthError::Missing));
    assert_eq!(token_of(&none, ""), Err(AuthError::Missing));
    for bad in ["Basic abc", "Bearer", "Bearer ", "abc"] {
        assert!(matches!(token_of(&header(bad), ""), Err(AuthError::Malformed(_))), "{bad}");
    }
}

#[test]
fn keys_are_checked() {
    let new = |pairs: &[(&str, &str)]| {
        Keys::new(pairs.iter().map(|(k, s)| ((*k).to_owned(), (*s).to_owned()))).map(|_| ())
    };
    assert_eq!(new(&[]), Err(KeyError::None));
    assert_eq!(new(&[("", "s")]), Err(KeyError::EmptyKey));
    assert_eq!(new(&[("k", "")]), Err(KeyError::EmptySecret("k".to_owned())));
    assert_eq!(new(&[("k", "a"), ("k", "b")]), Err(KeyError::Twice("k".to_owned())));
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let text = format!("{:?}", keys());
    assert!(text.contains("devkey") && !text.contains(SECRET), "{text}");
    let (first, second) = (Keys::development(), Keys::development());
    let secret = |keys: &Keys| keys.iter().next().map(|(_, s)| s.reveal().to_owned());
    assert_ne!(secret(&first), secret(&second));
    assert!(secret(&first).is_some_and(|secret| secret.len() >= 32));
}
