//! A node as its control plane and its clients see it: real sockets on loopback, the gRPC face over the in-memory
//! channel, str0m as the client.

#[allow(dead_code)] // shared with other tests
#[path = "node/client.rs"]
mod client;
#[path = "node/independent.rs"]
mod independent;

use std::{collections::HashSet, net::SocketAddr};

use chappe_proto::node::v1 as pb;
use chappe_sfu::config::NodeConfig;
use client::{Api, Client, config, drive, metric, node, state};
use tonic::{Code, Streaming};

async fn watch(api: &mut Api) -> Streaming<pb::Event> {
    api.watch(pb::WatchRequest {}).await.unwrap().into_inner()
}

/// Two clients talk and write to each other, both ways.
async fn talk(shards: u16, tcp: bool, dtls_role: pb::DtlsRole) {
    let (node, mut api) = node(config(shards)).await;
    let mut events = watch(&mut api).await;
    let state = |address: &str| {
        let transport = pb::Transport { dtls_role: dtls_role.into(), ..pb::Transport::default() };
        pb::PeerState { transport: Some(transport), ..state(address) }
    };
    let mut anna = Client::join(&mut api, "RM_a", "PA_anna", tcp, state("anna")).await;
    let mut bert = Client::join(&mut api, "RM_a", "PA_bert", tcp, state("bert")).await;
    assert_eq!(anna.shard_port != bert.shard_port, shards > 1, "round robin places them");
    drive(&mut [&mut anna, &mut bert], "both connect", |c| {
        c.iter().all(|c| c.connected && c.data_ready())
    })
    .await;
    anna.publish(&mut api, "TR_aa", false, 1_000).await;
    anna.publish(&mut api, "TR_av", true, 1_100).await;
    bert.publish(&mut api, "TR_ba", false, 2_000).await;
    bert.publish(&mut api, "TR_bv", true, 2_100).await;
    bert.subscribe(&mut api, "TR_aa", false, 3_000).await;
    bert.subscribe(&mut api, "TR_av", true, 3_100).await;
    anna.subscribe(&mut api, "TR_ba", false, 4_000).await;
    anna.subscribe(&mut api, "TR_bv", true, 4_100).await;
    drive(&mut [&mut anna, &mut bert], "audio and video arrive both ways", |c| {
        c[0].received(4_000) > 50
            && c[0].received(4_100) > 30
            && c[1].received(3_000) > 50
            && c[1].received(3_100) > 30
    })
    .await;
    for (client, ssrc) in [(&anna, 4_000), (&anna, 4_100), (&bert, 3_000), (&bert, 3_100)] {
        let mut seqs = client.packets[&ssrc].clone();
        seqs.sort_unstable();
        assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "no packet twice on {ssrc}");
    }
    reports(&mut api).await;
    anna.say("hello", true);
    bert.say("quick", false);
    drive(&mut [&mut anna, &mut bert], "texts arrive both ways", |c| {
        c[1].texts.contains(&("anna".into(), "hello".into()))
            && c[0].texts.contains(&("bert".into(), "quick".into()))
    })
    .await;
    assert!(anna.texts.iter().all(|(from, _)| from != "anna"), "nothing comes back to its sender");

    let mut seen = Seen::default();
    while !seen.complete() {
        let event = tokio::time::timeout(client::PATIENCE, events.message()).await;
        let event = event.unwrap_or_else(|_| panic!("not in time: all events; seen {seen:?}"));
        seen.take(event.unwrap().unwrap());
    }
    let metrics = node.metrics();
    assert!(metrics.contains("chappe_sfu_known_peers 2"), "{metrics}");
    // Read from the kernel's own table of sockets.
    assert!(metrics.contains("chappe_sfu_kernel_drops{shard=\"0\"} "), "{metrics}");
    node.stop().await;
    drive(&mut [&mut anna, &mut bert], "the watch ends", |_| true).await;
    while events.message().await.unwrap().is_some() {}
}

