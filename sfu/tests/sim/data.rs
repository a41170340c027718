//! Data packets: spliced, addressed, bounded.

use chappe_sfu::shard::{Command, DropReason, Event, Reply};

use super::world::{SECOND, World};

/// A user packet with this text, and perhaps destinations (fields of livekit.DataPacket).
pub(crate) fn packet(text: &str, destinations: &[&str]) -> Vec<u8> {
    let field = |bytes: &[u8]| {
        // Lengths as varints of two bytes.
        let len = [bytes.len() as u8 | 0x80, (bytes.len() >> 7) as u8];
        [&[0x12][..], &len, bytes].concat()
    };
    let mut packet = field(&field(text.as_bytes()));
    // A sender that claims to be somebody else.
    packet.extend_from_slice(&[0x22, 4, b'e', b'v', b'i', b'l']);
    for destination in destinations {
        packet.extend_from_slice(&[0x2a, destination.len() as u8]);
        packet.extend_from_slice(destination.as_bytes());
    }
    packet
}

pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// How many messages with this text a client has.
pub(crate) fn texts(world: &World, client: usize, text: &str) -> usize {
    world.clients[client].messages.iter().filter(|(_, bytes)| contains(bytes, text)).count()
}

fn room_of(count: usize, shards: u16) -> World {
    let mut world = World::new(shards);
    for number in 0..count {
        let client = world.client("room", number % usize::from(shards));
        world.clients[client].use_data();
    }
    world.connect_all();
    world.run_until("channels", 5 * SECOND, |world| {
        world.clients.iter().all(|client| client.channels.len() == 2)
    });
    world.run_for(SECOND);
    world
}

fn everybody_gets_what_is_for_them(shards: u16) {
    let mut world = room_of(3, shards);
    let ready = world.events.iter().filter(|event| matches!(event, Event::DataReady { .. }));
    assert_eq!(ready.count(), 3);
    world.send_data(0, "_reliable", &packet("to all", &[]));
    world.send_data(0, "_lossy", &packet("quick", &[]));
    world.send_data(1, "_reliable", &packet("to one", &["PA_3"]));
    world.run_for(SECOND);

    let texts = |client: usize, text: &str| texts(&world, client, text);
    assert_eq!(
        [0, 1, 2].map(|client| texts(client, "to all")),
        [0, 1, 1],
        "never back to its sender"
    );
    assert_eq!([0, 1, 2].map(|client| texts(client, "quick")), [0, 1, 1]);
    assert_eq!([0, 1, 2].map(|client| texts(client, "to one")), [0, 0, 1]);
    let messages = &world.clients[2].messages;
    let (label, bytes) = messages.iter().find(|(_, bytes)| contains(bytes, "to all")).unwrap();
    assert_eq!(label, "_reliable");
    assert!(contains(bytes, "PA_1") && !contains(bytes, "evil"), "the stamp says who sent it");
}

#[test]
fn data_reaches_whom_it_is_for() {
    everybody_gets_what_is_for_them(1);
}

#[test]
fn data_crosses_shards() {
    everybody_gets_what_is_for_them(3);
}

#[test]
fn the_control_plane_can_send_data() {
    let mut world = room_of(2, 1);
    let room = world.clients[0].room.clone();
    let command = Command::SendData {
        room,
        packet: packet("hello", &[]).into(),
        reliable: true,
        destinations: vec!["PA_2".into()],
    };
    assert_eq!(world.command(0, command), Reply::Done);
    world.run_for(SECOND);
    assert!(world.clients[0].messages.is_empty());
    assert!(contains(&world.clients[1].messages[0].1, "hello"));
}

#[test]
fn noise_and_what_is_not_allowed_is_dropped_and_counted() {
    let mut world = room_of(2, 1);
    world.send_data(0, "_reliable", &[0xff; 20]);
    world.run_for(SECOND);
    assert_eq!(world.drops(DropReason::DataMalformed), 1);
    world.clients[0].spec.data.as_mut().unwrap().may_send = false;
    world.apply(0);
    world.send_data(0, "_reliable", &packet("no", &[]));
    world.run_for(SECOND);
    assert_eq!(world.drops(DropReason::DataForbidden), 1);
    assert!(world.clients[1].messages.is_empty());
}

#[test]
fn a_reader_that_stands_still_is_told_to_reconnect_alone() {
    let mut world = room_of(3, 1);
    world.clients[2].silent = true;
    let long = "x".repeat(100);
    for _ in 0..70 {
        world.send_data(0, "_reliable", &packet(&long, &[]));
        world.run_for(SECOND / 10);
    }
    assert_eq!(told(&world), ["PA_3"], "once, and nobody else");
    assert_eq!(world.clients[1].messages.len(), 70);
}

