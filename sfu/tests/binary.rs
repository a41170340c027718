//! `chappe-sfu` as operators start and stop it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use chappe_proto::node::v1::{GetNodeRequest, node_service_client::NodeServiceClient};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::{
    Code, Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

const SECRET: &str = "a secret of the tests";

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    child: Child,
    api: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[allow(clippy::disallowed_methods)] // a test has a real clock
fn now() -> Instant {
    Instant::now()
}

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chappe-sfu"));
    command.env_clear().stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts the binary and waits until it is ready.
fn start(args: &[&str]) -> Running {
    let (api, admin) = (free_address(), free_address());
    let child = binary()
        .args(["--listen", &api.to_string(), "--admin", &admin.to_string()])
        .args(["--udp-port", "0", "--tcp-port", "0", "--shards", "2", "--include-loopback"])
        .args(args)
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let running = Running { child, api, admin };
    let give_up = now() + PATIENCE;
    while http(admin, "/readyz").is_none_or(|answer| !answer.starts_with("HTTP/1.1 200"))
        || TcpStream::connect(api).is_err()
    {
        assert!(now() < give_up, "not ready in time");
        std::thread::sleep(Duration::from_millis(20));
    }
    running
}

fn http(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn with_secret(secret: &str) -> Request<GetNodeRequest> {
    let mut request = Request::new(GetNodeRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
    request
}

#[tokio::test]
async fn it_serves_those_who_know_the_secret_and_stops_in_order() {
    let mut running = start(&["--secret", SECRET]);
    let mut api = NodeServiceClient::connect(format!("http://{}", running.api)).await.unwrap();
    assert_eq!(api.get_node(GetNodeRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(
        api.get_node(with_secret("another secret")).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let node = api.get_node(with_secret(SECRET)).await.unwrap().into_inner();
    assert_eq!((node.shards, node.peers), (2, 0));
    assert!(node.node_id.starts_with("ND_") && node.node_id.len() == 15, "{}", node.node_id);
    assert!(http(running.admin, "/healthz").unwrap().ends_with("ok\n"));
    let metrics = http(running.admin, "/metrics").unwrap();
    assert!(
        metrics.contains("chappe_sfu_peers{shard=\"1\"} 0") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );

    let pid = running.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let give_up = now() + PATIENCE;
    let status = loop {
        if let Some(status) = running.child.try_wait().unwrap() {
            break status;
        }
        assert!(now() < give_up, "it does not stop");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn it_refuses_to_be_open_to_everybody() {
    let output = binary().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--secret") && said.contains("mutual"), "{said}");
}

#[test]
fn a_secret_in_clear_text_is_warned_of() {
    let mut child = binary()
        .args(["--secret", SECRET, "--listen", "0.0.0.0:0", "--admin", "off", "--shards", "1"])
        .args(["--udp-port", "0", "--tcp-port", "0", "--include-loopback"])
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let warned = lines
        .take_while(|line| !line.contains("media node is up"))
        .any(|line| line.contains("WARN") && line.contains("IN CLEAR TEXT"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(warned);
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output =
        binary().args(["--secret", SECRET, "--udp-port", &port, "--shards", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&port) && said.contains("rtc.udp_port"), "{said}");
}

/// PEM files of an authority and of one certificate that it signed.
struct Pems {
    authority: String,
    certificate: String,
    key: String,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn signed_by(authority: &CertifiedIssuer<'static, KeyPair>) -> Pems {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Pems { authority: authority.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
}

fn written(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn connect(
    address: SocketAddr,
    pems: &Pems,
    identity: Option<&Pems>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&pems.authority))
        .domain_name("localhost");
    if let Some(own) = identity {
        tls = tls.identity(Identity::from_pem(&own.certificate, &own.key));
    }
    Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await
}

#[tokio::test]
async fn mutual_tls_lets_only_known_control_planes_in() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (ours, theirs) = (authority(), authority());
    let (server, client, stranger) = (signed_by(&ours), signed_by(&ours), signed_by(&theirs));
    let directory = std::env::temp_dir().join(format!("chappe-sfu-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let certificate = written(&directory, "cert.pem", &server.certificate);
    let key = written(&directory, "key.pem", &server.key);
    let client_ca = written(&directory, "ca.pem", &server.authority);
    let flag = |path: &Path| path.to_str().unwrap().to_owned();
    let running = start(&[
        "--tls-cert",
        &flag(&certificate),
        "--tls-key",
        &flag(&key),
        "--tls-client-ca",
        &flag(&client_ca),
    ]);
    std::fs::remove_dir_all(&directory).unwrap();

    let channel = connect(running.api, &server, Some(&client)).await.unwrap();
    NodeServiceClient::new(channel)
        .get_node(GetNodeRequest {})
        .await
        .expect("a known control plane");
    for identity in [None, Some(&stranger)] {
        // TLS 1.3 tells a refused client only when it reads.
        let refused = match connect(running.api, &server, identity).await {
            Ok(channel) => {
                NodeServiceClient::new(channel).get_node(GetNodeRequest {}).await.is_err()
            }
            Err(_) => true,
        };
        assert!(refused);
    }
}
