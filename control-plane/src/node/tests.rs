//! Nodes elsewhere: secrets, reconnects, restarts, placement.

use std::{net::SocketAddr, time::Duration};

use chappe_proto::node::v1::node_service_server::NodeServiceServer;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Status, transport::Server};

use super::{testing::TestNode, *};

const SECRET: &str = "sixteen letters and more";
const PATIENCE: Duration = Duration::from_secs(10);

/// The node's API on a port, for whoever knows the secret.
async fn serve(test_node: &TestNode, address: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let check = |request: Request<()>| {
        let given = request.metadata().get("authorization");
        match given.is_some_and(|given| given == format!("Bearer {SECRET}").as_str()) {
            true => Ok(request),
            false => Err(Status::unauthenticated("secret")),
        }
    };
    let service = NodeServiceServer::with_interceptor(test_node.clone(), check);
    let server = Server::builder().add_service(service);
    let serving = tokio::spawn(async move {
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    (address, serving)
}

async fn next(events: &mut mpsc::Receiver<NodeEvent>) -> NodeChange {
    let event = tokio::time::timeout(PATIENCE, events.recv()).await;
    event.expect("an event comes").expect("the nodes live").change
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn a_node_elsewhere_is_found_again_and_its_restart_is_noticed() {
    let test_node = TestNode::new();
    let (address, serving) = serve(&test_node, anywhere()).await;
    let (nodes, mut events) = Nodes::new();
    let node = Node::remote(&format!("http://{address}"), Some(SECRET), None).unwrap();
    nodes.add(node.clone());
    assert!(matches!(next(&mut events).await, NodeChange::Snapshot(_)));
    assert!(nodes.place().await.unwrap().is(&node));

    // The way to it is cut, the node lives on.
    serving.abort();
    let _ = serving.await;
    test_node.cut_streams();
    let (_, serving) = serve(&test_node, address).await;
    assert!(matches!(next(&mut events).await, NodeChange::Snapshot(_)));

    // The node itself starts again.
    serving.abort();
    let _ = serving.await;
    test_node.restart();
    let (_, _serving) = serve(&test_node, address).await;
    assert!(matches!(next(&mut events).await, NodeChange::Lost));
    assert!(matches!(next(&mut events).await, NodeChange::Snapshot(_)));
}

#[tokio::test]
async fn without_the_secret_nothing_is_placed() {
    let test_node = TestNode::new();
    let (address, _serving) = serve(&test_node, anywhere()).await;
    for secret in [None, Some("another secret")] {
        let (nodes, _events) = Nodes::new();
        let node = Node::remote(&format!("http://{address}"), secret, None).unwrap();
        nodes.add(node.clone());
        let refused = node.get_node().await.unwrap_err();
        assert!(matches!(refused, CallError::Invalid(_)), "{refused:?}");
        assert!(!nodes.any_attached());
        assert!(nodes.place().await.is_err());
    }
}

#[tokio::test]
async fn the_emptiest_node_takes_the_next_room() {
    let (nodes, mut events) = Nodes::new();
    let all: Vec<_> = ["a", "b"]
        .map(|name| Node::embedded(name, TestNode::new().service()))
        .into_iter()
        .inspect(|node| nodes.add(node.clone()))
        .collect();
    for _ in &all {
        assert!(matches!(next(&mut events).await, NodeChange::Snapshot(_)));
    }
    let attached = async {
        while !all.iter().all(Node::is_attached) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, attached).await.unwrap();
    let on_a = all[0].count_peer();
    assert!(nodes.place().await.unwrap().is(&all[1]));
    let _on_b = (all[1].count_peer(), all[1].count_peer());
    assert!(nodes.place().await.unwrap().is(&all[0]));
    drop(on_a);
    assert_eq!(all[0].peers(), 0);
}

#[test]
fn a_malformed_address_or_secret_is_told() {
    assert!(Node::remote("not a url", None, None).is_err());
    let error = Node::remote("http://x:7883", Some("line\nbreak"), None).unwrap_err();
    assert!(!error.contains("break"), "the secret is not told: {error}");
}
