//! Lips stay in sync with voices while the layers of a picture change: by the sender reports that a subscriber gets, what
//! was captured in one moment has one wall clock, whichever encoding it came by.

use std::time::Duration;

use chappe_sfu::rtp::MediaKind;

use super::{
    client::Received,
    media::Source,
    world::{SECOND, World},
};

/// Each has timestamps of its own (`Client::publish`).
const SIMULCAST: [Source; 3] =
    [Source::Video { packets: 1 }, Source::Video { packets: 2 }, Source::Video { packets: 3 }];

/// Seconds of the wall clock at which a packet was captured, as its receiver reckons it.
fn wall(packet: &Received, rate: f64) -> Option<f64> {
    let (ntp, rtp) = packet.report?;
    let ahead = f64::from(packet.time.wrapping_sub(rtp as u32) as i32) / rate;
    Some(ntp.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() + ahead)
}

/// Seconds after the first frame at which a packet was captured in truth: encodings of a publisher begin together, with
/// different numbers of frames.
fn captured(packet: &Received, source: Source) -> f64 {
    let first = match packet.tag().stream {
        0 | 1 => 1_000,
        stream => 1_000 * u32::from(stream),
    };
    f64::from(packet.tag().frame - first) * source.interval().as_secs_f64()
}

#[test]
fn every_packet_has_its_moment_across_switches_of_layers() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let a = world.client("room", 0);
        let b = world.client("room", usize::from(shards) - 1);
        world.clients[a].publish("voice", &[Source::Audio]);
        world.clients[a].publish("camera", &SIMULCAST);
        let audio = world.clients[b].subscribe("voice", MediaKind::Audio);
        let video = world.clients[b].subscribe("camera", MediaKind::Video);
        world.connect_all();
        world.run_for(6 * SECOND);
        for layer in [0, 2, 1, 0, 1, 2, 0] {
            world.clients[b].spec.subscriptions[1].max_spatial = Some(layer);
            world.apply(b);
            // Long enough for reports, each second or so, to come before and after.
            world.run_for(3 * SECOND);
            let last = world.clients[b].packets(video).last().unwrap();
            assert_eq!(last.tag().stream, layer + 1, "the layer asked for");
        }
        // A pause, and another layer behind it.
        world.clients[b].spec.subscriptions[1].paused = true;
        world.apply(b);
        world.run_for(2 * SECOND);
        world.clients[b].spec.subscriptions[1].paused = false;
        world.clients[b].spec.subscriptions[1].max_spatial = Some(2);
        world.apply(b);
        world.run_for(4 * SECOND);

        let offsets = |ssrc, rate: f64, source: Source| -> Vec<f64> {
            let packets = world.clients[b].packets(ssrc);
            packets.filter_map(|p| Some(wall(p, rate)? - captured(p, source))).collect()
        };
        let heard = offsets(audio, 48_000.0, Source::Audio);
        let seen = offsets(video, 90_000.0, SIMULCAST[0]);
        assert!(heard.len() > 1_000 && seen.len() > 1_000, "{} {}", heard.len(), seen.len());
        let bounds = |all: &[f64]| {
            let least = all.iter().copied().fold(f64::MAX, f64::min);
            let most = all.iter().copied().fold(f64::MIN, f64::max);
            (least, most)
        };
        let ((a0, a1), (v0, v1)) = (bounds(&heard), bounds(&seen));
        // str0m's own reports are as exact as a frame: what is between two of them is not known better.
        let apart = (v1 - a0).max(a1 - v0);
        assert!(
            apart < Duration::from_millis(60).as_secs_f64(),
            "{shards} shards: {:.1} ms apart; voice within {:.1} ms, picture within {:.1} ms",
            apart * 1_000.0,
            (a1 - a0) * 1_000.0,
            (v1 - v0) * 1_000.0,
        );
    }
}
