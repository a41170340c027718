//! SCTP without DTLS around it: what a hostile peer can do.

use proptest::prelude::*;

use super::*;

fn world(client: bool) -> (Sctp, Instant) {
    #[allow(clippy::disallowed_methods, reason = "a virtual clock has to start somewhere")]
    let now = Instant::now();
    let params = SctpParams { remote_port: 5_000, remote_max_message_size: 0 };
    (Sctp::new(now, client, params), now)
}

/// Moves packets between both until neither has any; `repeat` delivers each packet that many times.
fn exchange(now: Instant, a: &mut Sctp, b: &mut Sctp, repeat: usize) {
    loop {
        a.drive(now);
        b.drive(now);
        let mut quiet = true;
        while let Some(packet) = a.poll_transmit(now) {
            quiet = false;
            (0..repeat).for_each(|_| b.handle(now, packet.clone()));
            b.drive(now);
        }
        while let Some(packet) = b.poll_transmit(now) {
            quiet = false;
            (0..repeat).for_each(|_| a.handle(now, packet.clone()));
            a.drive(now);
        }
        if quiet {
            return;
        }
    }
}

fn lossy() -> ChannelOptions {
    ChannelOptions { label: "_lossy".to_owned(), ordered: false, max_retransmits: Some(0) }
}

#[test]
fn both_may_greet_at_once() {
    let ((mut a, now), (mut b, _)) = (world(true), world(true));
    // Both INITs cross.
    a.drive(now);
    b.drive(now);
    exchange(now, &mut a, &mut b, 1);
    let mut at = now;
    for _ in 0..100 {
        at += Duration::from_millis(50);
        a.handle_timeout(at);
        b.handle_timeout(at);
        exchange(at, &mut a, &mut b, 1);
    }
    assert_eq!((a.phase, b.phase), (Phase::Established, Phase::Established));
}

#[test]
fn repeated_packets_do_not_end_the_association() {
    let ((mut a, now), (mut b, later)) = (world(true), world(false));
    a.drive(now);
    let init = a.poll_transmit(now).unwrap();
    b.handle(now, init.clone());
    exchange(later, &mut a, &mut b, 3);
    assert_eq!((a.phase, b.phase), (Phase::Established, Phase::Established));
    b.handle(later, init);
    exchange(later, &mut a, &mut b, 1);
    a.open(lossy()).unwrap();
    exchange(now, &mut a, &mut b, 3);
    assert!(matches!(b.poll_event(), Some(SctpEvent::Open { by_peer: true, ordered: false, .. })));
    assert!(matches!(a.poll_event(), Some(SctpEvent::Open { by_peer: false, .. })));
}

#[test]
fn a_stream_of_greetings_makes_one_association() {
    let (mut victim, now) = world(false);
    for _ in 0..50 {
        let (mut greeter, at) = world(true);
        greeter.drive(at);
        let init = greeter.poll_transmit(at).unwrap();
        victim.handle(now, init);
        victim.drive(now);
    }
    let answers = std::iter::from_fn(|| victim.poll_transmit(now)).count();
    assert_eq!(answers, 1);
    // Not observable otherwise: the library would keep the others for ever.
    assert_eq!(format!("{:#?}", victim.endpoint).matches("initial_remote").count(), 1);
}

#[test]
fn a_lossy_message_is_given_up() {
    let ((mut a, now), (mut b, _)) = (world(true), world(false));
    let channel = a.open(lossy()).unwrap();
    exchange(now, &mut a, &mut b, 1);
    a.send(channel, true, b"lost").unwrap();
    while a.poll_transmit(now).is_some() {}
    let mut at = now;
    for _ in 0..40 {
        at += Duration::from_millis(50);
        a.handle_timeout(at);
        b.handle_timeout(at);
        exchange(at, &mut a, &mut b, 1);
    }
    assert_eq!(a.buffered(channel), 0);
    a.send(channel, true, b"next").unwrap();
    exchange(at, &mut a, &mut b, 1);
    let messages: Vec<_> = std::iter::from_fn(|| b.poll_event())
        .filter_map(|event| match event {
            SctpEvent::Message { bytes, .. } => Some(bytes),
            _ => None,
        })
        .collect();
    assert_eq!(messages, [Bytes::from_static(b"next")]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_bytes_panic(
        established: bool,
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..20),
        flips in prop::collection::vec((any::<usize>(), 1u8..), 0..20),
    ) {
        let ((mut a, now), (mut b, _)) = (world(true), world(false));
        if established {
            exchange(now, &mut a, &mut b, 1);
            a.open(lossy()).unwrap();
        }
        a.drive(now);
        for (at, with) in flips {
            if let Some(packet) = a.poll_transmit(now) {
                // The checksum would stop most of it: SCTP over DTLS is authenticated, so a peer can have it right.
                let mut bytes = packet.to_vec();
                let at = 12 + at % (bytes.len() - 12);
                bytes[at] ^= with;
                fix_checksum(&mut bytes);
                b.handle(now, Bytes::from(bytes));
                b.drive(now);
            }
            while b.poll_transmit(now).is_some() {}
            while b.poll_event().is_some() {}
        }
        for mut packet in packets {
            if packet.len() >= 12 {
                fix_checksum(&mut packet);
            }
            b.handle(now, Bytes::from(packet));
            b.drive(now);
            while b.poll_transmit(now).is_some() {}
            while b.poll_event().is_some() {}
        }
        b.handle_timeout(now + Duration::from_secs(10));
        b.drive(now + Duration::from_secs(10));
    }
}

/// CRC32c (RFC 9260 appendix A).
fn fix_checksum(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let mut crc = u32::MAX;
    for &byte in &*packet {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    packet[8..12].copy_from_slice(&(!crc).to_le_bytes());
}
