//! No address, user name, password or secret may reach a log line, whatever the level. Alone in its process: it captures
//! all that the node's own crate says.

#[allow(dead_code)] // shared with other tests
#[path = "node/client.rs"]
mod client;

use std::{
    io,
    sync::{Arc, mpsc},
};

use chappe_sfu::{
    config::{CandidateConfig, NodeConfig},
    control::Node,
};
use client::{Api, Client, drive, state};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

#[derive(Clone)]
struct Lines(Arc<mpsc::SyncSender<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_identifies_a_client_is_logged() {
    let (sender, lines) = mpsc::sync_channel(1_000_000);
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("chappe_sfu=trace,quinn_udp=trace"))
        .with_writer(Lines(Arc::new(sender)))
        .with_ansi(false)
        .init();
    let config = NodeConfig {
        shards: 2,
        pin_threads: true,
        udp_port: 0,
        tcp_port: Some(0),
        candidates: CandidateConfig {
            include_loopback: true,
            // Nobody answers there: the failure is logged.
            stun_server: Some("127.0.0.1:9".into()),
            ..CandidateConfig::default()
        },
        ..NodeConfig::default()
    };
    let node = Node::start(config).await.unwrap();
    let mut api = Api::new(node.service());
    let mut secrets = vec!["127.0.0.1".to_owned(), "::1".to_owned(), "secret-identity".to_owned()];
    let mut anna = Client::join(&mut api, "RM_a", "A", false, state("secret-identity")).await;
    let mut bert = Client::join(&mut api, "RM_a", "B", true, state("bert")).await;
    secrets.extend(anna.secrets());
    secrets.extend(bert.secrets());
    anna.publish(&mut api, "TR_a", true, 1_000).await;
    bert.subscribe(&mut api, "TR_a", true, 2_000).await;
    drive(&mut [&mut anna, &mut bert], "media arrives", |c| {
        c[1].received(2_000) > 10 && c[0].data_ready()
    })
    .await;
    node.stop().await;
    drop((node, api));

    let text: Vec<u8> = lines.try_iter().flatten().collect();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("UDP socket"), "something is captured");
    assert!(text.contains("STUN server"), "the failed lookup is told");
    for secret in secrets {
        assert!(secret.len() > 2 && !text.contains(&secret), "{secret:?} was logged:\n{text}");
    }
}
