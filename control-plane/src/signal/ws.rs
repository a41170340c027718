//! Moves frames between a WebSocket and a session. Knows no signalling: bytes in, messages out, both bounded.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use livekit_protocol::{self as proto, signal_response::Message};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as WsMessage,
        protocol::{
            CloseFrame, Role, WebSocketConfig,
            frame::{
                Frame as WsFrame,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    SignalConfig,
    session::Welcome,
    wire::{self, Frame, FrameKind, MAX_FRAME},
};

/// Requests that wait for the session, at most: beyond, the socket is not read.
const REQUEST_QUEUE: usize = 32;

/// How long a closing handshake may take (RFC 6455 section 7.1.1).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that are read from a client at once, kept as long as it is there: most of what clients say is far smaller. The library's
/// 128 KiB were a third of what a participant took.
const READ_BUFFER: usize = 2 * 1024;

/// Longer messages leave in fragments of so many bytes (RFC 6455 section 5.4): the library copies a frame before it sends it and
/// keeps the room for as long as the client is there. Some clients on small devices put no fragments together, and have room for
/// messages of 20 KiB.
const FRAGMENT: usize = 20 * 1024;

/// Bytes that the library gathers before it writes without being told to: what it keeps room for is this and a fragment.
const WRITE_BUFFER: usize = 4 * 1024;

/// Messages of a greeting that leave in one write.
const GREETED_AT_ONCE: usize = 8;

/// What a socket hands to its session.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A readable message.
    Request(Box<proto::SignalRequest>),
    /// Something else, and what is wrong with it.
    Garbage(String),
}

/// What a session says.
#[derive(Debug)]
pub(super) enum Outgoing {
    // Boxed: a queue has room for 32 from the start, and messages of the protocol take a kilobyte each.
    Message(Box<Message>),
    /// Who is there.
    Welcome(Box<Welcome>),
    /// A SignalResponse that many are sent.
    Encoded(Bytes),
}

impl Outgoing {
    fn size(&self) -> usize {
        match self {
            // The tag and length of the message in its SignalResponse are not worth a copy.
            Self::Message(message) => message.encoded_len(),
            Self::Welcome(welcome) => welcome.encoded_len(),
            Self::Encoded(bytes) => bytes.len(),
        }
    }

    fn into_frame(self, kind: FrameKind) -> Frame {
        match self {
            Self::Message(message) => {
                wire::encode(&proto::SignalResponse { message: Some(*message) }, kind)
            }
            Self::Welcome(welcome) if kind == FrameKind::Binary => Frame::Binary(welcome.encode()),
            Self::Welcome(welcome) => {
                let message = Some(welcome.into_message());
                wire::encode(&proto::SignalResponse { message }, kind)
            }
            Self::Encoded(bytes) if kind == FrameKind::Binary => Frame::Binary(bytes),
            Self::Encoded(bytes) => {
                // Ours: it is one.
                let response = proto::SignalResponse::decode(bytes).unwrap_or_default();
                wire::encode(&response, kind)
            }
        }
    }
}

/// The session's end of a WebSocket. Dropped, everything sent before still goes out, then the socket closes.
#[derive(Debug)]
pub(super) struct Connection {
    queue: mpsc::Sender<Outgoing>,
    queued_bytes: Arc<AtomicUsize>,
    max_bytes: usize,
    incoming: mpsc::Receiver<Incoming>,
    abort: CancellationToken,
}

impl Connection {
    /// Queues a message. `false` where the client does not read: the connection is of no use any more.
    pub(super) fn send(&self, message: Outgoing) -> bool {
        let bytes = message.size();
        if self.queued_bytes.load(Ordering::Relaxed).saturating_add(bytes) > self.max_bytes {
            return false;
        }
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queue.try_send(message).is_ok()
    }

