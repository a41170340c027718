use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::ReadBuf;

use super::*;

#[tokio::test]
async fn a_flood_is_slowed_down_and_a_burst_is_not() {
    let mut bucket = Bucket::new(10, 100);
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(bucket.due(), None);
    }
    for _ in 0..10 {
        bucket.take().await;
    }
    assert!(start.elapsed() >= Duration::from_millis(90), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_queue_that_nobody_reads_is_bounded_in_messages_and_bytes() {
    let config = SignalConfig { queue_messages: 4, queue_bytes: 1000, ..SignalConfig::default() };
    let sockets = tokio_util::task::TaskTracker::new();
    let (_socket, connection) = pair(&config, sockets.token());
    let sent =
        (0..10).take_while(|_| connection.send(Outgoing::Message(Message::Pong(1).into()))).count();
    assert_eq!(sent, 4);
    let (_socket, connection) = pair(&config, sockets.token());
    assert!(!connection.send(Outgoing::Message(Message::RefreshToken("x".repeat(2000)).into())));
}

/// Counts what would be system calls.
struct Counted<S> {
    stream: S,
    writes: Arc<AtomicUsize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[tokio::test]
async fn what_waits_leaves_together() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let near = Counted { stream: near, writes: writes.clone() };
    let config = SignalConfig::default();
    let (socket, connection) = pair(&config, tokio_util::task::TaskTracker::new().token());
    let say = |numbers: std::ops::Range<i64>| {
        numbers.for_each(|n| assert!(connection.send(Outgoing::Message(Message::Pong(n).into()))));
    };
    say(0..20);
    tokio::spawn(run(near, socket, config));
    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    for (said, expected) in [(0..20, 20_usize.div_ceil(GREETED_AT_ONCE)), (20..25, 1)] {
        if said.start > 0 {
            // The writer sleeps and does not run before all of it is said.
            say(said.clone());
        }
        for number in said.clone() {
            let message = client.next().await.unwrap().unwrap();
            let response =
                <proto::SignalResponse as prost::Message>::decode(message.into_data()).unwrap();
            assert_eq!(response.message, Some(Message::Pong(number)));
        }
        assert_eq!(writes.swap(0, Ordering::Relaxed), expected, "{said:?}");
    }
}

#[tokio::test]
async fn what_waits_at_the_start_leaves_in_one_frame_each_and_later_it_may_be_in_pieces() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let sockets = tokio_util::task::TaskTracker::new();
    let config = SignalConfig::default();
    let (socket, connection) = pair(&config, sockets.token());
    let token = |length| Message::RefreshToken("x".repeat(length));
    let early = [1, 100, 200, 70_000];
    for length in early {
        assert!(connection.send(Outgoing::Message(token(length).into())));
    }
    let server = tokio::spawn(run(near, socket, config));
    // Longer frames than the longest of these are refused by this client, messages are not.
    let limits = WebSocketConfig::default().max_frame_size(Some(70_005));
    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, Some(limits)).await;
    let late = [FRAGMENT - 4, FRAGMENT, 3 * FRAGMENT, 100_000];
    for (place, length) in early.into_iter().chain(late).enumerate() {
        if place >= early.len() {
            assert!(connection.send(Outgoing::Message(token(length).into())));
        }
        let message = client.next().await.unwrap().unwrap();
        let WsMessage::Binary(bytes) = message else { panic!("{message:?}") };
        let response = <proto::SignalResponse as prost::Message>::decode(bytes).unwrap();
        assert_eq!(response.message, Some(token(length)));
    }
    drop(connection);
    let last = client.next().await.unwrap().unwrap();
    assert!(last.is_close(), "{last:?}");
    assert_eq!(client.next().await.map(|end| end.is_ok()), None);
    server.await.unwrap();
    assert!(sockets.close() && sockets.is_empty());
}
