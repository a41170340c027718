//! Paths, restart and consent, with checks written by another implementation.

use is::{
    DefaultSha1HmacProvider, Sha1HmacProvider,
    stun::{StunMessage, TransId},
};

use super::*;
use crate::transport::Protocol;

fn credentials(generation: u8) -> IceCredentials {
    IceCredentials {
        ufrag: format!("local{generation}"),
        pwd: format!("password-of-generation-{generation}"),
    }
}

fn remote(generation: u8) -> IceCredentials {
    IceCredentials { ufrag: format!("remote{generation}"), pwd: "unused".to_owned() }
}

fn tuple(port: u16) -> FiveTuple {
    FiveTuple {
        protocol: Protocol::Udp,
        local: "192.0.2.1:7882".parse().unwrap(),
        remote: format!("198.51.100.1:{port}").parse().unwrap(),
    }
}

fn check(generation: u8, prio: u32, nominates: bool, controlling: bool) -> Vec<u8> {
    let username = format!("local{generation}:remote{generation}");
    let message =
        StunMessage::binding_request(&username, TransId::new(), controlling, 1, prio, nominates);
    let pwd = credentials(generation).pwd;
    let mut bytes = vec![0; 400];
    let len = message
        .to_bytes(Some(pwd.as_bytes()), &mut bytes, |key, parts| {
            DefaultSha1HmacProvider.sha1_hmac(key, parts)
        })
        .unwrap();
    bytes.truncate(len);
    bytes
}

struct World {
    ice: IceLite,
    now: Instant,
    events: Vec<IceEvent>,
}

