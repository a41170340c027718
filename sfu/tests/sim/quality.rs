//! What a subscriber sees on a narrow or changing link.

use std::time::{Duration, Instant};

use chappe_sfu::{
    rtp::{Bitrate, ExtensionMap, MediaKind},
    shard::Event,
};

use super::{
    client::Received,
    media::Source,
    world::{SECOND, World},
};

/// About 210, 420 and 840 kb/s on the wire.
const SIMULCAST: [Source; 3] =
    [Source::Video { packets: 1 }, Source::Video { packets: 2 }, Source::Video { packets: 4 }];

struct Room {
    world: World,
    audio: u32,
    video: u32,
}

/// A publisher (0) and a subscriber (1), whose link takes `rate` bits per second.
fn room(shards: u16, layers: &[Source], rate: u64) -> Room {
    let mut world = World::new(shards);
    let publisher = world.client("room", 0);
    let subscriber = world.client("room", usize::from(shards) - 1);
    world.clients[publisher].publish("voice", &[Source::Audio]);
    world.clients[publisher].publish("camera", layers);
    let audio = world.clients[subscriber].subscribe("voice", MediaKind::Audio);
    let video = world.clients[subscriber].subscribe("camera", MediaKind::Video);
    world.down[subscriber].rate = Some(rate);
    world.connect_all();
    Room { world, audio, video }
}

impl Room {
    fn set_rate(&mut self, rate: u64) {
        self.world.down[1].rate = Some(rate);
        self.world.down[1].longest_wait = Duration::ZERO;
        self.world.down[1].overflowed = 0;
    }

    fn video(&self) -> impl Iterator<Item = &Received> {
        self.world.clients[1].packets(self.video)
    }

    /// The layer that arrives now.
    fn layer(&self) -> Option<u8> {
        let last = self.video().last().filter(|packet| self.world.now - packet.at < SECOND / 2);
        // The publisher's first stream is its voice.
        last.map(|packet| packet.tag().stream - 1)
    }