/// Who was told to reconnect, in order.
fn told(world: &World) -> Vec<String> {
    let told = world.events.iter().filter_map(|event| match event {
        Event::DataOverflow { peer, .. } => Some(peer.as_str().to_owned()),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_reader_a_mebibyte_behind_is_told_to_reconnect_alone_before_its_time_is_up() {
    let mut world = room_of(3, 1);
    world.clients[2].silent = true;
    let long = "x".repeat(15_000);
    let begun = world.now;
    let mut sent = 0;
    while told(&world).is_empty() {
        world.send_data(0, "_reliable", &packet(&long, &[]));
        sent += 1;
        world.run_for(SECOND / 40);
        assert!(world.now - begun < 4 * SECOND, "the limit of 5 s is not what is tested");
    }
    assert_eq!(told(&world), ["PA_3"]);
    // What the other reader has was given to both; a few are still on their way to it.
    let given = world.clients[1].messages.len();
    assert!((69..=72).contains(&given), "{given} of {sent} messages of 15 kB");
    world.run_for(SECOND);
    assert_eq!(world.clients[1].messages.len(), sent, "the other reader misses nothing");
    // It is told once; what comes after is dropped for it and counted.
    let dropped = world.drops(DropReason::DataOverflow);
    world.send_data(0, "_reliable", &packet("after", &[]));
    world.run_for(SECOND);
    assert_eq!(told(&world), ["PA_3"]);
    assert_eq!(world.drops(DropReason::DataOverflow), dropped + 1);
}

#[test]
fn lossy_data_that_would_be_late_is_dropped_and_counted_for_that_reader_alone() {
    let mut world = room_of(3, 1);
    // A tenth of what is sent.
    world.down[2].rate = Some(80_000);
    let long = "x".repeat(980);
    for number in 0..300 {
        world.send_data(0, "_lossy", &packet(&format!("{number:03} {long}"), &[]));
        world.run_for(SECOND / 100);
    }
    world.run_for(2 * SECOND);
    let (all, some) = (world.clients[1].messages.len(), world.clients[2].messages.len());
    assert_eq!(all, 300, "{:?}", world.all_drops());
    assert!((10..100).contains(&some), "{some}");
    let dropped = world.drops(DropReason::DataLossyQueue);
    assert!(dropped >= 150 && dropped <= 300 - some as u64, "{dropped} dropped, {some} arrived");
    assert!(told(&world).is_empty(), "lossy data is nobody's overflow");
    // The way is free again soon: no old messages wait.
    world.send_data(0, "_lossy", &packet("now", &[]));
    world.run_for(SECOND);
    assert_eq!(texts(&world, 2, "now"), 1);
}

#[test]
fn a_room_that_is_behind_drops_and_counts_and_tells_readers_of_what_is_reliable() {
    for reliable in [false, true] {
        let mut world = room_of(2, 1);
        let room = world.clients[0].room.clone();
        let command = Command::SendData {
            room,
            packet: packet(&"x".repeat(16_000), &[]).into(),
            reliable,
            destinations: Vec::new(),
        };
        // Faster than a shard hands out: no step between.
        let now = world.now;
        for _ in 1..80 {
            assert_eq!(world.shards[0].handle_command(now, command.clone()), Reply::Done);
        }
        world.command(0, command);
        let dropped = world.drops(DropReason::DataBacklog);
        // 64 of 16 kB and their overhead fill the mebibyte.
        assert!((14..=17).contains(&dropped), "{dropped}");
        world.run_for(SECOND);
        let expected: &[&str] = if reliable { &["PA_1", "PA_2"] } else { &[] };
        assert_eq!(told(&world), expected, "reliable: {reliable}");
    }
}

#[test]
fn readers_behind_a_full_relay_are_told_that_data_was_lost() {
    let mut world = room_of(4, 2);
    world.ring_capacity = 0;
    let long = "x".repeat(4_000);
    for _ in 0..300 {
        world.send_data(0, "_reliable", &packet(&long, &[]));
        world.run_for(SECOND / 50);
    }
    world.ring_capacity = 256;
    world.run_for(SECOND);
    assert_eq!(told(&world), ["PA_2", "PA_4"], "all readers of the other shard, nobody here");
    assert_eq!(world.clients[2].messages.len(), 300);
}
