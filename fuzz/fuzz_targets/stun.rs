//! The ICE responder: messages of strangers, and checks of whoever knows the password.
#![no_main]

use std::{
    cell::OnceCell,
    time::{Duration, Instant},
};

use chappe_sfu::{
    shard::Ufrag,
    transport::{
        DtlsVersions, FiveTuple, IceCredentials, Protocol, Transport, TransportContext,
        TransportEvent, TransportParams, fuzz_check,
    },
};
use libfuzzer_sys::fuzz_target;

/// Five-tuples that a peer may have.
const MAX_PATHS: usize = 8;

thread_local! {
    static CONTEXT: OnceCell<(TransportContext, Instant)> = const { OnceCell::new() };
}

fn credentials(name: &str) -> IceCredentials {
    IceCredentials { ufrag: name.repeat(14), pwd: name.repeat(24) }
}

fn path(number: u8) -> FiveTuple {
    FiveTuple {
        protocol: if number & 0x80 == 0 { Protocol::Udp } else { Protocol::Tcp },
        local: ([192, 0, 2, 1], 7_882).into(),
        remote: ([198, 51, 100, number & 0x0f], 5_000).into(),
    }
}

fuzz_target!(|data: &[u8]| {
    let (context, start) = CONTEXT.with(|known| {
        let made =
            || (TransportContext::generate(DtlsVersions::Dtls12).expect("keys"), Instant::now());
        known.get_or_init(made).clone()
    });
    let (mut now, mut own) = (start, credentials("a"));
    let remote = credentials("b");
    let mut transport = Transport::new(&context, &own, now);
    let params = TransportParams { remote_ice: Some(remote.clone()), ..TransportParams::default() };
    transport.set_remote(now, &params);
    let (mut paths, mut rest) = (Vec::new(), data);
    while let Some(([step, from, len], tail)) = rest.split_first_chunk() {
        let (body, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        let signed = step % 4 != 0;
        match step % 8 {
            7 => {
                now += Duration::from_millis(u64::from(*from) * 50);
                transport.handle_timeout(now);
            }
            6 => {
                own = credentials(if *from % 2 == 0 { "a" } else { "c" });
                transport.restart_ice(&own);
            }
            _ => {
                let message = if signed {
                    let name = format!("{}:{}", own.ufrag, remote.ufrag);
                    fuzz_check(&name, &own.pwd, body)
                } else {
                    body.to_vec()
                };
                let _ = Ufrag::of_check(&message);
                let taken = transport.handle_stun(now, path(*from), &message).is_ok();
                assert!(signed || !taken, "nobody else knows the password");
                let mut out = Vec::new();
                let mut answers = 0;
                while let Some(to) = transport.poll_transmit(&mut out) {
                    assert_eq!(to, path(*from), "answers leave where the request came from");
                    assert!(out.len() < 128, "an answer is about as long as a check");
                    answers += 1;
                }
                assert_eq!(answers, usize::from(taken));
            }
        }
        let mut out = Vec::new();
        while transport.poll_transmit(&mut out).is_some() {}
        while let Some(event) = transport.poll_event() {
            match event {
                TransportEvent::PathAdded(path) if !paths.contains(&path) => paths.push(path),
                TransportEvent::PathRemoved(path) => paths.retain(|known| *known != path),
                _ => {}
            }
        }
        assert!(paths.len() <= MAX_PATHS, "{} five-tuples", paths.len());
    }
});