    /// The next message; `None` when the socket is gone.
    pub(super) async fn recv(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// Drops the socket with everything that waits.
    pub(super) fn abort(self) {
        self.abort.cancel();
    }
}

/// The socket's end.
#[derive(Debug)]
pub(super) struct Socket {
    queue: mpsc::Receiver<Outgoing>,
    queued_bytes: Arc<AtomicUsize>,
    incoming: mpsc::Sender<Incoming>,
    abort: CancellationToken,
    /// Held until the last words are out.
    open: TaskTrackerToken,
}

/// Both ends of a connection that is about to be upgraded. `open` is held until everything that the session said is
/// with the client, or the socket is gone.
pub(super) fn pair(config: &SignalConfig, open: TaskTrackerToken) -> (Socket, Connection) {
    let (queue_in, queue) = mpsc::channel(config.queue_messages);
    let (incoming_in, incoming) = mpsc::channel(REQUEST_QUEUE);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let abort = CancellationToken::new();
    let socket = Socket {
        queue,
        queued_bytes: queued_bytes.clone(),
        incoming: incoming_in,
        abort: abort.clone(),
        open,
    };
    let connection = Connection {
        queue: queue_in,
        queued_bytes,
        max_bytes: config.queue_bytes,
        incoming,
        abort,
    };
    (socket, connection)
}

/// Runs until either side closes, the client falls silent, or the session drops it. The stream has just been upgraded.
pub(super) async fn run<S>(mut stream: S, socket: Socket, config: SignalConfig)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Socket { mut queue, queued_bytes, incoming, abort, open } = socket;
    let greeted = tokio::select! {
        greeted = greet(&mut stream, &mut queue, &queued_bytes) => greeted.is_ok(),
        () = abort.cancelled() => false,
        () = sleep(config.socket_silence) => false,
    };
    if !greeted {
        return;
    }
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER);
    let stream = WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits)).await;
    let (sink, stream) = stream.split();
    // Clients are answered in the kind of frame that they sent last.
    let (kind_in, kind) = watch::channel(FrameKind::Binary);
    let reader = read(stream, &incoming, &kind_in, &config);
    let writer = async {
        let closing = write(sink, queue, &queued_bytes, kind, config.socket_ping).await;
        drop(open);
        if closing {
            // The reader ends with the client's own close frame.
            sleep(CLOSE_TIMEOUT).await;
        }
    };
    tokio::select! {
        () = reader => {}
        () = writer => {}
        () = abort.cancelled() => {}
    }
}

/// Sends what waits already: everybody in the room is in it. It is by far the longest that most clients ever get, goes out without a
/// copy and in one frame each, however long.
async fn greet<S: AsyncWrite + Unpin>(
    stream: &mut S,
    queue: &mut mpsc::Receiver<Outgoing>,
    queued_bytes: &AtomicUsize,
) -> std::io::Result<()> {
    // No more than that: news may come faster than a slow client takes them, and it is not read meanwhile.
    let mut waiting = queue.len();
    while waiting > 0 {
        let mut greeting: Box<dyn Buf + Send> = Box::new(Bytes::new());
        let mut size = 0;
        for _ in 0..waiting.min(GREETED_AT_ONCE) {
            let Ok(message) = queue.try_recv() else { break };
            size += message.size();
            // The client has said nothing yet that it could be answered like.
            let Frame::Binary(bytes) = message.into_frame(FrameKind::Binary) else { continue };
            greeting = Box::new(greeting.chain(head_of(bytes.len())).chain(bytes));
        }
        stream.write_all_buf(&mut greeting).await?;
        queued_bytes.fetch_sub(size, Ordering::Relaxed);
        waiting = waiting.saturating_sub(GREETED_AT_ONCE);
    }
    stream.flush().await
}

