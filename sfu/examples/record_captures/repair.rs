//! Records what Chromium makes of RFC 2198 and RFC 4588: its fake microphone as RED, and its fake camera with
//! retransmissions of packets that this side says it misses. Whole RTP packets are kept, so the media node's own transport
//! is the other end: str0m takes both apart.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener, UdpSocket},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chappe_sfu::{
    rtp::Ssrc,
    transport::{
        DtlsRole, DtlsVersions, Fingerprint, FiveTuple, IceCredentials, Protocol, Transport,
        TransportContext, TransportParams,
    },
};

use crate::browser::{Browser, read_request, respond};

/// Numbers of Chromium's that the answer takes.
const OPUS: u8 = 111;
const RED: u8 = 63;
const VP8: u8 = 96;
const VP8_RTX: u8 = 97;

/// Packets of video before the first is missed: bandwidth is found, and retransmissions are not rationed.
const WARM_UP: usize = 150;

/// Packets that are kept of each kind.
const KEPT: usize = 60;

/// Of the packets of video each so many-th is said to be missing.
const MISSED_EACH: usize = 7;

/// Whole RTP packets in the order of arrival.
#[derive(Default)]
pub(crate) struct Repair {
    pub(crate) red: Vec<Vec<u8>>,
    /// Media and retransmissions.
    pub(crate) video: Vec<Vec<u8>>,
}

fn attribute<'a>(sdp: &'a str, name: &str) -> &'a str {
    sdp.lines().find_map(|line| line.strip_prefix(&format!("a={name}:"))).unwrap().trim()
}

#[allow(clippy::disallowed_methods)] // a tool on a real network
pub(crate) fn record() -> Repair {
    let pages = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", pages.local_addr().unwrap());
    let profile = std::env::temp_dir().join(format!("chappe-repair-{}", std::process::id()));
    let _browser = Browser(
        Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(origin)
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let local = IceCredentials {
        ufrag: "recorder".to_owned(),
        pwd: "a-password-of-the-recorder".to_owned(),
    };
    let context = TransportContext::generate(DtlsVersions::Dtls12).unwrap();
    let mut transport = Transport::new(&context, &local, Instant::now());
    loop {
        let (mut stream, _) = pages.accept().unwrap();
        let (request, offer) = read_request(&mut stream);
        if !request.starts_with("POST") {
            respond(&mut stream, "text/html", PAGE);
            continue;
        }
        let (algorithm, digest) = attribute(&offer, "fingerprint").split_once(' ').unwrap();
        let digest = digest.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let params = TransportParams {
            remote_ice: Some(IceCredentials {
                ufrag: attribute(&offer, "ice-ufrag").to_owned(),
                pwd: attribute(&offer, "ice-pwd").to_owned(),
            }),
            dtls_role: Some(DtlsRole::Passive),
            remote_fingerprints: vec![Fingerprint { algorithm: algorithm.to_owned(), digest }],
            ..TransportParams::default()
        };
        transport.set_remote(Instant::now(), &params);
        let answer = answer(&local, context.fingerprint(), socket.local_addr().unwrap());
        respond(&mut stream, "application/sdp", &answer);
        return take(&mut transport, &socket);
    }
}

fn answer(local: &IceCredentials, fingerprint: &Fingerprint, address: SocketAddr) -> String {
    let digest: Vec<_> = fingerprint.digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let section = |mid: u8, media: &str, formats: &str| {
        format!(
            "m={media}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=recvonly\r\na=rtcp-mux\r\n\
             a=rtcp-rsize\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:sha-256 {}\r\n\
             a=setup:passive\r\n{formats}a=candidate:1 1 udp 2130706431 {} {} typ host\r\n",
            local.ufrag,
            local.pwd,
            digest.join(":"),
            address.ip(),
            address.port()
        )
    };
    let audio = format!(
        "a=rtpmap:{RED} red/48000/2\r\na=fmtp:{RED} {OPUS}/{OPUS}\r\na=rtpmap:{OPUS} opus/48000/2\r\n"
    );
    let video = format!(
        "a=rtpmap:{VP8} VP8/90000\r\na=rtcp-fb:{VP8} nack\r\na=rtcp-fb:{VP8} nack pli\r\n\
         a=rtpmap:{VP8_RTX} rtx/90000\r\na=fmtp:{VP8_RTX} apt={VP8}\r\n"
    );
    format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE 0 1\r\n{}{}",
        section(0, &format!("audio 9 UDP/TLS/RTP/SAVPF {RED} {OPUS}"), &audio),
        section(1, &format!("video 9 UDP/TLS/RTP/SAVPF {VP8} {VP8_RTX}"), &video),
    )
}

