//! A room as large as meetings get, on two shards. Alone in its process: it takes both cores for a while.

#[allow(dead_code)] // shared with other tests
#[path = "node/client.rs"]
mod client;

use std::time::Duration;

use client::{Client, Pace, config, drive, metric, node, state};

const PEERS: usize = 50;
const PUBLISHERS: usize = 5;

/// Packets of each track that everybody must have. Few and small: 98 streams times ten tracks on a test's machine.
const WANTED: u64 = 20;
const PACE: Pace = Pace { every: Duration::from_millis(200), len: 120 };

fn ssrc(publisher: usize, video: bool) -> u32 {
    1_000 * (publisher as u32 + 1) + if video { 100 } else { 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_peers_receive_everything_of_five() {
    let (node, mut api) = node(config(2)).await;
    let mut clients = Vec::new();
    for n in 0..PEERS {
        let name = format!("PA_{n}");
        let mut client = Client::join(&mut api, "RM_a", &name, false, state(&name)).await;
        // Nobody's first packet leaves before everybody can receive it.
        client.sending = false;
        clients.push(client);
    }
    assert_ne!(clients[0].shard_port, clients[1].shard_port);
    let mut all: Vec<&mut Client> = clients.iter_mut().collect();
    drive(&mut all, "all connect", |c| c.iter().all(|c| c.connected)).await;

    for (n, client) in all.iter_mut().enumerate().take(PUBLISHERS) {
        for video in [false, true] {
            let track = format!("TR_{}", ssrc(n, video));
            client.publish_at(&mut api, &track, video, ssrc(n, video), PACE).await;
        }
    }
    for (n, client) in all.iter_mut().enumerate() {
        for publisher in (0..PUBLISHERS).filter(|publisher| *publisher != n) {
            for video in [false, true] {
                let number = ssrc(publisher, video);
                // Below the publishers' own numbers and apart from them.
                let own = number + 50_000;
                client.subscribe(&mut api, &format!("TR_{number}"), video, own).await;
            }
        }
    }
    for client in &mut all {
        client.sending = true;
    }
    let complete = |n: usize, client: &Client| {
        (0..PUBLISHERS).filter(|publisher| *publisher != n).all(|publisher| {
            [false, true]
                .iter()
                .all(|video| client.has_all(ssrc(publisher, *video) + 50_000, WANTED))
        })
    };
    drive(&mut all, "everything of all five reaches all others", |c| {
        c.iter().enumerate().all(|(n, client)| complete(n, client))
    })
    .await;

    for (n, client) in all.iter().enumerate() {
        for (ssrc, seqs) in &client.packets {
            assert!(
                seqs.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "peer {n}, {ssrc}: {seqs:?}"
            );
        }
    }
    assert_eq!(
        metric(&node, "chappe_sfu_retransmitted_total", ""),
        0,
        "nothing had to be repaired"
    );
    assert_eq!(metric(&node, "chappe_sfu_rings_full_total", ""), 0);
    for reason in ["relay_lane", "unbound_ssrc", "unforwardable", "srtp_auth", "srtp_replay"] {
        assert_eq!(metric(&node, "chappe_sfu_drops_total", reason), 0, "{reason}");
    }
    node.stop().await;
}
