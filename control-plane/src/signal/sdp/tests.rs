use chappe_proto::node::v1 as node;

use super::*;

mod answers;
mod hostile;
mod lifecycle;
mod offers;

/// A real offer or answer of a browser; `tests/fixtures/sdp/README.md` says how they were made.
fn fixture(name: &str) -> String {
    let path = format!("tests/fixtures/sdp/{name}.sdp");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn local() -> node::LocalTransport {
    node::LocalTransport {
        ice: Some(node::IceCredentials {
            ufrag: "node".to_owned(),
            pwd: "nodenodenodenodenodenode".to_owned(),
        }),
        candidates: vec![
            node::Candidate {
                protocol: node::candidate::Protocol::Udp as i32,
                address: "192.0.2.1".to_owned(),
                port: 7882,
                r#type: node::candidate::Type::Host as i32,
                priority: 2_130_706_431,
                foundation: "1".to_owned(),
            },
            node::Candidate {
                protocol: node::candidate::Protocol::Tcp as i32,
                address: "2001:db8::1".to_owned(),
                port: 7881,
                r#type: node::candidate::Type::Host as i32,
                priority: 1_671_430_143,
                foundation: "2".to_owned(),
            },
        ],
        fingerprint: Some(node::Fingerprint {
            algorithm: "sha-256".to_owned(),
            digest: (0..32).collect(),
        }),
        ice_generation: 0,
    }
}

fn video(sid: &str, mime_type: &str) -> SendTrack {
    SendTrack {
        kind: MediaKind::Video,
        track_sid: sid.to_owned(),
        stream_id: format!("PA_alice|{sid}"),
        mime_type: mime_type.to_owned(),
        ssrc: 1_000,
        rtx_ssrc: 1_001,
        fec_ssrc: 1_002,
        stereo: false,
    }
}

fn audio(sid: &str) -> SendTrack {
    SendTrack {
        kind: MediaKind::Audio,
        mime_type: "audio/opus".to_owned(),
        ssrc: 2_000,
        rtx_ssrc: 0,
        fec_ssrc: 0,
        ..video(sid, "")
    }
}

/// The lines of the m-line with this mid.
fn section<'a>(sdp: &'a str, mid: &str) -> Vec<&'a str> {
    let wanted = format!("a=mid:{mid}");
    let mut current: Vec<&str> = Vec::new();
    let mut sections = Vec::new();
    for line in sdp.lines() {
        if line.starts_with("m=") {
            sections.push(std::mem::take(&mut current));
        }
        current.push(line);
    }
    sections.push(current);
    sections
        .into_iter()
        .find(|lines| lines.contains(&wanted.as_str()))
        .unwrap_or_else(|| panic!("no m-line {mid} in\n{sdp}"))
}

fn direction<'a>(sdp: &'a str, mid: &str) -> &'a str {
    section(sdp, mid)
        .into_iter()
        .find(|line| ["a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"].contains(line))
        .map_or("", |line| &line[2..])
}

fn offered(name: &str) -> (Negotiator, OfferSummary) {
    let mut negotiator = Negotiator::answering(42);
    let summary = negotiator.handle_offer(1, &fixture(name)).expect(name);
    (negotiator, summary)
}
