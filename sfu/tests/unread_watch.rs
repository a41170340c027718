//! A watcher that does not read costs the node a bounded amount of memory and nobody else anything. Alone in its process,
//! whose memory it measures.

#[allow(dead_code)] // shared with other tests
#[path = "node/client.rs"]
mod client;

use std::time::Duration;

use chappe_proto::node::v1 as pb;
use client::{Api, Client, config, drive, node, state};
use pb::event::Event;

/// Where bert receives anna.
const VIDEO: u32 = 3_100;

/// Peers that come and go before memory is measured: more than fill the watcher's queue and every buffer on the way.
const WARM_UP: u64 = 500;

/// How long they come and go after that, and how many at least.
const UNREAD_FOR: Duration = Duration::from_secs(60);
const CHURN: u64 = 1_500;

/// Between two of them. One each 25 ms leaves the machine to the media.
const CHURN_PAUSE: Duration = Duration::from_millis(25);

/// Tracks that only they take. Each makes an event when they come and one when they go.
const TRACKS: u32 = 10;

/// What an event takes where it is kept: two names as long as they may be, and the rest of it.
const EVENT_BYTES: u64 = 3 * 128;

/// Resident memory of this process, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Names as long as they may be: what is kept weighs something.
fn long(name: &str) -> String {
    format!("{name}_{}", "x".repeat(127 - name.len()))
}

/// Declared by anna and never sent.
fn idle_track(number: u32) -> String {
    long(&format!("TR_idle{number}"))
}

/// Peers come for anna's idle tracks and go again, so many and so long at least. Returns how many there were.
async fn churn(mut api: Api, rounds: u64, span: Duration) -> u64 {
    let end = client::now() + span;
    let mut n = 0;
    while n < rounds || client::now() < end {
        let peer_id = long(&format!("PA_{n}"));
        let subscriptions = (0..TRACKS).map(|track| pb::Subscription {
            track_id: idle_track(track),
            mid: format!("s{track}"),
            ssrc: 9_000 + 2 * track,
            rtx_ssrc: 9_001 + 2 * track,
            fec_ssrc: 0,
            max_spatial_layer: Some(0),
            ..pb::Subscription::default()
        });
        let mut state = state("guest");
        state.subscriptions = subscriptions.collect();
        let request = pb::ApplyPeerRequest {
            room_id: long("RM_a"),
            peer_id: peer_id.clone(),
            epoch: 1,
            revision: n + 1,
            change: Some(pb::apply_peer_request::Change::State(state)),
        };
        api.apply_peer(request).await.unwrap();
        let request = pb::RemovePeerRequest { room_id: long("RM_a"), peer_id, epoch: 1 };
        api.remove_peer(request).await.unwrap();
        n += 1;
        if span > Duration::ZERO {
            tokio::time::sleep(CHURN_PAUSE).await;
        }
    }
    n
}

/// Runs the clients until the churn is over. In short pieces, each with the patience of [`drive`].
async fn churn_beside(clients: &mut [&mut Client], api: &Api, rounds: u64, span: Duration) -> u64 {
    let pieces = 10;
    let mut total = 0;
    for _ in 0..pieces {
        let churning = tokio::spawn(churn(api.clone(), rounds / u64::from(pieces), span / pieces));
        drive(clients, "peers come and go", |_| churning.is_finished()).await;
        total += churning.await.unwrap();
    }
    total
}

