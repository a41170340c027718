//! The client's side of the WebSocket protocol (RFC 6455), made for thousands of connections that are nearly always silent:
//! an idle one holds no buffer, whatever it has received before.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Poll, ready},
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes of an answer's header, and of the body of a refusal, at most.
const MAX_HEADER: usize = 16 << 10;
const MAX_BODY: usize = 4 << 10;
/// Joined to the key that the server proves to have read (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Kinds of frames (section 5.2).
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

thread_local! {
    /// What is read goes through here: connections keep only what they cannot use yet.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 32 << 10].into());
}

/// TCP, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum HandshakeError {
    Io(io::Error),
    /// An answer other than 101: its status, and the begin of its body.
    Refused(u16, Vec<u8>),
    Protocol(&'static str),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An open connection.
pub(super) struct WebSocket<S> {
    stream: S,
    max_message: usize,
    /// Read, and not understood yet.
    unread: Vec<u8>,
    /// Fragments of a message.
    message: Vec<u8>,
    /// Answers to pings that did not leave yet.
    unsent: Vec<u8>,
}

/// A frame's header.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    last: bool,
    kind: u8,
    /// Bytes of the header, and of the payload behind it.
    size: usize,
    payload: usize,
}

impl Header {
    /// `Ok(None)` when there is not enough yet.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        // Servers do not mask, and nobody agreed on extensions.
        if first & 0x70 != 0 || second & 0x80 != 0 {
            return Err(invalid("a frame that no server may send"));
        }
        let (size, payload) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
            (127, rest) if rest.len() >= 8 => {
                let mut length = [0; 8];
                length.copy_from_slice(&rest[..8]);
                (10, u64::from_be_bytes(length))
            }
            (126 | 127, _) => return Ok(None),
            (length, _) => (2, u64::from(length)),
        };
        let payload = usize::try_from(payload).map_err(|_| invalid("a frame is too long"))?;
        Ok(Some(Self { last: first & 0x80 != 0, kind: first & 0x0f, size, payload }))
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Opens `path` (with its query) at `host`. Messages longer than `max_message` end the connection.
    pub(super) async fn connect(
        mut stream: S,
        host: &str,
        path: &str,
        max_message: usize,
    ) -> Result<Self, HandshakeError> {
        let key = BASE64.encode(rand::random::<[u8; 16]>());
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if bytes.len() > MAX_HEADER {
                return Err(HandshakeError::Protocol("the answer's header is too long"));
            }
            if read_some(&mut stream, &mut bytes).await? == 0 {
                return Err(HandshakeError::Protocol("the connection ended in the handshake"));
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut unread = bytes.split_off(end);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or(HandshakeError::Protocol("no HTTP"))?;
        let field = |name: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(':'));
            let mut found = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value.trim().to_owned())
        };
        if status != 101 {
            let length = field("content-length").and_then(|value| value.parse().ok());
            let length: usize = length.unwrap_or(MAX_BODY).min(MAX_BODY);
            while unread.len() < length && read_some(&mut stream, &mut unread).await? > 0 {}
            unread.truncate(length);
            return Err(HandshakeError::Refused(status, unread));
        }
        let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
        if field("sec-websocket-accept") != Some(BASE64.encode(proof)) {
            return Err(HandshakeError::Protocol("no WebSocket behind the answer"));
        }
        Ok(Self { stream, max_message, unread, message: Vec::new(), unsent: Vec::new() })
    }

    /// The next binary message; text is passed over. An error is the end. May be cancelled.
    pub(super) async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            while let Some((header, payload)) = self.take_frame()? {
                match header.kind {
                    CLOSE => return Err(io::ErrorKind::ConnectionAborted.into()),
                    PING => self.unsent.extend(frame(PONG, &payload)),
                    TEXT | PONG => {}
                    BINARY | CONTINUATION => {
                        if self.message.is_empty() {
                            self.message = payload;
                        } else {
                            self.message.extend_from_slice(&payload);
                        }
                        if self.message.len() > self.max_message {
                            return Err(invalid("a message is too long"));
                        }
                        if header.last {
                            return Ok(std::mem::take(&mut self.message));
                        }
                    }
                    _ => return Err(invalid("an unknown kind of frame")),
                }
            }
            self.flush().await?;
            if read_some(&mut self.stream, &mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// A frame that is whole.
    fn take_frame(&mut self) -> io::Result<Option<(Header, Vec<u8>)>> {
        let Some(header) = Header::parse(&self.unread)? else { return Ok(None) };
        if header.payload > self.max_message {
            return Err(invalid("a frame is too long"));
        }
        let end = header.size + header.payload;
        if self.unread.len() < end {
            self.unread.reserve_exact(end - self.unread.len());
            return Ok(None);
        }
        let rest = self.unread[end..].to_vec();
        let mut payload = std::mem::replace(&mut self.unread, rest);
        payload.truncate(end);
        payload.drain(..header.size);
        Ok(Some((header, payload)))
    }

    /// What could not be sent before. May be cancelled.
    async fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let sent = self.stream.write(&self.unsent).await?;
            self.unsent.drain(..sent);
        }
        self.unsent = Vec::new();
        Ok(())
    }

    /// Sends a binary message. Not to be cancelled.
    pub(super) async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        self.flush().await?;
        self.stream.write_all(&frame(BINARY, payload)).await
    }

    /// Says good-bye (1000, section 7.4.1), and waits for nothing.
    pub(super) async fn close(mut self) {
        let _ = self.stream.write_all(&frame(CLOSE, &1_000_u16.to_be_bytes())).await;
        let _ = self.stream.shutdown().await;
    }
}

