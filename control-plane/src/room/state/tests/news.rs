//! What everybody is told together, and what goes before it.

use super::*;

/// What `sid` is told together of people, counts and connections, by identity, in order.
fn news(effects: &[Effect], sid: &ParticipantSid) -> Vec<String> {
    let events = told(effects, sid).into_iter();
    let news = events.filter_map(|event| match event {
        RoomEvent::News(news) => Some(news),
        _ => None,
    });
    let mut said = Vec::new();
    for message in news.flat_map(|news| news.encoded.clone()) {
        use proto::signal_response::Message;
        match proto::SignalResponse::decode(message).unwrap().message {
            Some(Message::Update(update)) => said.extend(update.participants.iter().map(|one| {
                format!("{} {}", one.identity, one.state().as_str_name().to_lowercase())
            })),
            Some(Message::RoomUpdate(update)) => {
                let room = update.room.unwrap();
                said.push(format!("{} here", room.num_participants));
            }
            Some(Message::ConnectionQuality(update)) => {
                said.push(format!("{} connections", update.updates.len()));
            }
            other => panic!("{other:?}"),
        }
    }
    said
}

#[test]
fn viewers_are_told_of_at_once_in_a_quiet_room_and_together_in_a_busy_one() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    assert_eq!(room.waiting.due(), None, "nobody was there to be told");
    let ben = join(&mut room, "ben");
    let effects = drain(&mut room);
    assert_eq!(news(&effects, &anna), ["ben joined", "2 here"], "at once");
    assert!(told(&effects, &ben).is_empty(), "its JoinResponse says it");
    // Whatever follows waits for the rest of the second.
    let carl = join(&mut room, "carl");
    room.peer_connected(&ben, PeerRole::Single);
    room.path_stats(&ben, PeerRole::Single, &node::PeerStats::default());
    let dora = join(&mut room, "dora");
    room.leave(&carl, proto::DisconnectReason::ClientInitiated, at(1));
    let effects = drain(&mut room);
    assert!(told(&effects, &anna).is_empty(), "not one by one");
    let own = told(&effects, &ben);
    assert_eq!(own.len(), 2, "of itself at once: {own:?}");
    assert_eq!(room.waiting.due(), Some(at(2).mono));
    room.handle_timeout(at(2));
    let effects = drain(&mut room);
    for sid in [&anna, &ben, &dora] {
        let mut said = news(&effects, sid);
        said[1..3].sort();
        let all = ["carl disconnected", "ben active", "dora joined", "3 here", "1 connections"];
        assert_eq!(said, all);
    }
    // Quiet again.
    room.leave(&dora, proto::DisconnectReason::ClientInitiated, at(9));
    assert!(room.poll_timeout().is_some_and(|due| due <= at(9).mono));
    room.handle_timeout(at(9));
    assert_eq!(news(&drain(&mut room), &anna), ["dora disconnected", "2 here"]);
}

#[test]
fn a_crowd_is_told_of_its_viewers_together() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    let viewers: Vec<_> =
        (0..150).map(|number| join(&mut room, &format!("viewer-{number}"))).collect();
    room.handle_timeout(at(2));
    drain(&mut room);
    for viewer in &viewers {
        room.peer_connected(viewer, PeerRole::Single);
        room.path_stats(viewer, PeerRole::Single, &node::PeerStats::default());
    }
    room.leave(&viewers[7], proto::DisconnectReason::ClientInitiated, at(2));
    assert!(news(&drain(&mut room), &anna).is_empty());
    room.handle_timeout(at(3));
    let said = news(&drain(&mut room), &anna);
    assert_eq!(said.len(), 151, "149 are active, one left, 150 are here; no connections");
    assert_eq!((&*said[0], &*said[150]), ("viewer-7 disconnected", "150 here"));
    // Publishers are told of at once.
    publish(&mut room, &anna, "cam");
    let effects = drain(&mut room);
    let seen = told(&effects, &viewers[0]);
    assert!(seen.iter().any(|event| matches!(event, RoomEvent::Participants(people)
        if people[0].sid == anna.to_string())));
}

#[test]
fn what_a_viewer_says_of_itself_is_told_at_once_but_in_a_crowd() {
    for (viewers, at_once) in [(5, true), (CROWD, false)] {
        let (mut room, viewers, x) = crowd_with_x(viewers);
        let update = ProfileUpdate { name: Some("Xenia".to_owned()), ..Default::default() };
        // Something else was told just now.
        room.handle_timeout(at(5));
        room.update_profile(&x, update, false).unwrap();
        let seen = |effects: &[Effect]| !told_of_x(effects, &viewers[0]).is_empty();
        assert_eq!(seen(&drain(&mut room)), at_once);
        room.handle_timeout(at(6));
        assert_eq!(seen(&drain(&mut room)), !at_once);
    }
}