    /// The longest time without a new frame since `since`.
    fn longest_freeze(&self, since: Instant) -> Duration {
        let ends = self.video().filter(|packet| packet.at >= since && packet.marker);
        let times: Vec<_> = ends.map(|packet| packet.at).chain([self.world.now]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
    }

    /// Share of the voice since `since` that never came.
    fn voice_lost(&self, since: Instant) -> f64 {
        let heard: Vec<_> = self.world.clients[1]
            .packets(self.audio)
            .filter(|packet| packet.at >= since)
            .map(|packet| packet.tag().frame)
            .collect();
        let (first, last) = (heard.iter().min().unwrap(), heard.iter().max().unwrap());
        1.0 - heard.len() as f64 / f64::from(last - first + 1)
    }
}

#[test]
fn the_layer_follows_the_link_down_and_up() {
    for shards in [1, 2] {
        let mut room = room(shards, &SIMULCAST, 3_000_000);
        room.world.run_until("the best layer", 5 * SECOND, |world| {
            let last = world.clients[1].packets(room.video).last();
            last.is_some_and(|packet| packet.tag().stream == 3)
        });
        let start = room.world.now;
        room.world.run_for(10 * SECOND);
        assert_eq!(room.layer(), Some(2), "{shards} shards");
        assert!(room.longest_freeze(start) < Duration::from_millis(200));
        assert_eq!(room.world.down[1].overflowed, 0);

        // 420 kb/s of video, 40 of audio, fit; 840 do not.
        room.set_rate(650_000);
        let fall = room.world.now;
        room.world.run_for(4 * SECOND);
        let frozen = room.longest_freeze(fall);
        assert!(frozen < SECOND, "frozen for {frozen:?} at the fall");
        room.set_rate(650_000);
        let steady = room.world.now;
        room.world.run_for(20 * SECOND);
        assert_eq!(room.layer(), Some(1), "{shards} shards");
        let frozen = room.longest_freeze(steady);
        assert!(frozen < Duration::from_millis(300), "frozen for {frozen:?} on a steady link");
        let lost = room.voice_lost(fall);
        assert!(lost < 0.005, "{:.2} % of the voice is lost", lost * 100.0);

        room.set_rate(3_000_000);
        let rise = room.world.now;
        room.world.run_until("the best layer again", 12 * SECOND, |world| {
            let last = world.clients[1].packets(room.video).last();
            last.is_some_and(|packet| packet.tag().stream == 3)
        });
        assert!(room.longest_freeze(rise) < Duration::from_millis(300));
    }
}

/// More than fits opens on what fits, though every layer's first keyframe comes at once.
#[test]
fn pictures_that_begin_together_do_not_stand() {
    let mut world = World::new(1);
    let subscriber = world.client("room", 0);
    world.down[subscriber].rate = Some(3_000_000);
    let cameras: Vec<_> = (0..9)
        .map(|index| {
            let publisher = world.client("room", 0);
            let track = format!("camera{index}");
            world.clients[publisher].publish(&track, &SIMULCAST);
            world.clients[subscriber].subscribe(&track, MediaKind::Video)
        })
        .collect();
    let begin = world.now + 3 * SECOND;
    for (client, n) in world.clients.iter_mut().zip(0..) {
        client.begin_at(begin + Duration::from_millis(10) * n);
    }
    world.connect_all();
    world.run_for(begin - world.now + 4 * SECOND);
    for (camera, n) in cameras.into_iter().zip(0..) {
        let ends = world.clients[subscriber].packets(camera).filter(|packet| packet.marker);
        let times: Vec<_> = ends.map(|packet| packet.at).collect();
        let first = *times.first().expect("a picture");
        let began = first - begin;
        let stood = times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("pictures");
        assert!(began < Duration::from_millis(250), "camera {n} is there after {began:?}");
        assert!(stood < Duration::from_millis(150), "camera {n} stood for {stood:?}");
    }
    assert_eq!(world.down[subscriber].overflowed, 0);
}

/// A still screen goes on in the size that it had, though the usual price of that is more than the estimate.
#[test]
fn a_picture_that_rested_goes_on_in_its_layer() {
    let mut room = room(1, &SIMULCAST, 1_200_000);
    let best = room.video;
    room.world.run_until("the best layer", 10 * SECOND, |world| {
        world.clients[1].packets(best).last().is_some_and(|packet| packet.tag().stream == 3)
    });
    room.world.run_for(3 * SECOND);
    let rests_until = room.world.now + 3 * SECOND;
    room.world.clients[0].begin_at(rests_until);
    room.world.run_for(5 * SECOND);
    let since: Vec<_> = room.video().filter(|packet| packet.at >= rests_until).collect();
    assert!(since.len() > 50, "{} packets", since.len());
    let lower = since.iter().filter(|packet| packet.tag().stream != 3).count();
    assert_eq!(lower, 0, "of {} packets", since.len());
}

#[test]
fn a_picture_that_does_not_fit_is_paused_and_comes_back() {
    let mut room = room(1, &SIMULCAST[..1], 1_000_000);
    room.world.run_until("a picture", 5 * SECOND, |world| {
        world.clients[1].packets(room.video).next().is_some()
    });
    room.world.run_for(3 * SECOND);
    room.set_rate(130_000);
    let fall = room.world.now;
    let states = |world: &World| {
        let states = world.events.iter().filter_map(|event| match event {
            Event::StreamState { paused, .. } => Some(*paused),
            _ => None,
        });
        states.collect::<Vec<bool>>()
    };
    assert!(states(&room.world).is_empty());
    room.world.run_until("a pause", 2 * SECOND, |world| states(world) == [true]);
    room.world.run_for(3 * SECOND);
    assert_eq!(room.layer(), None, "nothing of a paused track");
    // The link falls to an eighth, and its queue of 300 ms is full before the first feedback says so.
    let lost = room.voice_lost(fall);
    assert!(lost < 0.12, "{:.2} % of the voice is lost", lost * 100.0);

    room.set_rate(1_000_000);
    room.world.run_until("a picture again", 15 * SECOND, |world| {
        states(world) == [true, false]
            && world.clients[1]
                .packets(room.video)
                .last()
                .is_some_and(|p| p.at > world.now - SECOND / 10)
    });
}

#[test]
fn a_paused_picture_comes_back_where_no_probe_can_be_filled() {
    let mut world = World::new(1);
    let (publisher, subscriber) = (world.client("room", 0), world.client("room", 0));
    world.clients[publisher].publish("camera", &SIMULCAST[..1]);
    let video = world.clients[subscriber].subscribe("camera", MediaKind::Video);
    // Nothing may be sent again to this subscriber.
    world.clients[subscriber].spec.subscriptions[0].rtx_ssrc = None;
    world.connect_all();
    world.run_for(3 * SECOND);
    world.down[subscriber].rate = Some(80_000);
    let paused = |event: &Event| matches!(event, Event::StreamState { paused: true, .. });
    world.run_until("a pause", 5 * SECOND, |world| world.events.iter().any(paused));
    world.run_for(2 * SECOND);
    world.down[subscriber].rate = Some(5_000_000);
    world.run_until("a picture again", 30 * SECOND, |world| {
        let last = world.clients[subscriber].packets(video).last();
        last.is_some_and(|packet| packet.at > world.now - SECOND / 10)
    });
    world.run_for(20 * SECOND);
    let since = world.now - 3 * SECOND;
    let lately = world.clients[subscriber].packets(video).filter(|p| p.at > since).count();
    assert!(lately > 60, "it stays: {lately} packets in 3 s");
}

#[test]
fn a_subscriber_that_ends_its_feedback_gets_everything() {
    let mut room = room(1, &SIMULCAST[..1], 1_000_000);
    room.world.run_for(3 * SECOND);
    room.set_rate(130_000);
    let states = |world: &World| {
        let states = world.events.iter().filter_map(|event| match event {
            Event::StreamState { paused, .. } => Some(*paused),
            _ => None,
        });
        states.collect::<Vec<bool>>()
    };
    room.world.run_until("a pause", 5 * SECOND, |world| states(world) == [true]);
    room.set_rate(1_000_000);
    room.world.clients[1].spec.send_extensions = ExtensionMap::default();
    room.world.apply(1);
    room.world.run_for(SECOND);
    assert_eq!(states(&room.world), [true, false]);
    assert!(room.layer().is_some());
}

#[test]
fn who_speaks_gets_the_better_picture() {
    const TALKING: i8 = -20;
    const QUIET: i8 = -90;
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let subscriber = world.client("room", usize::from(shards) - 1);
        let speakers = [world.client("room", 0), world.client("room", 0)];
        let mut pictures = Vec::new();
        for (index, speaker) in speakers.into_iter().enumerate() {
            let (voice, camera) = (format!("voice{index}"), format!("camera{index}"));
            world.clients[speaker].publish(&voice, &[Source::Audio]);
            world.clients[speaker].sender(&voice, 0).level = Some(QUIET);
            world.clients[speaker].publish(&camera, &SIMULCAST);
            world.clients[subscriber].subscribe(&voice, MediaKind::Audio);
            pictures.push(world.clients[subscriber].subscribe(&camera, MediaKind::Video));
        }
        // Of one 840 kb/s, of the other less, and two voices: not twice 840.
        world.down[subscriber].rate = Some(1_250_000);
        world.connect_all();
        let layers = |world: &World| -> Vec<_> {
            let last = |ssrc: &u32| world.clients[subscriber].packets(*ssrc).last();
            // A voice and three layers of each.
            pictures.iter().map(|ssrc| last(ssrc).map(|packet| packet.tag().stream - 1)).collect()
        };
        for index in [0, 1] {
            for (other, speaker) in speakers.into_iter().enumerate() {
                let level = if other == index { TALKING } else { QUIET };
                world.clients[speaker].sender(&format!("voice{other}"), 0).level = Some(level);
            }
            let better = |world: &World| {
                let layers = layers(world);
                layers[index] == Some(2) && layers[1 - index] < Some(2)
            };
            let what = format!("the best picture of speaker {index} on {shards} shards");
            world.run_until(&what, 30 * SECOND, better);
            world.run_for(5 * SECOND);
            assert!(better(&world), "it stays so: {:?}", layers(&world));
        }
    }
}