fn assert_snapshot(snapshot: &pb::Snapshot, revisions: [u64; 2]) {
    assert_eq!(snapshot.rooms.len(), 1);
    let mut peers: Vec<_> = snapshot.peers.iter().collect();
    peers.sort_by(|a, b| a.peer_id.cmp(&b.peer_id));
    let names: Vec<_> = peers.iter().map(|peer| peer.peer_id.as_str()).collect();
    assert_eq!(names, ["PA_anna", "PA_bert", "PA_late"]);
    assert!(peers[0].connected && peers[1].connected && !peers[2].connected);
    assert!(peers[0].data_ready && peers[1].data_ready);
    assert_eq!([peers[0].revision, peers[1].revision], revisions);
    assert_eq!(peers[0].started.len(), 1);
    assert_eq!(peers[0].started[0].track_id, long("TR_av"));
    let demands = peers[0].layer_demands.iter();
    let idle: Vec<_> = demands.filter(|d| d.track_id.starts_with("TR_idle")).collect();
    assert_eq!(idle.len(), TRACKS as usize);
    assert!(idle.iter().all(|d| d.max_spatial_layer.is_none()), "{idle:?}");
    assert!(peers[1].started.is_empty());
    assert_eq!(peers[1].state.as_ref().unwrap().subscriptions.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_watch_costs_nothing_but_its_events() {
    let (node, mut api) = node(config(2)).await;
    let mut watcher = api.clone();
    let mut events = watcher.watch(pb::WatchRequest {}).await.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Snapshot(ref s)) if s.peers.is_empty()), "{first:?}");

    let room = long("RM_a");
    let mut anna = Client::join(&mut api, &room, "PA_anna", false, state("anna")).await;
    let mut bert = Client::join(&mut api, &room, "PA_bert", false, state("bert")).await;
    drive(&mut [&mut anna, &mut bert], "both connect", |c| {
        c.iter().all(|c| c.connected && c.data_ready())
    })
    .await;
    anna.sending = false;
    anna.publish(&mut api, &long("TR_av"), true, 1_100).await;
    bert.subscribe(&mut api, &long("TR_av"), true, VIDEO).await;
    let idle = (0..TRACKS).map(|track| pb::Track {
        track_id: idle_track(track),
        kind: pb::MediaKind::Video.into(),
        mid: format!("i{track}"),
        encodings: vec![pb::Encoding { ssrc: 8_000 + track, ..pb::Encoding::default() }],
        muted: false,
    });
    let delta = pb::PeerDelta { put_tracks: idle.collect(), ..pb::PeerDelta::default() };
    anna.change(&mut api, delta).await;
    anna.sending = true;
    drive(&mut [&mut anna, &mut bert], "video flows", |c| c[1].received(VIDEO) > 10).await;

    let both = &mut [&mut anna, &mut bert];
    churn_beside(both, &api, WARM_UP, Duration::ZERO).await;
    let (before, begun) = (resident(), client::now());
    let (sent, received) = (both[0].sent(1_100), both[1].received(VIDEO) as u64);
    let rounds = churn_beside(both, &api, CHURN, UNREAD_FOR).await;
    assert!(rounds >= CHURN && client::now() - begun >= UNREAD_FOR);
    let growth = resident().saturating_sub(before);
    // Half of what the events of the churn would take, were they all kept.
    let bound = rounds * u64::from(TRACKS) * 2 * EVENT_BYTES / 2 / 1_024;
    assert!(growth < bound, "{growth} KiB more than {before} in {rounds} rounds, {bound} allowed");

    // All that was sent meanwhile, however much a busy machine lets anna send.
    let (sent, all) = (both[0].sent(1_100) - sent, both[0].sent(1_100));
    assert!(sent > 60 * 30 / 4, "{sent} packets sent");
    drive(both, "all media arrives", |c| c[1].has_all(VIDEO, all)).await;
    assert!(both[1].received(VIDEO) as u64 - received >= sent, "media is untouched");
    bert.missing(VIDEO);

    // What happened meanwhile is told by a new snapshot, not event by event.
    let _late = Client::join(&mut api, &room, "PA_late", false, state("late")).await;
    let (mut sequence, mut told) = (1, 0);
    loop {
        let event = tokio::time::timeout(client::PATIENCE, events.message()).await;
        let event = event.expect("a snapshot in time").unwrap().unwrap();
        sequence += 1;
        assert_eq!(event.sequence, sequence);
        match event.event.unwrap() {
            Event::Snapshot(snapshot) => {
                assert_snapshot(&snapshot, [anna.revision, bert.revision]);
                break;
            }
            _ => told += 1,
        }
    }
    assert!(told < WARM_UP * u64::from(TRACKS) * 2, "{told} events waited");

    // And events go on behind it.
    churn(api.clone(), 1, Duration::ZERO).await;
    loop {
        let next = tokio::time::timeout(client::PATIENCE, events.message()).await;
        let next = next.expect("an event in time").unwrap().unwrap();
        sequence += 1;
        assert_eq!(next.sequence, sequence);
        match next.event.unwrap() {
            Event::LayerDemand(_) => break,
            // Each peer is told of every two seconds.
            Event::PeerStats(_) => {}
            other => panic!("{other:?}"),
        }
    }
    node.stop().await;
}
