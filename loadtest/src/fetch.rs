//! One HTTP GET at a time: whether a client would be let in, metrics, readiness.

use std::{collections::BTreeMap, time::Duration};

use http::{Request, StatusCode};
use hyper::body::Body as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Bytes of an answer that are read at most.
const MAX_BODY: usize = 8 << 20;
/// An answer that takes longer is none.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks over an open connection.
pub(crate) async fn fetch(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> Result<(StatusCode, Vec<u8>), String> {
    let asked = tokio::time::timeout(TIMEOUT, ask(stream, host, path)).await;
    asked.map_err(|_| "no answer".to_owned())?
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> Result<(StatusCode, Vec<u8>), String> {
    let io = hyper_util::rt::TokioIo::new(stream);
    let fail = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(fail)?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(http::header::HOST, host)
        .body(String::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(fail)?;
    let status = response.status();
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    loop {
        let frame =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut incoming).poll_frame(context));
        let Some(frame) = frame.await else { break };
        if let Some(data) = frame.map_err(fail)?.data_ref() {
            body.extend_from_slice(data);
        }
        if body.len() > MAX_BODY {
            return Err("the answer is too long".to_owned());
        }
    }
    driver.abort();
    Ok((status, body))
}

/// Fetches a plain `http://host:port/path`.
pub(crate) async fn get(url: &http::Uri) -> Result<(StatusCode, Vec<u8>), String> {
    let authority = url.authority().ok_or("no host in the URL")?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    fetch(stream, authority.as_str(), path).await
}

/// Counters that a server's metrics offer, summed over their labels; none when they cannot be read.
pub(crate) async fn counters(url: Option<&http::Uri>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    let Some(url) = url else { return sums };
    let Ok((status, body)) = get(url).await else { return sums };
    if !status.is_success() {
        return sums;
    }
    for line in String::from_utf8_lossy(&body).lines() {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let name = name.split('{').next().unwrap_or_default();
        let counter = name.ends_with("_total") && !name.starts_with('#');
        if let (true, Ok(value)) = (counter, value.parse::<f64>()) {
            *sums.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    sums
}
