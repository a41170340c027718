//! A connection between two holders of one secret: each frame is sealed with AES-256-GCM under keys that HKDF-SHA256
//! (RFC 5869) derives from the secret and a nonce of either side, so that nothing of an older connection is taken.
//!
//! The secret is not stretched and keys have no forward secrecy: it has to be random, and as secret as an API key.

use std::{io, time::Duration};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// What both sides say first, with the version of the messages.
const GREETING: &[u8; 16] = b"chappe-swarm/1\r\n";
const NONCE: usize = 32;
/// Shortest secret, bytes.
const SHORTEST: usize = 16;
/// Longest message: a scenario, or a second of measurements.
const MAX_FRAME: usize = 8 << 20;
/// Longest frame of somebody who has not shown the secret yet.
const MAX_FIRST_FRAME: usize = 256;
/// For the greeting, and for one message to leave.
const PATIENCE: Duration = Duration::from_secs(10);

/// What agents and their coordinator share.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl Secret {
    /// Fails when it is too short to be one.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < SHORTEST {
            return Err(format!("the swarm's secret has to have {SHORTEST} characters or more"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Coordinator,
    Agent,
}

/// A key with the number of frames that it sealed or opened.
struct Key {
    key: LessSafeKey,
    frames: u64,
}

impl Key {
    fn derive(secret: &Secret, salt: &[u8], name: &[u8]) -> io::Result<Self> {
        let fail = |_| io::Error::other("key derivation");
        let pseudo_random = Salt::new(HKDF_SHA256, salt).extract(secret.0.as_bytes());
        let info = [name];
        let okm = pseudo_random.expand(&info, &AES_256_GCM).map_err(fail)?;
        Ok(Self { key: LessSafeKey::new(UnboundKey::from(okm)), frames: 0 })
    }

    /// Each frame has its own, and its place in the row with it.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&self.frames.to_be_bytes());
        self.frames += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

pub(super) struct Reader {
    stream: OwnedReadHalf,
    key: Key,
    limit: usize,
}

impl Reader {
    /// The next message. Not to be cancelled.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
        let length = self.stream.read_u32().await? as usize;
        if length > self.limit {
            return Err(invalid("a message is too long"));
        }
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).await?;
        let nonce = self.key.nonce();
        let opened = self.key.key.open_in_place(nonce, Aad::empty(), &mut frame);
        let opened = opened.map_err(|_| invalid("another secret"))?;
        serde_json::from_slice(opened).map_err(io::Error::other)
    }
}

pub(super) struct Writer {
    stream: OwnedWriteHalf,
    key: Key,
}

impl Writer {
    /// Fails when the other side takes nothing for a while.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut frame = serde_json::to_vec(message).map_err(io::Error::other)?;
        let nonce = self.key.nonce();
        let sealed = self.key.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut frame);
        sealed.map_err(|_| io::Error::other("seal"))?;
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let write = async {
            self.stream.write_u32(length).await?;
            self.stream.write_all(&frame).await
        };
        timeout(PATIENCE, write).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// Greets, and makes sure that the other side holds the secret.
pub(super) async fn open(
    stream: TcpStream,
    secret: &Secret,
    side: Side,
) -> io::Result<(Reader, Writer)> {
    timeout(PATIENCE, greet(stream, secret, side)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn greet(stream: TcpStream, secret: &Secret, side: Side) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true)?;
    let (mut reading, mut writing) = stream.into_split();
    let own: [u8; NONCE] = rand::random();
    writing.write_all(&[&GREETING[..], &own].concat()).await?;
    let mut theirs = [0; GREETING.len() + NONCE];
    reading.read_exact(&mut theirs).await?;
    let (greeting, theirs) = theirs.split_at(GREETING.len());
    if greeting != GREETING {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no swarm of this version"));
    }
    let salt = match side {
        Side::Coordinator => [&own, theirs].concat(),
        Side::Agent => [theirs, &own].concat(),
    };
    let forth = Key::derive(secret, &salt, b"coordinator to agent")?;
    let back = Key::derive(secret, &salt, b"agent to coordinator")?;
    let (sealing, opening) = match side {
        Side::Coordinator => (forth, back),
        Side::Agent => (back, forth),
    };
    let mut reader = Reader { stream: reading, key: opening, limit: MAX_FIRST_FRAME };
    let mut writer = Writer { stream: writing, key: sealing };
    // The agent seals nothing for somebody who has not shown the secret.
    if side == Side::Coordinator {
        writer.send(&()).await?;
    }
    reader.next::<()>().await?;
    if side == Side::Agent {
        writer.send(&()).await?;
    }
    reader.limit = MAX_FRAME;
    Ok((reader, writer))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn streams() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    #[tokio::test]
    async fn messages_go_both_ways_in_order() {
        let (one, other) = streams().await;
        let shared = secret("a secret of enough length");
        let (one, other) =
            tokio::join!(open(one, &shared, Side::Coordinator), open(other, &shared, Side::Agent));
        let ((mut reader, mut writer), (mut far_reader, mut far_writer)) =
            (one.unwrap(), other.unwrap());
        for number in 0..100_u32 {
            writer.send(&number).await.unwrap();
        }
        far_writer.send(&"x".repeat(100_000)).await.unwrap();
        for number in 0..100_u32 {
            assert_eq!(far_reader.next::<u32>().await.unwrap(), number);
        }
        assert_eq!(reader.next::<String>().await.unwrap().len(), 100_000);
    }

    #[tokio::test]
    async fn another_secret_opens_nothing() {
        let (one, other) = streams().await;
        let (mine, theirs) = (secret("a secret of enough length"), secret("another one, as long"));
        let (one, other) =
            tokio::join!(open(one, &mine, Side::Coordinator), open(other, &theirs, Side::Agent));
        assert!(one.is_err());
        assert_eq!(other.err().unwrap().to_string(), "another secret");
        assert!(Secret::new("short").is_err());
    }

    #[tokio::test]
    async fn strangers_and_long_frames_are_turned_away() {
        let shared = secret("a secret of enough length");
        let (mut stranger, agent) = streams().await;
        stranger
            .write_all(b"GET / HTTP/1.1\r\nhost: somewhere-else\r\naccept: */*\r\n\r\n")
            .await
            .unwrap();
        let refused = open(agent, &shared, Side::Agent).await.err().unwrap();
        assert_eq!(refused.to_string(), "no swarm of this version");
        let (mut stranger, agent) = streams().await;
        stranger.write_all(&[&GREETING[..], &[0; NONCE], &[0xff; 4]].concat()).await.unwrap();
        let refused = open(agent, &shared, Side::Agent).await.err().unwrap();
        assert_eq!(refused.to_string(), "a message is too long");
    }
}