#[allow(clippy::disallowed_methods)] // a tool on a real network
fn take(transport: &mut Transport, socket: &UdpSocket) -> Repair {
    let local = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut repair = Repair::default();
    let (mut media, mut missed, mut resent) = (0, 0, HashSet::new());
    let mut out = Vec::new();
    let mut buf = [0; 2_000];
    while repair.red.len() < KEPT || media < WARM_UP + KEPT || resent.len() < missed {
        let now = Instant::now();
        transport.handle_timeout(now);
        while let Some(path) = transport.poll_transmit(&mut out) {
            let _ = socket.send_to(&out, path.remote);
        }
        let Ok((len, remote)) = socket.recv_from(&mut buf) else { continue };
        let path = FiveTuple { protocol: Protocol::Udp, local, remote };
        let packet = &mut buf[..len];
        match packet[..2] {
            [0..=3, _] => drop(transport.handle_stun(now, path, packet)),
            [20..=63, _] => drop(transport.handle_dtls(now, path, packet)),
            [128..=191, 192..=223] => {}
            [128..=191, second] => {
                let Ok(len) = transport.unprotect_rtp(packet) else { continue };
                let packet = packet[..len].to_vec();
                match second & 0x7f {
                    RED if repair.red.len() < KEPT => repair.red.push(packet),
                    VP8 => {
                        media += 1;
                        let kept = media > WARM_UP && media <= WARM_UP + KEPT;
                        if kept && media % MISSED_EACH == 0 {
                            missed += 1;
                            miss(transport, socket, remote, &packet);
                        }
                        if kept {
                            repair.video.push(packet);
                        }
                    }
                    // Probes for bandwidth are sent under this number too, of other packets or of none.
                    VP8_RTX if missed > 0 => {
                        let header = 12 + extension_len(&packet);
                        if packet[0] & 0x20 == 0 && packet.len() > header + 2 {
                            resent.insert(packet[header..header + 2].to_vec());
                            repair.video.push(packet);
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    repair
}

fn extension_len(packet: &[u8]) -> usize {
    if packet[0] & 0x10 == 0 {
        return 0;
    }
    4 + 4 * usize::from(u16::from_be_bytes([packet[14], packet[15]]))
}

/// Asks for a packet that came.
fn miss(transport: &mut Transport, socket: &UdpSocket, remote: SocketAddr, packet: &[u8]) {
    let sender = Ssrc(1).0.to_be_bytes();
    let mut rtcp = vec![0x81, 205, 0, 3];
    rtcp.extend(sender);
    rtcp.extend(&packet[8..12]);
    rtcp.extend(&packet[2..4]);
    rtcp.extend([0, 0]);
    let egress = transport.srtp_egress().unwrap();
    rtcp.resize(rtcp.len() + egress.profile().rtcp_overhead(), 0);
    egress.seal_rtcp(&mut rtcp).unwrap();
    let _ = socket.send_to(&rtcp, remote);
}

const PAGE: &str = "<script>(async () => {
  const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360, frameRate: 10 } });
  const pc = new RTCPeerConnection();
  const send = (track, first) => {
    const transceiver = pc.addTransceiver(track, { direction: 'sendonly' });
    const all = RTCRtpSender.getCapabilities(track.kind).codecs;
    const is = (codec) => first.includes(codec.mimeType.toLowerCase());
    transceiver.setCodecPreferences(all.filter(is).sort((a, b) =>
      first.indexOf(a.mimeType.toLowerCase()) - first.indexOf(b.mimeType.toLowerCase())));
  };
  send(media.getAudioTracks()[0], ['audio/red', 'audio/opus']);
  send(media.getVideoTracks()[0], ['video/vp8', 'video/rtx']);
  await pc.setLocalDescription();
  while (pc.iceGatheringState !== 'complete') await new Promise((done) => setTimeout(done, 50));
  const answer = await fetch('/', { method: 'POST', body: pc.localDescription.sdp });
  await pc.setRemoteDescription({ type: 'answer', sdp: await answer.text() });
})()</script>";