impl World {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods, reason = "a virtual clock has to start somewhere")]
        let now = Instant::now();
        Self { ice: IceLite::new(&credentials(1), now), now, events: Vec::new() }
    }

    fn receive(&mut self, port: u16, message: &[u8]) -> Result<Vec<u8>, DropReason> {
        self.ice
            .handle(self.now, tuple(port), message, &mut self.events)
            .map(|answer| answer.to_vec())
    }

    fn check(&mut self, port: u16, nominates: bool) -> Result<Vec<u8>, DropReason> {
        self.receive(port, &check(1, 100, nominates, true))
    }

    fn restart(&mut self, generation: u8) {
        self.ice.restart(&credentials(generation), &mut self.events);
    }

    fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        self.ice.handle_timeout(self.now, &mut self.events)
    }

    fn take_events(&mut self) -> Vec<IceEvent> {
        std::mem::take(&mut self.events)
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_check_is_answered_and_opens_a_path() {
    let mut world = World::new();
    let answer = world.check(1, false).unwrap();
    let answer = StunMessage::parse(&answer).unwrap();
    assert!(answer.is_successful_binding_response());
    assert_eq!(answer.mapped_address(), Some(tuple(1).remote));
    assert_eq!(world.take_events(), [IceEvent::Added(tuple(1)), IceEvent::Selected(tuple(1))]);
    assert!(world.ice.accepts(&tuple(1)));
    assert!(!world.ice.accepts(&tuple(2)));
    assert_eq!(world.ice.egress_path(), Some(tuple(1)));
}

#[test]
fn what_is_not_for_us_changes_nothing() {
    let mut world = World::new();
    world.ice.set_remote(&remote(1));
    let mut wrong = check(1, 100, true, true);
    wrong[30] ^= 1;
    let mut forged = check(1, 100, true, true);
    let at = forged.len() - 10;
    forged[at] ^= 1;
    let response = stun::binding_success([1; 12], tuple(1).remote, &stun::integrity_key("x"));
    let stranger = {
        // Our password, but not the signalled peer's ufrag.
        let message =
            StunMessage::binding_request("local1:other", TransId::new(), true, 1, 1, true);
        let mut bytes = vec![0; 400];
        let len = message
            .to_bytes(Some(credentials(1).pwd.as_bytes()), &mut bytes, |key, parts| {
                DefaultSha1HmacProvider.sha1_hmac(key, parts)
            })
            .unwrap();
        bytes.truncate(len);
        bytes
    };
    for (message, reason) in [
        (&b"\0\x01\0\0"[..], DropReason::StunMalformed),
        (&response, DropReason::StunUnexpected),
        (&check(2, 100, true, true), DropReason::StunUsername),
        (&stranger, DropReason::StunUsername),
        (&forged, DropReason::StunIntegrity),
    ] {
        assert_eq!(world.receive(1, message), Err(reason));
    }
    assert!(world.receive(1, &wrong).is_err());
    assert_eq!(world.take_events(), []);
    assert_eq!(world.ice.egress_path(), None);
}

#[test]
fn the_latest_nomination_wins_whatever_its_priority() {
    let mut world = World::new();
    world.receive(1, &check(1, u32::MAX, true, true)).unwrap();
    world.receive(2, &check(1, 5, false, true)).unwrap();
    assert_eq!(world.ice.egress_path(), Some(tuple(1)), "checked, not nominated");
    world.receive(2, &check(1, 5, true, true)).unwrap();
    assert_eq!(world.ice.egress_path(), Some(tuple(2)), "moved within one check");
    world.receive(1, &check(1, u32::MAX, true, true)).unwrap();
    assert_eq!(world.ice.egress_path(), Some(tuple(1)), "and back");
}

#[test]
fn a_ninth_five_tuple_waits_for_a_silent_one() {
    let mut world = World::new();
    for port in 0..8 {
        world.check(port, port == 0).unwrap();
        world.now += Duration::from_millis(100);
    }
    assert_eq!(world.check(8, false), Err(DropReason::TooManyTuples));
    assert!(!world.ice.accepts(&tuple(8)));
    world.take_events();
    // A nomination finds room at once, at the cost of the one silent for longest that is not selected.
    world.check(9, true).unwrap();
    let events = world.take_events();
    assert_eq!(events[0], IceEvent::Removed(tuple(1)));
    assert_eq!(world.ice.egress_path(), Some(tuple(9)));
    // Without a nomination it takes silence.
    assert!(world.pass(REPLACEABLE_AFTER));
    world.check(10, false).unwrap();
    assert!(world.ice.accepts(&tuple(10)) && !world.ice.accepts(&tuple(0)));
    assert_eq!(world.ice.egress_path(), Some(tuple(9)));
}

#[test]
fn a_restart_answers_the_old_credentials_until_the_new_ones_have_a_path() {
    let mut world = World::new();
    world.ice.set_remote(&remote(1));
    world.check(1, true).unwrap();
    world.take_events();

    world.restart(2);
    assert!(world.ice.answers_to("local1") && world.ice.answers_to("local2"));
    // The description of before, stated once more.
    world.ice.set_remote(&remote(1));
    assert!(world.check(1, true).is_ok(), "old credentials");
    assert!(world.receive(2, &check(2, 1, false, true)).is_ok(), "new ones, not yet nominated");
    assert!(world.check(1, false).is_ok());
    assert_eq!(world.ice.egress_path(), Some(tuple(1)), "media stays where it is");

    world.ice.set_remote(&remote(2));
    world.receive(2, &check(2, 1, true, true)).unwrap();
    assert_eq!(world.ice.egress_path(), Some(tuple(2)));
    assert!(world.take_events().contains(&IceEvent::Retired("local1".to_owned())));
    assert_eq!(world.check(1, true), Err(DropReason::StunUsername));
    assert!(!world.ice.answers_to("local1"));
}

#[test]
fn a_second_restart_keeps_the_credentials_that_carry_the_path() {
    let mut world = World::new();
    world.check(1, true).unwrap();
    world.take_events();
    world.restart(2);
    assert_eq!(world.take_events(), []);
    world.restart(3);
    let retired = [IceEvent::Retired("local2".to_owned())];
    assert_eq!(world.take_events(), retired, "or its name stays in the index for good");
    assert!(world.check(1, true).is_ok());
    assert!(world.receive(2, &check(2, 1, true, true)).is_err());
    assert!(world.receive(3, &check(3, 1, true, true)).is_ok());
    assert_eq!(world.ice.egress_path(), Some(tuple(3)));
}

#[test]
fn fifteen_seconds_of_silence_lose_the_peer() {
    let mut world = World::new();
    assert!(world.pass(29 * SECOND), "still waiting for the first check");
    world.check(1, true).unwrap();
    assert!(world.pass(14 * SECOND));
    assert!(world.check(1, false).is_ok());
    assert_eq!(world.ice.poll_timeout(), world.now + CONSENT_EXPIRY);
    assert!(world.pass(14 * SECOND));
    assert!(world.check(1, false).is_ok());
    assert!(!world.pass(15 * SECOND));

    let mut world = World::new();
    assert!(!world.pass(30 * SECOND), "no check ever");
}

#[test]
fn invalid_checks_are_no_consent() {
    let mut world = World::new();
    world.check(1, true).unwrap();
    world.now += 10 * SECOND;
    assert!(world.receive(1, &check(2, 1, true, true)).is_err());
    assert!(!world.pass(5 * SECOND));
}

#[test]
fn silent_five_tuples_are_forgotten_and_a_silent_selection_is_left() {
    let mut world = World::new();
    world.check(1, true).unwrap();
    for _ in 0..4 {
        world.check(2, false).unwrap();
        assert!(world.pass(5 * SECOND));
    }
    assert_eq!(world.ice.egress_path(), Some(tuple(2)), "the only one with consent");
    for _ in 0..3 {
        world.check(2, false).unwrap();
        assert!(world.pass(5 * SECOND));
    }
    assert!(!world.ice.accepts(&tuple(1)));
    assert!(world.take_events().contains(&IceEvent::Removed(tuple(1))));
    assert_eq!(world.ice.egress_path(), Some(tuple(2)));
}

#[test]
fn a_controlled_peer_is_told_to_take_control() {
    let mut world = World::new();
    let answer = world.receive(1, &check(1, 1, true, false)).unwrap();
    assert_eq!(StunMessage::parse(&answer).unwrap().error_code(), Some((487, "Role Conflict")));
    assert_eq!(world.ice.egress_path(), None);
}

#[test]
fn force_tcp_refuses_udp() {
    let mut world = World::new();
    world.ice.set_only_tcp(true);
    assert_eq!(world.check(1, true), Err(DropReason::Protocol));
    let tcp = FiveTuple { protocol: Protocol::Tcp, ..tuple(1) };
    let message = check(1, 1, true, true);
    assert!(world.ice.handle(world.now, tcp, &message, &mut world.events).is_ok());
}