#[test]
fn a_quality_is_told_whatever_its_participant_does_meanwhile() {
    let (mut room, viewers, x) = crowd_with_x(5);
    room.path_stats(&x, PeerRole::Single, &node::PeerStats::default());
    room.path_stats(&viewers[1], PeerRole::Single, &node::PeerStats::default());
    let mut hidden = room.participants[&x].permissions.clone();
    hidden.hidden = true;
    room.set_permissions(&x, hidden, at(5)).unwrap();
    drain(&mut room);
    room.handle_timeout(at(6));
    let effects = drain(&mut room);
    assert_eq!(news(&effects, &viewers[0]), ["5 here", "1 connections"]);
    let own = told(&effects, &x);
    assert!(own.iter().any(|event| matches!(event, RoomEvent::ConnectionQuality(update)
        if update.updates[0].participant_sid == *x.0)));
}

#[test]
fn a_room_is_quiet_for_who_comes_second_whatever_the_first_did() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    room.peer_connected(&anna, PeerRole::Single);
    room.handle_timeout(at(1));
    assert!(news(&drain(&mut room), &anna).is_empty(), "it was told itself");
    join(&mut room, "ben");
    assert_eq!(news(&drain(&mut room), &anna), ["ben joined", "2 here"]);
}

/// A room in which `crowd` viewers and "x" are, all told of; who listens, and x.
fn crowd_with_x(crowd: usize) -> (RoomState, Vec<ParticipantSid>, ParticipantSid) {
    let mut room = room();
    let viewers = (0..crowd).map(|number| join(&mut room, &format!("viewer-{number}"))).collect();
    let x = join(&mut room, "x");
    room.handle_timeout(at(5));
    drain(&mut room);
    (room, viewers, x)
}

/// What `sid` is told of the identity x, in order, whichever way.
fn told_of_x(effects: &[Effect], sid: &ParticipantSid) -> Vec<(String, bool)> {
    let events = told(effects, sid).into_iter();
    let people = events.flat_map(|event| match event {
        RoomEvent::Participants(people) => people,
        RoomEvent::News(news) => news.participants.clone(),
        _ => Vec::new(),
    });
    let gone = proto::participant_info::State::Disconnected;
    people
        .filter(|person| person.identity == "x")
        .map(|person| (person.sid.clone(), person.state() != gone))
        .collect()
}

#[test]
fn a_departure_that_waits_is_told_before_the_return_that_is_told_at_once() {
    let (mut room, viewers, first) = crowd_with_x(150);
    room.leave(&first, proto::DisconnectReason::ClientInitiated, at(5));
    let second = join(&mut room, "x");
    publish(&mut room, &second, "cam");
    let effects = drain(&mut room);
    let expected = vec![(first.to_string(), false), (second.to_string(), true)];
    assert_eq!(told_of_x(&effects, &viewers[0]), expected);
    assert!(told_of_x(&effects, &second).iter().all(|(sid, _)| *sid == second.to_string()));
    room.handle_timeout(at(9));
    assert!(told_of_x(&drain(&mut room), &viewers[0]).is_empty(), "nothing older follows");
}

#[test]
fn a_departure_that_waits_is_told_before_the_return_that_waits() {
    let (mut room, viewers, first) = crowd_with_x(5);
    for one in [&first, &viewers[1], &viewers[2]] {
        room.leave(one, proto::DisconnectReason::ClientInitiated, at(5));
    }
    let second = join(&mut room, "x");
    let effects = drain(&mut room);
    assert_eq!(told_of_x(&effects, &viewers[0]), [(first.to_string(), false)], "at once");
    assert!(told_of_x(&effects, &second).is_empty(), "not of its own identity");
    room.handle_timeout(at(9));
    assert_eq!(told_of_x(&drain(&mut room), &viewers[0]), [(second.to_string(), true)]);
}

#[test]
fn a_departure_that_waits_is_told_before_a_hidden_return() {
    let (mut room, viewers, first) = crowd_with_x(150);
    room.leave(&first, proto::DisconnectReason::ClientInitiated, at(5));
    let mut hidden = request("x");
    hidden.permissions.hidden = true;
    let second = room.join(hidden, at(5)).unwrap().sid;
    let effects = drain(&mut room);
    assert_eq!(told_of_x(&effects, &viewers[0]), [(first.to_string(), false)]);
    room.handle_timeout(at(9));
    let effects = drain(&mut room);
    assert!(told_of_x(&effects, &viewers[0]).is_empty());
    assert!(told_of_x(&effects, &second).is_empty(), "not of its own identity");
}

