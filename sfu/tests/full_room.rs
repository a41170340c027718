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

/// Video is repaired until it is whole. Audio is not sent again: what the machine loses of it stays lost, and is counted
/// at the end.
fn has_enough(client: &Client, ssrc: u32, video: bool) -> bool {
    if video {
        return client.has_all(ssrc, WANTED);
    }
    client.stamps.get(&ssrc).is_some_and(|stamps| stamps.len() as u64 >= WANTED)
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
                .all(|video| has_enough(client, ssrc(publisher, *video) + 50_000, *video))
        })
    };
    drive(&mut all, "everything of all five reaches all others", |c| {
        c.iter().enumerate().all(|(n, client)| complete(n, client))
    })
    .await;

    // Whatever the machine lost and had sent again: each packet once, under the number of its place.
    let (mut missing, mut received) = (0, 0);
    for client in &all {
        for (ssrc, stamps) in &client.stamps {
            missing += client.missing(*ssrc);
            received += stamps.len() as u64;
        }
    }
    assert!(missing * 100 < received, "{missing} missing beside {received}");
    for reason in ["unbound_ssrc", "unforwardable", "srtp_auth"] {
        assert_eq!(metric(&node, "chappe_sfu_drops_total", reason), 0, "{reason}");
    }
    node.stop().await;
}
