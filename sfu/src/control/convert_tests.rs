use super::*;

fn vp8() -> pb::Codec {
    pb::Codec {
        payload_type: 96,
        rtx_payload_type: Some(97),
        kind: pb::CodecKind::Vp8.into(),
        clock_rate: 90_000,
        ..pb::Codec::default()
    }
}

fn video(id: &str) -> pb::Track {
    pb::Track {
        track_id: id.into(),
        kind: pb::MediaKind::Video.into(),
        mid: "1".into(),
        ..pb::Track::default()
    }
}

fn taken(id: &str, ssrc: u32) -> pb::Subscription {
    pb::Subscription { track_id: id.into(), mid: "2".into(), ssrc, ..pb::Subscription::default() }
}

fn good() -> pb::PeerState {
    pb::PeerState {
        transport: Some(pb::Transport {
            remote_ice: Some(pb::IceCredentials { ufrag: "abcd".into(), pwd: "p".repeat(22) }),
            remote_fingerprints: vec![pb::Fingerprint {
                algorithm: "sha-256".into(),
                digest: vec![1; 32],
            }],
            sctp: Some(pb::Sctp { remote_port: 5_000, remote_max_message_size: 0 }),
            ..pb::Transport::default()
        }),
        codecs: vec![vp8()],
        extensions: vec![pb::HeaderExtension {
            kind: pb::ExtensionKind::Mid.into(),
            id: 4,
            send: true,
            receive: false,
        }],
        tracks: vec![video("TR_a")],
        subscriptions: vec![taken("TR_b", 7)],
        data: Some(pb::Data { address: "me".into(), may_send: true, ..pb::Data::default() }),
        limits: Some(pb::Limits { data_rate: 1_000, ..pb::Limits::default() }),
        ..pb::PeerState::default()
    }
}

#[test]
fn a_good_state_is_understood() {
    let spec = peer_spec(&good()).unwrap();
    assert_eq!(
        spec.tracks[0].encodings,
        [EncodingSpec::default()],
        "one encoding without simulcast"
    );
    assert_eq!(spec.send_extensions.id(Extension::Mid), Some(4));
    assert_eq!(spec.receive_extensions.id(Extension::Mid), None);
    assert_eq!(spec.limits.data_rate, Some(Bitrate::from_bps(8_000)));
    assert_eq!(spec.limits.ingress_bitrate, None, "the node's default");
    assert_eq!(spec.subscriptions[0].rtx_ssrc, None);
    peer_spec(&pb::PeerState::default()).expect("a peer of which nothing is known yet");
}

#[test]
fn refusals_name_the_field() {
    struct Case {
        field: &'static str,
        spoil: fn(&mut pb::PeerState),
    }
    fn ice(state: &mut pb::PeerState) -> &mut pb::IceCredentials {
        state.transport.as_mut().unwrap().remote_ice.as_mut().unwrap()
    }
    let cases = [
        Case {
            field: "owner_state:",
            spoil: |s| s.owner_state = vec![0; MAX_PEER_OWNER_STATE + 1],
        },
        Case { field: "codecs[0].payload_type:", spoil: |s| s.codecs[0].payload_type = 128 },
        Case {
            field: "codecs[0].rtx_payload_type:",
            spoil: |s| s.codecs[0].rtx_payload_type = Some(300),
        },
        Case { field: "codecs[0].kind:", spoil: |s| s.codecs[0].kind = 0 },
        Case { field: "codecs[0].kind:", spoil: |s| s.codecs[0].kind = 999 },
        Case { field: "codecs[0].clock_rate:", spoil: |s| s.codecs[0].clock_rate = 0 },
        Case { field: "codecs[0].channels:", spoil: |s| s.codecs[0].channels = 256 },
        Case { field: "codecs:", spoil: |s| s.codecs = vec![vp8(); MAX_CODECS + 1] },
        Case {
            field: "tracks: expected at most 64, got 65",
            spoil: |s| s.tracks = vec![s.tracks[0].clone(); 65],
        },
        Case {
            field: "subscriptions: expected at most 2048, got 2049",
            spoil: |s| s.subscriptions = vec![s.subscriptions[0].clone(); 2_049],
        },
        Case { field: "extensions[0].id:", spoil: |s| s.extensions[0].id = 0 },
        Case { field: "extensions[0].id:", spoil: |s| s.extensions[0].id = 256 },
        Case { field: "extensions[0].kind:", spoil: |s| s.extensions[0].kind = 99 },
        Case { field: "tracks[0].track_id:", spoil: |s| s.tracks[0].track_id.clear() },
        Case { field: "tracks[0].track_id:", spoil: |s| s.tracks[0].track_id = "x".repeat(129) },
        Case { field: "tracks[0].track_id:", spoil: |s| s.tracks[0].track_id = "a\nb".into() },
        Case { field: "tracks[0].kind:", spoil: |s| s.tracks[0].kind = 0 },
        Case { field: "tracks[0].mid:", spoil: |s| s.tracks[0].mid = "a b".into() },
        Case {
            field: "tracks[0].encodings:",
            spoil: |s| s.tracks[0].encodings = vec![pb::Encoding::default(); 5],
        },
        Case {
            field: "tracks[0].encodings[0].rid:",
            spoil: |s| {
                s.tracks[0].encodings =
                    vec![pb::Encoding { rid: "x".repeat(17), ..pb::Encoding::default() }]
            },
        },
        Case { field: "subscriptions[0].ssrc:", spoil: |s| s.subscriptions[0].ssrc = 0 },
        Case { field: "subscriptions[0].mid:", spoil: |s| s.subscriptions[0].mid.clear() },
        Case {
            field: "data.stamp:",
            spoil: |s| s.data.as_mut().unwrap().stamp = vec![0; MAX_STAMP + 1],
        },
        Case {
            field: "transport.dtls_role:",
            spoil: |s| s.transport.as_mut().unwrap().dtls_role = 9,
        },
        Case { field: "transport.remote_ice.ufrag:", spoil: |s| ice(s).ufrag = "abc".into() },
        Case { field: "transport.remote_ice.pwd:", spoil: |s| ice(s).pwd = "p w".repeat(10) },
        Case {
            field: "transport.remote_fingerprints[0].algorithm:",
            spoil: |s| {
                s.transport.as_mut().unwrap().remote_fingerprints[0].algorithm = "md5".into()
            },
        },
        Case {
            field: "transport.remote_fingerprints[0].digest:",
            spoil: |s| s.transport.as_mut().unwrap().remote_fingerprints[0].digest.truncate(31),
        },
        Case {
            field: "transport.sctp.remote_port:",
            spoil: |s| s.transport.as_mut().unwrap().sctp.as_mut().unwrap().remote_port = 70_000,
        },
    ];
    for case in cases {
        let mut state = good();
        (case.spoil)(&mut state);
        let said = peer_spec(&state).unwrap_err().0;
        assert!(said.starts_with(case.field), "expected {:?}, got {said:?}", case.field);
    }
}

