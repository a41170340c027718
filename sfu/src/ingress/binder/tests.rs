use super::*;
use crate::{
    cache::test_packets::{codec, ms, start},
    rtp::CodecKind,
};

fn codecs() -> CodecMap {
    CodecMap::new(vec![codec(CodecKind::Opus, 111, None), codec(CodecKind::Vp8, 96, Some(97))])
}

fn mid(text: &str) -> Option<Mid> {
    Mid::new(text.as_bytes())
}

fn rid(text: &str) -> Option<Rid> {
    Rid::new(text.as_bytes())
}

fn video(slot: u16, mid_text: &str, rids: &[&str]) -> BoundTrack {
    let encodings =
        rids.iter().map(|text| BoundEncoding { rid: rid(text), ..BoundEncoding::default() });
    BoundTrack {
        slot: TrackSlot(slot),
        kind: MediaKind::Video,
        mid: mid(mid_text).unwrap(),
        encodings: encodings.collect(),
    }
}

fn audio(slot: u16, mid_text: &str) -> BoundTrack {
    BoundTrack { kind: MediaKind::Audio, ..video(slot, mid_text, &[""]) }
}

/// What the extensions of a packet name.
#[derive(Clone, Copy, Default)]
struct Named {
    mid: &'static str,
    rid: &'static str,
    repaired: &'static str,
}

fn resolve(
    binder: &mut SsrcBinder,
    ssrc: u32,
    pt: u8,
    named: Named,
) -> Result<(u16, u8, Role), Unbound> {
    let extensions = ExtensionValues {
        mid: mid(named.mid),
        rid: rid(named.rid),
        repaired_rid: rid(named.repaired),
        ..ExtensionValues::default()
    };
    binder
        .resolve(Ssrc(ssrc), Pt::new(pt).unwrap(), &extensions, &codecs())
        .map(|binding| (binding.slot.0, binding.encoding, binding.role))
}

const NOTHING: Named = Named { mid: "", rid: "", repaired: "" };

#[test]
fn simulcast_is_bound_by_mid_and_rid_and_stays_bound() {
    let mut binder = SsrcBinder::new(16);
    binder.set_tracks(vec![video(4, "1", &["q", "h", "f"]), video(5, "2", &["q", "f"])]);
    let first = Named { mid: "1", rid: "h", ..NOTHING };
    assert_eq!(resolve(&mut binder, 10, 96, first), Ok((4, 1, Role::Media)));
    assert_eq!(resolve(&mut binder, 10, 96, NOTHING), Ok((4, 1, Role::Media)));
    let repair = Named { mid: "1", repaired: "h", ..NOTHING };
    assert_eq!(resolve(&mut binder, 11, 97, repair), Ok((4, 1, Role::Rtx)));
    let second = Named { mid: "2", rid: "q", ..NOTHING };
    assert_eq!(resolve(&mut binder, 12, 96, second), Ok((5, 0, Role::Media)));

    let rid_only = Named { rid: "f", ..NOTHING };
    assert_eq!(resolve(&mut binder, 13, 96, rid_only), Err(Unbound::Park), "never RID alone");
    let mid_only = Named { mid: "1", ..NOTHING };
    assert_eq!(resolve(&mut binder, 14, 96, mid_only), Err(Unbound::Park), "which encoding?");
    let unknown = Named { mid: "9", rid: "q", ..NOTHING };
    assert_eq!(resolve(&mut binder, 15, 96, unknown), Err(Unbound::Park));
    assert_eq!(
        resolve(&mut binder, 16, 33, first),
        Err(Unbound::Drop(DropReason::UnknownPayloadType))
    );
}

#[test]
fn signalled_ssrcs_come_first() {
    let mut binder = SsrcBinder::new(16);
    let mut track = video(1, "0", &["q", "f"]);
    track.encodings[1].ssrc = Some(Ssrc(20));
    track.encodings[1].rtx_ssrc = Some(Ssrc(21));
    binder.set_tracks(vec![track]);
    let lying = Named { mid: "0", rid: "q", ..NOTHING };
    assert_eq!(resolve(&mut binder, 20, 96, lying), Ok((1, 1, Role::Media)));
    assert_eq!(resolve(&mut binder, 21, 97, NOTHING), Ok((1, 1, Role::Rtx)));
}

#[test]
fn a_payload_type_binds_where_only_one_track_can_be_meant() {
    let mut binder = SsrcBinder::new(16);
    binder.set_tracks(vec![audio(0, "0"), video(1, "1", &[""])]);
    assert_eq!(resolve(&mut binder, 1, 111, NOTHING), Ok((0, 0, Role::Media)));
    assert_eq!(resolve(&mut binder, 2, 96, NOTHING), Ok((1, 0, Role::Media)));
    assert_eq!(resolve(&mut binder, 3, 97, NOTHING), Ok((1, 0, Role::Rtx)));
    let wrong_kind = Named { mid: "0", ..NOTHING };
    assert_eq!(resolve(&mut binder, 4, 96, wrong_kind), Err(Unbound::Park));

    binder.set_tracks(vec![video(1, "1", &[""]), video(2, "2", &[""])]);
    assert_eq!(resolve(&mut binder, 5, 96, NOTHING), Err(Unbound::Park));
}