/// A masked frame (section 5.3).
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | kind];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask: [u8; 4] = rand::random();
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Appends what there is; 0 at the end of the stream. May be cancelled.
async fn read_some(stream: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            into.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::{accept_async, tungstenite::Message};

    use super::*;

    /// A server of another make that sends these, then echoes one message and waits for the end.
    async fn server(messages: Vec<Message>) -> (WebSocket<TcpStream>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut far = accept_async(listener.accept().await.unwrap().0).await.unwrap();
            for message in messages {
                far.send(message).await.unwrap();
            }
            loop {
                match far.next().await {
                    Some(Ok(Message::Binary(bytes))) => {
                        far.send(Message::Binary(bytes)).await.unwrap()
                    }
                    Some(Ok(Message::Pong(bytes))) => assert_eq!(&bytes[..], b"there?"),
                    Some(Ok(Message::Close(_))) | None => return,
                    other => panic!("{other:?}"),
                }
            }
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let near = WebSocket::connect(stream, "127.0.0.1", "/", 1 << 20).await.unwrap();
        (near, serving)
    }

    #[tokio::test]
    async fn messages_of_all_sizes_go_both_ways() {
        let sizes = [0, 1, 125, 126, 65_535, 65_536, 300_000];
        let messages = sizes.map(|size| Message::Binary(vec![7; size].into()));
        let more = [Message::Ping("there?".into()), Message::Text("passed over".into())];
        let (mut near, serving) = server(messages.into_iter().chain(more).collect()).await;
        for size in sizes {
            let got = near.next().await.unwrap();
            assert!(got.len() == size && got.iter().all(|byte| *byte == 7));
        }
        for size in sizes {
            let sent: Vec<_> = (0..size).map(|at| at as u8).collect();
            near.send(&sent).await.unwrap();
            assert_eq!(near.next().await.unwrap(), sent);
        }
        let held = near.unread.capacity() + near.message.capacity() + near.unsent.capacity();
        assert_eq!(held, 0, "nothing is held when nothing is to be done");
        near.close().await;
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn too_long_messages_end_the_connection() {
        let (mut near, _serving) =
            server(vec![Message::Binary(vec![0; (1 << 20) + 1].into())]).await;
        assert_eq!(near.next().await.unwrap_err().to_string(), "a frame is too long");
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_status_and_its_reason() {
        let answer = |answer: &'static str| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut far = listener.accept().await.unwrap().0;
            far.write_all(answer.as_bytes()).await.unwrap();
            let near = WebSocket::connect(stream, "127.0.0.1", "/", 1_000).await;
            near.err().unwrap()
        };
        let refused = answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nfull").await;
        assert!(matches!(refused, HandshakeError::Refused(403, body) if body == b"full"));
        let odd = answer("HTTP/1.1 101 Switching\r\nsec-websocket-accept: x\r\n\r\n").await;
        assert!(matches!(odd, HandshakeError::Protocol("no WebSocket behind the answer")));
        let odd = answer("SSH-2.0-x\r\n\r\n").await;
        assert!(matches!(odd, HandshakeError::Protocol("no HTTP")));
    }

    #[test]
    fn frames_of_clients_are_refused() {
        assert!(Header::parse(&[0x82, 0x81, 0, 0, 0, 0, 1]).is_err(), "masked");
        assert!(Header::parse(&[0xc2, 1, 0]).is_err(), "compressed");
        assert_eq!(Header::parse(&[0x82, 126, 1]).unwrap(), None, "not whole");
        let header = Header { last: true, kind: BINARY, size: 4, payload: 256 };
        assert_eq!(Header::parse(&[0x82, 126, 1, 0]).unwrap(), Some(header));
    }
}
