//! The split form over mutual TLS: a control plane that shows the right certificate is let in, one without is not.

use std::{path::PathBuf, time::Duration};

use chappe::node::Node;
use chappe_sfu::{
    config::{ApiConfig, CandidateConfig, NodeConfig, TlsFiles},
    control::Node as MediaNode,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec!["authority".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key as PEM.
fn issue(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn file(folder: &std::path::Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn only_a_control_plane_with_a_certificate_of_the_authority_is_served() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = std::env::temp_dir().join(format!("chappe-node-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (trusted, stranger) = (authority(), authority());
    let (cert, key) = issue(&trusted);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let api = ApiConfig {
        listen: ([127, 0, 0, 1], port).into(),
        secret: None,
        tls: Some(TlsFiles {
            certificate: file(&folder, "node.pem", &cert),
            key: file(&folder, "node.key", &key),
            client_ca: Some(file(&folder, "ca.pem", &trusted.pem())),
        }),
    };
    let media = MediaNode::start(NodeConfig {
        shards: 1,
        pin_threads: false,
        udp_port: 0,
        tcp_port: None,
        candidates: CandidateConfig { include_loopback: true, ..CandidateConfig::default() },
        ..NodeConfig::default()
    })
    .await
    .unwrap();
    let serving = media.clone();
    let served = tokio::spawn(async move { serving.serve(&api, std::future::pending()).await });

    let ask = async |identity: Option<(String, String)>| {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted.pem()));
        if let Some((cert, key)) = identity {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        let node = Node::remote(&format!("https://localhost:{port}"), None, Some(tls)).unwrap();
        tokio::time::timeout(Duration::from_secs(20), node.get_node()).await.unwrap()
    };
    assert!(ask(Some(issue(&trusted))).await.unwrap().node_id.starts_with("ND_"));
    assert!(ask(Some(issue(&stranger))).await.is_err(), "signed by somebody else");
    assert!(ask(None).await.is_err(), "no certificate");

    served.abort();
    media.stop().await;
    std::fs::remove_dir_all(&folder).unwrap();
}