#[test]
fn the_control_planes_cap_is_kept() {
    let mut room = room(1, &SIMULCAST, 10_000_000);
    for (cap, layer) in [(None, 2), (Some(Bitrate::from_kbps(350)), 0), (None, 2)] {
        room.world.clients[1].spec.max_egress_bitrate = cap;
        room.world.apply(1);
        let (video, what) = (room.video, format!("layer {layer} with a cap of {cap:?}"));
        room.world.run_until(&what, 6 * SECOND, |world| {
            // The publisher's first stream is its voice.
            world.clients[1].packets(video).last().is_some_and(|p| p.tag().stream == layer + 1)
        });
        room.world.run_for(2 * SECOND);
        assert_eq!(room.layer(), Some(layer), "{what}");
    }
}

/// docs/bwe.md: 5 % of the media at most. It is 3.7 % here.
#[test]
fn probes_take_little_where_a_layer_more_does_not_fit() {
    let mut room = room(1, &SIMULCAST, 650_000);
    room.world.run_for(10 * SECOND);
    let counts = |world: &World| {
        (world.count(|counters| counters.media_out), world.count(|counters| counters.probe_padding))
    };
    let before = counts(&room.world);
    room.world.run_for(60 * SECOND);
    let after = counts(&room.world);
    let (media, padding) = (after.0 - before.0, after.1 - before.1);
    assert!(padding > 0, "it looks for more");
    // The voice's packets are smaller than repeats; padding is smaller, too.
    let pictures = media - 50 * 60;
    assert!(padding * 100 <= pictures * 5, "{padding} packets of padding, {pictures} of pictures");
}

#[test]
fn a_burst_of_loss_starts_no_storm() {
    let mut room = room(1, &SIMULCAST, 5_000_000);
    room.world.run_for(5 * SECOND);
    room.world.down[1].loss = 30;
    let (sent, resent) = (
        room.world.count(|counters| counters.media_out),
        room.world.count(|counters| counters.retransmitted),
    );
    let asked: u32 = room.world.clients[0].keyframe_requests;
    room.world.run_for(5 * SECOND);
    let sent = room.world.count(|counters| counters.media_out) - sent;
    let resent = room.world.count(|counters| counters.retransmitted) - resent;
    // At 30 % loss a packet is sent 1.43 times until it arrives.
    assert!(resent * 2 < sent, "{resent} resends for {sent} packets");
    let asked = room.world.clients[0].keyframe_requests - asked;
    assert!(asked <= 10, "{asked} keyframe requests in 5 s");
}
