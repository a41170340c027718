//! The meeting page, built into the binary, and what it asks of the server before it joins.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "$OUT_DIR/page"]
struct Page;

/// Makes a token for a room, an identity and a name.
pub type MakeToken = dyn Fn(&str, &str, &str) -> String + Send + Sync;

/// Who gets tokens from the page's server.
#[derive(Clone)]
pub enum Tokens {
    /// Nobody: tokens come from the application's backend.
    Off,
    /// Development over plain http: visitors on this machine.
    Loopback(Arc<MakeToken>),
    /// Development over https with `--dev-tls`: everybody who reaches the page.
    Anyone(Arc<MakeToken>),
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::Loopback(_) => "Loopback",
            Self::Anyone(_) => "Anyone",
        })
    }
}

impl Tokens {
    /// The maker, where this visitor may have tokens. The name the visitor used counts as well as its address: a page
    /// elsewhere whose name was pointed at 127.0.0.1 must not get one.
    fn maker(&self, visitor: SocketAddr, headers: &HeaderMap) -> Option<&Arc<MakeToken>> {
        match self {
            Self::Off => None,
            Self::Anyone(make) => Some(make),
            Self::Loopback(make) => {
                let local = visitor.ip().to_canonical().is_loopback()
                    && headers
                        .get(header::HOST)
                        .is_some_and(|host| names_loopback(host.as_bytes()))
                    && !headers.contains_key("x-forwarded-for");
                local.then_some(make)
            }
        }
    }
}

fn names_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// The page at `/`, its files, and `/page/*`.
pub fn routes(tokens: Tokens) -> Router {
    Router::new()
        .route("/page/config.json", get(config))
        .route("/page/token", get(token))
        .fallback(file)
        .with_state(tokens)
}

/// Whether the page was built in.
pub fn is_built() -> bool {
    Page::get("index.html").is_some()
}

async fn config(
    State(tokens): State<Tokens>,
    ConnectInfo(visitor): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let config = serde_json::json!({
        "tokens": tokens.maker(visitor, &headers).is_some(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    ([(header::CACHE_CONTROL, "no-store")], Json(config)).into_response()
}

#[derive(serde::Deserialize)]
struct TokenQuery {
    room: String,
    name: String,
}

async fn token(
    State(tokens): State<Tokens>,
    ConnectInfo(visitor): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(query): Query<TokenQuery>,
) -> Response {
    let Some(make) = tokens.maker(visitor, &headers) else {
        return (StatusCode::NOT_FOUND, "this server hands out no tokens").into_response();
    };
    let fits = |text: &str| !text.trim().is_empty() && text.len() <= 256;
    if !fits(&query.room) || !fits(&query.name) {
        return (StatusCode::BAD_REQUEST, "room and name: expected 1 to 256 bytes").into_response();
    }
    // Two people may have one name; an identity is taken once.
    let identity = format!("{}-{:04x}", query.name, rand::random::<u16>());
    let token = make(&query.room, &identity, &query.name);
    let answer = Json(serde_json::json!({ "token": token, "identity": identity }));
    ([(header::CACHE_CONTROL, "no-store")], answer).into_response()
}

async fn file(uri: Uri) -> Response {
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    answer(path, Page::get(path))
}

fn answer(path: &str, file: Option<EmbeddedFile>) -> Response {
    let Some(file) = file else {
        return if path == "index.html" {
            let text = "Chappe is running, but the meeting page was left out of this build \
                        (Node.js 20.19 or newer is needed to build it). SDKs can join.\n";
            (StatusCode::OK, text).into_response()
        } else {
            (StatusCode::NOT_FOUND, "not found\n").into_response()
        };
    };
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    // Vite names assets by their content.
    let cache = if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    (
        [
            (header::CONTENT_TYPE, mime.as_ref()),
            (header::CACHE_CONTROL, cache),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ],
        file.data,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

    async fn ask(tokens: Tokens, visitor: &str, host: &str, path: &str) -> (StatusCode, String) {
        let visitor: SocketAddr = visitor.parse().unwrap();
        let request = Request::get(path)
            .header(header::HOST, host)
            .extension(ConnectInfo(visitor))
            .body(Body::empty())
            .unwrap();
        let response = routes(tokens).oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    fn maker() -> Arc<MakeToken> {
        Arc::new(|room, identity, name| format!("{room}|{identity}|{name}"))
    }

    const TOKEN: &str = "/page/token?room=r&name=Ada";

    #[tokio::test]
    async fn development_tokens_stay_on_this_machine() {
        struct Case {
            tokens: Tokens,
            visitor: &'static str,
            host: &'static str,
            status: StatusCode,
        }
        let cases = [
            Case {
                tokens: Tokens::Off,
                visitor: "127.0.0.1:9",
                host: "localhost",
                status: StatusCode::NOT_FOUND,
            },
            Case {
                tokens: Tokens::Loopback(maker()),
                visitor: "127.0.0.1:9",
                host: "localhost:7880",
                status: StatusCode::OK,
            },
            Case {
                tokens: Tokens::Loopback(maker()),
                visitor: "[::1]:9",
                host: "[::1]:7880",
                status: StatusCode::OK,
            },
            Case {
                tokens: Tokens::Loopback(maker()),
                visitor: "[::ffff:127.0.0.1]:9",
                host: "127.0.0.1",
                status: StatusCode::OK,
            },
            Case {
                tokens: Tokens::Loopback(maker()),
                visitor: "192.0.2.7:9",
                host: "localhost",
                status: StatusCode::NOT_FOUND,
            },
            Case {
                tokens: Tokens::Loopback(maker()),
                visitor: "127.0.0.1:9",
                host: "evil.example:7880",
                status: StatusCode::NOT_FOUND,
            },
            Case {
                tokens: Tokens::Anyone(maker()),
                visitor: "192.0.2.7:9",
                host: "192.0.2.1:7880",
                status: StatusCode::OK,
            },
        ];
        for Case { tokens, visitor, host, status } in cases {
            let label = format!("{tokens:?} {visitor} {host}");
            let (got, body) = ask(tokens, visitor, host, TOKEN).await;
            assert_eq!(got, status, "{label}");
            assert_eq!(got == StatusCode::OK, body.contains("r|Ada-"), "{label}: {body}");
        }
    }

    #[tokio::test]
    async fn empty_and_oversized_names_are_refused() {
        let long = "x".repeat(257);
        for path in ["/page/token?room=&name=a".into(), format!("/page/token?room=r&name={long}")] {
            let (status, _) = ask(Tokens::Anyone(maker()), "127.0.0.1:9", "localhost", &path).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
        }
    }

    #[tokio::test]
    async fn a_build_without_page_says_so_where_the_page_would_be() {
        let response = answer("index.html", None);
        assert_eq!(response.status(), StatusCode::OK);
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let said = String::from_utf8_lossy(&body);
        assert!(said.contains("Node.js 20.19 or newer is needed"), "{said}");
        assert_eq!(answer("assets/app.js", None).status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn unknown_files_are_not_found() {
        let (status, _) = ask(Tokens::Off, "127.0.0.1:9", "localhost", "/../Cargo.toml").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}