/// Both say what they publish and receive.
async fn reports(api: &mut Api) {
    let ask =
        |peer: &str| pb::GetPeerReportRequest { room_id: "RM_a".into(), peer_id: peer.into() };
    for peer in ["PA_anna", "PA_bert"] {
        let report = api.get_peer_report(ask(peer)).await.unwrap().into_inner();
        assert!(report.connected, "{report:?}");
        let path = report.path.unwrap();
        // These clients negotiated no feedback from which to estimate.
        assert!(path.bytes_sent > 0 && path.estimate.is_none(), "{path:?}");
        let [audio, video] = &report.tracks[..] else { panic!("two tracks: {:?}", report.tracks) };
        assert_eq!((audio.kind(), video.kind()), (pb::MediaKind::Audio, pb::MediaKind::Video));
        for track in [audio, video] {
            let encoding = track.encodings[0];
            assert!(encoding.live && encoding.packets > 20 && encoding.ssrc > 0, "{track:?}");
        }
        assert_eq!(report.subscriptions.len(), 2);
        for subscription in &report.subscriptions {
            assert!(subscription.published && subscription.current.is_some(), "{subscription:?}");
            assert!(subscription.sent.unwrap().packets > 20, "{subscription:?}");
            assert_eq!(subscription.wanted, Some(pb::LayersReport::default()), "no bound");
        }
    }
    let refused = api.get_peer_report(ask("PA_carl")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let refused = api.get_peer_report(ask("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// Events that every such talk causes.
#[derive(Default, Debug)]
struct Seen {
    sequence: u64,
    snapshot: bool,
    connected: Vec<String>,
    data_ready: Vec<String>,
    started: Vec<String>,
}

impl Seen {
    fn take(&mut self, event: pb::Event) {
        self.sequence += 1;
        assert_eq!(event.sequence, self.sequence);
        match event.event.unwrap() {
            pb::event::Event::Snapshot(_) => {
                assert_eq!(self.sequence, 1, "a snapshot first, and no other");
                self.snapshot = true;
            }
            pb::event::Event::PeerConnected(e) => self.connected.push(e.peer_id),
            pb::event::Event::DataReady(e) => self.data_ready.push(e.peer_id),
            pb::event::Event::TrackStarted(e) => self.started.push(e.track.unwrap().track_id),
            pb::event::Event::PeerLost(e) => panic!("{} was lost: {:?}", e.peer_id, e.reason()),
            _ => {}
        }
    }

    fn complete(&self) -> bool {
        self.snapshot
            && self.connected.len() == 2
            && self.data_ready.len() == 2
            && self.started.len() == 4
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_talk_over_one_shard() {
    talk(1, false, pb::DtlsRole::Passive).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_talk_over_two_shards() {
    talk(2, false, pb::DtlsRole::Passive).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_talk_over_ice_tcp() {
    talk(2, true, pb::DtlsRole::Passive).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_talk_where_the_node_is_the_dtls_client() {
    talk(1, false, pb::DtlsRole::Active).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h265_passes_whole_from_an_intra_picture_on() {
    let (node, mut api) = node(config(2)).await;
    let mut anna = Client::join(&mut api, "RM_a", "PA_anna", false, state("anna")).await;
    let mut bert = Client::join(&mut api, "RM_a", "PA_bert", false, state("bert")).await;
    drive(&mut [&mut anna, &mut bert], "both connect", |c| c.iter().all(|c| c.connected)).await;
    anna.publish_h265(&mut api, "TR_av", 1_100).await;
    let media = || metric(&node, "chappe_sfu_media_in_total", "");
    drive(&mut [&mut anna, &mut bert], "a picture is under way", |_| media() > 6).await;
    bert.kept.insert(3_100, Vec::new());
    bert.network.downlink_loss = 5;
    bert.subscribe(&mut api, "TR_av", true, 3_100).await;
    drive(&mut [&mut anna, &mut bert], "packets arrive, resent ones too", |c| {
        let mut seqs: Vec<_> = c[1].kept[&3_100].iter().map(|packet| packet.seq).collect();
        seqs.sort_unstable();
        let gaps = seqs.windows(2).filter(|pair| pair[1] - pair[0] != 1).count();
        seqs.len() > 120 && gaps == 0
    })
    .await;
    assert!(bert.network.lost > 0, "some were lost");
    let mut kept = bert.kept.remove(&3_100).unwrap();
    kept.sort_unstable_by_key(|packet| packet.seq);
    let units: Vec<_> = kept.chunk_by(|a, b| a.time == b.time).collect();
    let number = |unit: &[client::Kept]| {
        u64::from_be_bytes(*unit[0].payload.last_chunk().expect("each ends with its number"))
    };
    let first = number(units[0]);
    assert_eq!(first % client::H265_INTRA_EACH, 1, "an intra picture first, not {first}");
    // The last one may be under way still.
    for (unit, wanted) in units[..units.len() - 1].iter().zip(first..) {
        assert_eq!(number(unit), wanted);
        let payloads: Vec<_> = unit.iter().map(|packet| packet.payload.clone()).collect();
        assert!(payloads == client::h265_unit(wanted), "unit {wanted}");
        let markers = unit.iter().filter(|packet| packet.marker).count();
        assert!(markers == 1 && unit.last().is_some_and(|packet| packet.marker), "unit {wanted}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_at_the_wrong_shards_port_gets_its_media_there() {
    let (node, mut api) = node(config(2)).await;
    let mut anna = Client::join(&mut api, "RM_a", "PA_anna", false, state("anna")).await;
    let mut bert = Client::join(&mut api, "RM_a", "PA_bert", false, state("bert")).await;
    let wrong = |told: SocketAddr| SocketAddr::new(told.ip(), bert.shard_port as u16);
    let mut carl = Client::join_at(&mut api, "RM_a", "PA_carl", false, state("carl"), wrong).await;
    assert_eq!(carl.shard_port, anna.shard_port, "round robin places them");
    assert_ne!(u32::from(carl.node_address().port()), carl.shard_port);
    drive(&mut [&mut anna, &mut bert, &mut carl], "all connect", |c| {
        c.iter().all(|c| c.connected && c.data_ready())
    })
    .await;
    anna.publish(&mut api, "TR_av", true, 1_100).await;
    carl.publish(&mut api, "TR_cv", true, 2_100).await;
    carl.subscribe(&mut api, "TR_av", true, 3_100).await;
    bert.subscribe(&mut api, "TR_cv", true, 4_100).await;
    carl.say("by the other door", true);
    drive(&mut [&mut anna, &mut bert, &mut carl], "media and texts both ways", |c| {
        c[2].received(3_100) > 60
            && c[1].received(4_100) > 60
            && c[0].texts.contains(&("carl".into(), "by the other door".into()))
    })
    .await;
    let handed = metric(&node, "chappe_sfu_handed_over_total", "");
    assert!(handed > 60, "{handed} datagrams were handed over");
    assert_eq!(metric(&node, "chappe_sfu_handover_drops_total", ""), 0);
    // The shard that its datagrams come to knows no peer, and what follows finds none.
    let remove =
        pb::RemovePeerRequest { room_id: "RM_a".into(), peer_id: "PA_carl".into(), epoch: 1 };
    api.remove_peer(remove).await.unwrap();
    let strays = || metric(&node, "chappe_sfu_drops_total", "unknown_path");
    let before = strays();
    drive(&mut [&mut anna, &mut bert], "strays are dropped and counted", |_| {
        carl.send_raw(&[0x80; 100]);
        strays() > before + 5
    })
    .await;
    let handed = metric(&node, "chappe_sfu_handed_over_total", "");
    drive(&mut [&mut anna, &mut bert], "more strays", |_| {
        carl.send_raw(&[0x80; 100]);
        strays() > before + 50
    })
    .await;
    let after = metric(&node, "chappe_sfu_handed_over_total", "");
    assert_eq!(after, handed, "the five-tuple is forgotten with its peer");
    node.stop().await;
}

/// The route alone would choose 127.0.0.1 as the source of everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_several_addresses_answers_from_the_one_that_was_asked() {
    let (node, mut api) = node(config(2)).await;
    let at = |last| move |told: SocketAddr| SocketAddr::new([127, 0, 0, last].into(), told.port());
    let (second, third) = (at(2), at(3));
    let mut anna = Client::join_at(&mut api, "RM_a", "PA_anna", false, state("anna"), second).await;
    let mut bert = Client::join_at(&mut api, "RM_a", "PA_bert", false, state("bert"), third).await;
    // One client may also try several from one socket of its own.
    let (anna_second, anna_third) = (anna.node_address(), third(anna.node_address()));
    anna.hear_of(anna_third);
    drive(&mut [&mut anna, &mut bert], "both connect, and every address answers", |c| {
        c.iter().all(|c| c.connected && c.data_ready())
            && c[0].answered.contains(&anna_second)
            && c[0].answered.contains(&anna_third)
    })
    .await;
    assert_eq!(bert.answered, HashSet::from([bert.node_address()]));
    anna.publish(&mut api, "TR_av", true, 1_100).await;
    bert.subscribe(&mut api, "TR_av", true, 3_100).await;
    drive(&mut [&mut anna, &mut bert], "media", |c| c[1].received(3_100) > 30).await;
    assert_eq!(
        bert.senders,
        HashSet::from([bert.node_address()]),
        "DTLS, SRTP and data come from there too"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_is_told_goodbye_and_forgotten() {
    let (node, mut api) = node(config(1)).await;
    let mut anna = Client::join(&mut api, "RM_a", "PA_anna", false, state("anna")).await;
    drive(&mut [&mut anna], "connects", |c| c[0].connected).await;
    let remove =
        pb::RemovePeerRequest { room_id: "RM_a".into(), peer_id: "PA_anna".into(), epoch: 1 };
    api.remove_peer(remove.clone()).await.unwrap();
    api.remove_peer(remove).await.expect("removing an unknown peer succeeds");
    assert_eq!(api.get_node(pb::GetNodeRequest {}).await.unwrap().into_inner().peers, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_are_removed_on_all_shards() {
    let (node, mut api) = node(config(3)).await;
    for peer in ["A", "B", "C", "D"] {
        Client::join(&mut api, "RM_a", peer, false, state(peer)).await;
    }
    Client::join(&mut api, "RM_b", "E", false, state("E")).await;
    let request = pb::RemoveRoomRequest { room_id: "RM_a".into(), epoch: 1 };
    api.remove_room(request).await.unwrap();
    let mut events = watch(&mut api).await;
    let Some(pb::event::Event::Snapshot(snapshot)) = events.message().await.unwrap().unwrap().event
    else {
        panic!("a snapshot first")
    };
    let left: Vec<_> =
        snapshot.peers.iter().map(|p| (p.room_id.as_str(), p.peer_id.as_str())).collect();
    assert_eq!(left, [("RM_b", "E")]);
    assert!(snapshot.peers[0].transport.as_ref().is_some_and(|t| t.ice.is_some()));
    node.stop().await;
    let refused = api
        .apply_peer(pb::ApplyPeerRequest {
            room_id: "RM_c".into(),
            peer_id: "F".into(),
            revision: 1,
            change: Some(pb::apply_peer_request::Change::State(state("F"))),
            ..pb::ApplyPeerRequest::default()
        })
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_revisions_are_answered_with_the_same_transport() {
    let (node, mut api) = node(config(1)).await;
    let request = pb::ApplyPeerRequest {
        room_id: "RM_a".into(),
        peer_id: "PA_a".into(),
        epoch: 3,
        revision: 7,
        change: Some(pb::apply_peer_request::Change::State(state("a"))),
    };
    let first = api.apply_peer(request.clone()).await.unwrap().into_inner();
    let again = api.apply_peer(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    let older = pb::ApplyPeerRequest { epoch: 2, revision: 8, ..request.clone() };
    assert_eq!(api.apply_peer(older).await.unwrap_err().code(), Code::FailedPrecondition);
    let nameless = pb::ApplyPeerRequest { peer_id: String::new(), ..request };
    let refused = api.apply_peer(nameless).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("peer_id"), "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_node_sleeps() {
    let (node, mut api) = node(config(1)).await;
    let mut anna = Client::join(&mut api, "RM_a", "PA_anna", false, state("anna")).await;
    drive(&mut [&mut anna], "connects", |c| c[0].connected && c[0].data_ready()).await;
    let before = metric(&node, "chappe_sfu_slices_total", "");
    let until = client::now() + std::time::Duration::from_secs(2);
    drive(&mut [&mut anna], "two quiet seconds", |_| client::now() > until).await;
    let slices = metric(&node, "chappe_sfu_slices_total", "") - before;
    // Checks, SCTP heartbeats, reports: some tens of turns; a loop that spins has hundreds of thousands.
    assert!(slices < 500, "{slices} turns in two quiet seconds");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_commands_is_taken_or_refused_and_passes() {
    let (node, api) = node(NodeConfig { mailbox: 1, ..config(1) }).await;
    let mut joining = tokio::task::JoinSet::new();
    for n in 0..500 {
        let mut api = api.clone();
        let change = Some(pb::apply_peer_request::Change::State(state("x")));
        let (room_id, peer_id) = (format!("RM_{n}"), "PA_a".to_owned());
        joining.spawn(async move {
            let request = pb::ApplyPeerRequest { room_id, peer_id, epoch: 1, revision: 1, change };
            api.apply_peer(request).await.map_err(|status| status.code())
        });
    }
    let mut taken = 0;
    while let Some(answer) = joining.join_next().await {
        match answer.unwrap() {
            Ok(_) => taken += 1,
            Err(code) => assert_eq!(code, Code::ResourceExhausted),
        }
    }
    let mut api = api;
    let node_says = api.get_node(pb::GetNodeRequest {}).await.unwrap().into_inner();
    assert!(taken > 0);
    assert_eq!(node_says.peers, taken, "a refused peer leaves nothing behind");
    let mut events = watch(&mut api).await;
    let Some(pb::event::Event::Snapshot(snapshot)) = events.message().await.unwrap().unwrap().event
    else {
        panic!("a snapshot first")
    };
    assert_eq!(snapshot.rooms.len(), taken as usize);
    node.stop().await;
}