#[test]
fn a_viewer_of_a_crowd_who_publishes_shows_how_it_is_connected() {
    let qualities = |effects: &[Effect], sid: &ParticipantSid| {
        let events = told(effects, sid).into_iter();
        let updates = events.filter_map(|event| match event {
            RoomEvent::ConnectionQuality(update) => Some(update.updates),
            _ => None,
        });
        updates.flatten().map(|info| info.participant_sid).collect::<Vec<_>>()
    };
    let (mut room, viewers, x) = crowd_with_x(150);
    room.path_stats(&x, PeerRole::Single, &node::PeerStats::default());
    let effects = drain(&mut room);
    assert_eq!(qualities(&effects, &x), [x.to_string()]);
    assert_eq!(room.waiting.due(), None, "nobody shows each viewer");
    publish(&mut room, &x, "cam");
    room.handle_timeout(at(6));
    assert_eq!(news(&drain(&mut room), &viewers[0]), ["151 here", "1 connections"]);
    publish_audio(&mut room, &x, "mic");
    assert_eq!(room.waiting.due(), None, "once");
}

#[test]
fn the_end_of_a_publishers_last_track_is_told_at_once() {
    let sees = |effects: &[Effect], sid: &ParticipantSid, x: &ParticipantSid| {
        let events = told(effects, sid).into_iter();
        let mut infos = events.filter_map(|event| match event {
            RoomEvent::Participants(people) => people.into_iter().find(|one| one.sid == *x.0),
            _ => None,
        });
        infos.next_back().map(|info| info.tracks.len())
    };
    let (mut room, viewers, x) = crowd_with_x(150);
    let track = publish(&mut room, &x, "cam");
    assert_eq!(sees(&drain(&mut room), &viewers[0], &x), Some(1));
    room.unpublish(&x, &track).unwrap();
    assert_eq!(sees(&drain(&mut room), &viewers[0], &x), Some(0), "by itself");
    publish(&mut room, &x, "cam");
    drain(&mut room);
    let mut permissions = room.participants[&x].permissions.clone();
    permissions.can_publish = false;
    room.set_permissions(&x, permissions, at(5)).unwrap();
    assert_eq!(sees(&drain(&mut room), &viewers[0], &x), Some(0), "by an API");
}

#[test]
fn a_crowd_that_is_none_any_more_shows_how_its_viewers_are_connected() {
    let (mut room, viewers, x) = crowd_with_x(CROWD);
    room.path_stats(&x, PeerRole::Single, &node::PeerStats::default());
    room.handle_timeout(at(6));
    assert!(news(&drain(&mut room), &viewers[0]).is_empty());
    room.leave(&viewers[1], proto::DisconnectReason::ClientInitiated, at(7));
    room.handle_timeout(at(7));
    let said = news(&drain(&mut room), &viewers[0]);
    assert_eq!(said, ["viewer-1 disconnected", "100 here", "1 connections"]);
}

#[test]
fn who_is_hidden_no_more_shows_how_it_is_connected() {
    let (mut room, viewers, x) = crowd_with_x(5);
    let shown = room.participants[&x].permissions.clone();
    let hidden = Permissions { hidden: true, ..shown.clone() };
    room.set_permissions(&x, hidden, at(5)).unwrap();
    room.path_stats(&x, PeerRole::Single, &node::PeerStats::default());
    room.handle_timeout(at(6));
    drain(&mut room);
    room.set_permissions(&x, shown, at(7)).unwrap();
    room.handle_timeout(at(7));
    assert_eq!(news(&drain(&mut room), &viewers[0]), ["6 here", "1 connections"]);
}

#[test]
fn who_hid_or_came_back_hidden_is_gone_for_who_was_away_meanwhile() {
    let (mut room, viewers, x) = crowd_with_x(5);
    room.peer_connected(&viewers[0], PeerRole::Single);
    room.signal_lost(&viewers[0], at(5));
    let hidden = |room: &RoomState, sid| Permissions {
        hidden: true,
        ..room.participants[sid].permissions.clone()
    };
    let permissions = hidden(&room, &viewers[1]);
    room.set_permissions(&viewers[1], permissions, at(5)).unwrap();
    room.leave(&x, proto::DisconnectReason::ClientInitiated, at(5));
    let mut back = request("x");
    back.permissions.hidden = true;
    room.join(back, at(5)).unwrap();
    room.leave(&viewers[2], proto::DisconnectReason::ClientInitiated, at(5));
    join(&mut room, "viewer-2");
    let resumed = room.resume(&viewers[0], "viewer-0").unwrap();
    let gone: Vec<_> = resumed.departed.iter().map(|info| &*info.identity).collect();
    assert_eq!(gone, ["viewer-1", "x"], "viewer-2 is there again");
}