#[test]
fn a_restarted_sender_takes_its_place_and_removed_tracks_lose_theirs() {
    let mut binder = SsrcBinder::new(16);
    binder.set_tracks(vec![video(1, "1", &["q", "f"])]);
    let named = Named { mid: "1", rid: "q", ..NOTHING };
    resolve(&mut binder, 1, 96, named).unwrap();
    resolve(&mut binder, 2, 96, named).unwrap();
    assert_eq!(binder.binding(Ssrc(1)), None);
    assert!(binder.binding(Ssrc(2)).is_some());
    binder.set_tracks(vec![video(1, "1", &["q", "f"]), audio(2, "2")]);
    assert!(binder.binding(Ssrc(2)).is_some(), "unchanged track");
    binder.set_tracks(vec![video(1, "7", &["q", "f"])]);
    assert_eq!(binder.binding(Ssrc(2)), None, "slot used anew");
}

#[test]
fn ssrcs_are_capped() {
    let mut binder = SsrcBinder::new(2);
    binder.set_tracks(vec![video(1, "1", &["q", "h", "f"])]);
    for (ssrc, rid) in [(1, "q"), (2, "h")] {
        resolve(&mut binder, ssrc, 96, Named { mid: "1", rid, ..NOTHING }).unwrap();
    }
    let third = Named { mid: "1", rid: "f", ..NOTHING };
    assert_eq!(resolve(&mut binder, 3, 96, third), Err(Unbound::Drop(DropReason::TooManySsrcs)));
}

#[test]
fn parked_packets_come_back_once_they_can_be_bound() {
    let now = start();
    let mut binder = SsrcBinder::new(16);
    binder.set_tracks(vec![video(1, "1", &["q", "f"])]);
    binder.park(now, Ssrc(7), b"first");
    binder.park(now + ms(10), Ssrc(8), b"other");
    binder.park(now + ms(20), Ssrc(7), b"second");
    assert_eq!(binder.poll_replay(), None);
    resolve(&mut binder, 7, 96, Named { mid: "1", rid: "q", ..NOTHING }).unwrap();
    let replayed: Vec<_> = std::iter::from_fn(|| binder.poll_replay()).collect();
    let bytes: Vec<&[u8]> = replayed.iter().map(|packet| &*packet.bytes).collect();
    assert_eq!(bytes, [&b"first"[..], b"second"]);
    assert_eq!(replayed[1].received_at, now + ms(20));

    // Signalling came: everything that waits is tried again, once.
    binder.set_tracks(vec![video(1, "1", &["q", "f"]), audio(2, "2")]);
    let packet = binder.poll_replay().unwrap();
    assert_eq!(&*packet.bytes, b"other");
    binder.park_again(packet);
    assert_eq!(binder.poll_replay(), None);

    assert_eq!(binder.poll_timeout(), Some(now + ms(510)));
    assert_eq!(binder.handle_timeout(now + ms(509)), 0);
    assert_eq!(binder.handle_timeout(now + ms(510)), 1);
}

#[test]
fn what_is_parked_again_keeps_its_order_and_its_time() {
    let now = start();
    let mut binder = SsrcBinder::new(16);
    for (n, at) in [(7, 0), (8, 10), (7, 20)] {
        binder.park(now + ms(at), Ssrc(n), &[at as u8]);
    }
    // Signalling about something else, twice.
    for slot in [1, 2] {
        binder.set_tracks(vec![audio(slot, "9")]);
        let mut tried = Vec::new();
        while let Some(packet) = binder.poll_replay() {
            tried.push(packet.bytes[0]);
            binder.park_again(packet);
        }
        assert_eq!(tried, [0, 10, 20]);
    }
    assert_eq!(binder.handle_timeout(now + ms(505)), 1, "its time did not begin anew");
    binder.set_tracks(vec![video(1, "1", &["q", "f"])]);
    assert_eq!(std::iter::from_fn(|| binder.poll_replay()).count(), 2);
}

#[test]
fn parking_is_bounded() {
    let now = start();
    let mut binder = SsrcBinder::new(16);
    for n in 0..1_000u32 {
        binder.park(now, Ssrc(n), &n.to_be_bytes());
    }
    binder.set_tracks(vec![]);
    let left: Vec<_> = std::iter::from_fn(|| binder.poll_replay()).collect();
    assert_eq!(left.len(), SsrcBinder::MAX_PARKED);
    assert_eq!(*left[0].bytes, (1_000u32 - 64).to_be_bytes());
}

#[test]
fn a_smaller_cap_keeps_lower_encodings_and_a_larger_one_takes_more() {
    let mut binder = SsrcBinder::new(16);
    let tracks = vec![video(4, "1", &["q", "h"])];
    binder.set_tracks(tracks.clone());
    let named = |rid| Named { mid: "1", rid, ..NOTHING };
    assert_eq!(resolve(&mut binder, 11, 96, named("h")), Ok((4, 1, Role::Media)));
    assert_eq!(resolve(&mut binder, 10, 96, named("q")), Ok((4, 0, Role::Media)));
    binder.set_max_ssrcs(1);
    binder.set_tracks(tracks);
    assert_eq!(resolve(&mut binder, 10, 96, NOTHING), Ok((4, 0, Role::Media)));
    let refused = Err(Unbound::Drop(DropReason::TooManySsrcs));
    assert_eq!(resolve(&mut binder, 11, 96, named("h")), refused);
    binder.set_max_ssrcs(2);
    assert_eq!(resolve(&mut binder, 11, 96, named("h")), Ok((4, 1, Role::Media)));
}