/// What stands before a message that leaves in one binary frame (RFC 6455 section 5.2).
fn head_of(length: usize) -> Bytes {
    const LAST_BINARY: u8 = 0x82;
    let mut head = vec![LAST_BINARY];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < 126 => head.push(length),
        (_, Ok(length)) => {
            head.push(126);
            head.extend(length.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head.into()
}

/// A message as it leaves: whole, or in fragments.
fn fragments(frame: Frame) -> impl Iterator<Item = WsMessage> {
    let (kind, mut bytes) = match frame {
        Frame::Binary(bytes) => (Data::Binary, bytes),
        Frame::Text(text) => (Data::Text, text.into()),
    };
    let mut next = Some(kind);
    std::iter::from_fn(move || {
        let kind = next.take()?;
        let fragment = bytes.split_to(bytes.len().min(FRAGMENT));
        let last = bytes.is_empty();
        next = (!last).then_some(Data::Continue);
        Some(WsMessage::Frame(WsFrame::message(fragment, OpCode::Data(kind), last)))
    })
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<S>>,
    incoming: &mpsc::Sender<Incoming>,
    kind: &watch::Sender<FrameKind>,
    config: &SignalConfig,
) {
    let mut bucket = Bucket::new(config.request_burst, config.requests_per_second);
    let mut session_listens = true;
    loop {
        let Ok(Some(Ok(message))) = timeout(config.socket_silence, stream.next()).await else {
            return;
        };
        let frame = match message {
            WsMessage::Binary(bytes) => Frame::Binary(bytes),
            WsMessage::Text(text) => Frame::Text(text.to_string()),
            // Pongs are a sign of life; pings are answered below us.
            WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_) => continue,
            WsMessage::Close(_) => return,
        };
        bucket.take().await;
        kind.send_replace(frame.kind());
        let message = match wire::decode(&frame) {
            Ok(request) => Incoming::Request(Box::new(request)),
            Err(error) => Incoming::Garbage(error.to_string()),
        };
        // A session that is over still has its last words on the way: the writer closes.
        if session_listens && incoming.send(message).await.is_err() {
            session_listens = false;
        }
    }
}

/// Sends what the session says, and a close frame after it; `false` where the socket broke before.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, WsMessage>,
    mut queue: mpsc::Receiver<Outgoing>,
    queued_bytes: &AtomicUsize,
    kind: watch::Receiver<FrameKind>,
    ping_every: Duration,
) -> bool {
    let mut next_ping = Instant::now() + ping_every;
    loop {
        let message = tokio::select! {
            message = queue.recv() => Some(message),
            () = sleep_until(next_ping) => None,
        };
        match message {
            Some(Some(message)) => {
                // What waits behind it leaves with it: for short messages the system call is most of what they cost. What comes
                // meanwhile does not, so that pings have their turn.
                let (mut next, mut behind) = (Some(message), queue.len());
                while let Some(message) = next {
                    queued_bytes.fetch_sub(message.size(), Ordering::Relaxed);
                    let frame = message.into_frame(*kind.borrow());
                    for fragment in fragments(frame) {
                        if sink.feed(fragment).await.is_err() {
                            return false;
                        }
                    }
                    next = if behind > 0 { queue.try_recv().ok() } else { None };
                    behind = behind.saturating_sub(1);
                }
                if sink.flush().await.is_err() {
                    return false;
                }
            }
            Some(None) => break,
            None => {
                next_ping = Instant::now() + ping_every;
                if sink.send(WsMessage::Ping(Bytes::new())).await.is_err() {
                    return false;
                }
            }
        }
    }
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let close = WsMessage::Close(Some(close));
    let _ = timeout(CLOSE_TIMEOUT, sink.send(close)).await;
    true
}

/// Bounds how fast messages are read: a flood waits in the client's own socket.
struct Bucket {
    tokens: f64,
    capacity: f64,
    per_second: f64,
    filled: Instant,
}

impl Bucket {
    fn new(capacity: u32, per_second: u32) -> Self {
        let capacity = f64::from(capacity.max(1));
        Self {
            tokens: capacity,
            capacity,
            per_second: f64::from(per_second.max(1)),
            filled: Instant::now(),
        }
    }

    async fn take(&mut self) {
        if let Some(wait) = self.due() {
            sleep(wait).await;
        }
    }

    /// Takes one; how long to wait before it may be used.
    fn due(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.capacity);
        self.filled = now;
        self.tokens -= 1.0;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.per_second))
    }
}
