//! Records what Chromium sends in a scalability mode: a page served from here publishes its fake camera to a str0m peer.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    change::SdpOffer,
    media::KeyframeRequestKind,
    net::{Protocol, Receive},
    rtp::{Extension, ExtensionSerializer, ExtensionValues},
};

use crate::recorded::Recorded;

const DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
/// The sender's bandwidth estimate has to grow before all layers are sent.
const WARM_UP: Duration = Duration::from_secs(6);
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(800);

#[derive(Debug)]
struct Raw(Vec<u8>);

/// Keeps a dependency descriptor as it came.
#[derive(Debug)]
struct Verbatim;

impl ExtensionSerializer for Verbatim {
    fn write_to(&self, _: &mut [u8], _: &ExtensionValues) -> usize {
        0
    }

    fn parse_value(&self, bytes: &[u8], values: &mut ExtensionValues) -> bool {
        values.user_values.set(Raw(bytes.to_vec()));
        true
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }
}

pub(crate) struct Browser(pub(crate) Child);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `codec` as in `video/…`. From a keyframe on, for `length`.
#[allow(clippy::disallowed_methods)] // a tool on a real network
pub(crate) fn record(codec: &str, mode: &str, bitrate: u32, length: Duration) -> Vec<Recorded> {
    let pages = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", pages.local_addr().unwrap());
    let profile = std::env::temp_dir().join(format!("chappe-capture-{}", std::process::id()));
    let _browser = Browser(
        Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("{origin}/?codec={codec}&mode={mode}&bitrate={bitrate}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut rtc = RtcConfig::new()
        .set_rtp_mode(true)
        .set_extension(9, Extension::with_serializer(DESCRIPTOR, Verbatim))
        .build(Instant::now());
    let candidate = Candidate::host(socket.local_addr().unwrap(), "udp").unwrap();
    rtc.add_local_candidate(candidate);
    loop {
        let (mut stream, _) = pages.accept().unwrap();
        let (request, body) = read_request(&mut stream);
        if request.starts_with("POST") {
            let offer = SdpOffer::from_sdp_string(&body).unwrap();
            let answer = rtc.sdp_api().accept_offer(offer).unwrap();
            respond(&mut stream, "application/sdp", &answer.to_sdp_string());
            break;
        }
        respond(&mut stream, "text/html", PAGE);
    }
    take(&mut rtc, &socket, length)
}

#[allow(clippy::disallowed_methods)] // a tool on a real network
fn take(rtc: &mut Rtc, socket: &UdpSocket, length: Duration) -> Vec<Recorded> {
    let (mut recorded, mut ssrc) = (Vec::new(), None);
    let mut first_at: Option<Instant> = None;
    let mut asked_at = Instant::now();
    let mut buf = [0; 2_000];
    loop {
        let now = Instant::now();
        if first_at.is_some_and(|at| now - at > WARM_UP + length) {
            return recorded;
        }
        if let Some(ssrc) = ssrc
            && now - asked_at > KEYFRAME_INTERVAL
        {
            asked_at = now;
            let mut api = rtc.direct_api();
            api.stream_rx(&ssrc).unwrap().request_keyframe(KeyframeRequestKind::Pli);
        }
        let timeout = match rtc.poll_output().unwrap() {
            Output::Timeout(at) => at,
            Output::Transmit(out) => {
                let _ = socket.send_to(&out.contents, out.destination);
                continue;
            }
            Output::Event(Event::RtpPacket(packet)) => {
                ssrc = Some(packet.header.ssrc);
                let first_at = *first_at.get_or_insert(now);
                let descriptor =
                    packet.header.ext_vals.user_values.get::<Raw>().map(|raw| raw.0.clone());
                let starts = descriptor
                    .as_ref()
                    .is_some_and(|it| it.get(3).is_some_and(|flags| flags & 0x80 != 0));
                if now - first_at > WARM_UP && (starts || !recorded.is_empty()) {
                    recorded.push(Recorded {
                        seq: *packet.seq_no,
                        time: packet.header.timestamp,
                        marker: packet.header.marker,
                        descriptor: descriptor.unwrap_or_default(),
                        payload: packet.payload.to_vec(),
                    });
                }
                continue;
            }
            Output::Event(_) => continue,
        };
        let wait = timeout.saturating_duration_since(Instant::now()).min(Duration::from_millis(50));
        socket.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).unwrap();
        let input = match socket.recv_from(&mut buf) {
            Ok((len, source)) => Input::Receive(
                Instant::now(),
                Receive {
                    proto: Protocol::Udp,
                    source,
                    destination: socket.local_addr().unwrap(),
                    contents: buf[..len].try_into().unwrap(),
                },
            ),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Input::Timeout(Instant::now())
            }
            Err(error) => panic!("{error}"),
        };
        rtc.handle_input(input).unwrap();
    }
}

pub(crate) fn read_request(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        let len = stream.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..len]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.trim().parse().unwrap());
            if body.len() >= length || len == 0 {
                return (head.to_owned(), body.to_owned());
            }
        } else if len == 0 {
            return (text, String::new());
        }
    }
}

pub(crate) fn respond(stream: &mut TcpStream, kind: &str, body: &str) {
    let len = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
}

const PAGE: &str = "<script>(async () => {
  const wish = Object.fromEntries(new URLSearchParams(location.search));
  const media = await navigator.mediaDevices.getUserMedia({ video: { width: 1280, height: 720, frameRate: 10 } });
  const pc = new RTCPeerConnection();
  const transceiver = pc.addTransceiver(media.getVideoTracks()[0], {
    direction: 'sendonly', sendEncodings: [{ scalabilityMode: wish.mode, maxBitrate: +wish.bitrate }],
  });
  transceiver.setCodecPreferences(RTCRtpSender.getCapabilities('video').codecs.filter((codec) =>
    codec.mimeType.toLowerCase() === 'video/' + wish.codec && !/profile-id=[1-9]|profile=[1-9]/.test(codec.sdpFmtpLine)));
  await pc.setLocalDescription();
  while (pc.iceGatheringState !== 'complete') await new Promise((done) => setTimeout(done, 50));
  const answer = await fetch('/', { method: 'POST', body: pc.localDescription.sdp });
  await pc.setRemoteDescription({ type: 'answer', sdp: await answer.text() });
})()</script>";