#[test]
fn a_delta_changes_what_it_names() {
    let mut state = good();
    state.owner_state = vec![1];
    let delta = pb::PeerDelta {
        owner_state: Some(vec![2]),
        put_tracks: vec![pb::Track { muted: true, ..video("TR_a") }, video("TR_c")],
        put_subscriptions: vec![
            pb::Subscription { paused: true, ..taken("TR_b", 7) },
            taken("TR_d", 9),
        ],
        ..pb::PeerDelta::default()
    };
    let changed = apply_delta(state.clone(), delta);
    assert_eq!((changed.owner_state.as_slice(), changed.tracks.len()), (&[2][..], 2));
    assert!(changed.tracks[0].muted && changed.subscriptions[0].paused);
    assert_eq!(changed.subscriptions[1].ssrc, 9);
    assert_eq!(
        (&changed.codecs, &changed.transport, &changed.data),
        (&state.codecs, &state.transport, &state.data)
    );

    let delta = pb::PeerDelta {
        codecs: Some(pb::CodecList::default()),
        extensions: Some(pb::HeaderExtensionList::default()),
        remove_track_ids: vec!["TR_a".into(), "TR_unknown".into()],
        remove_subscription_track_ids: vec!["TR_b".into()],
        data: Some(pb::Data::default()),
        ..pb::PeerDelta::default()
    };
    let emptied = apply_delta(changed, delta);
    assert!(emptied.codecs.is_empty() && emptied.extensions.is_empty());
    assert_eq!((emptied.tracks.len(), emptied.subscriptions.len()), (1, 1));
    assert_eq!(emptied.owner_state, [2], "absent: as it was");
    assert_eq!(apply_delta(emptied.clone(), pb::PeerDelta::default()), emptied);
}

#[test]
fn a_cap_on_what_is_sent_is_set_kept_and_taken_away() {
    struct Case {
        delta: Option<u64>,
        cap: Option<u64>,
    }
    let mut state = good();
    assert_eq!(peer_spec(&state).unwrap().max_egress_bitrate, None);
    let cases = [
        Case { delta: Some(300_000), cap: Some(300_000) },
        Case { delta: None, cap: Some(300_000) },
        Case { delta: Some(0), cap: None },
    ];
    for Case { delta, cap } in cases {
        let delta = pb::PeerDelta { max_egress_bitrate: delta, ..pb::PeerDelta::default() };
        state = apply_delta(state, delta);
        let spec = peer_spec(&state).unwrap();
        assert_eq!(spec.max_egress_bitrate, cap.map(crate::rtp::Bitrate::from_bps));
    }
}
