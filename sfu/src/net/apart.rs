//! Has the kernel put RTCP and STUN into a socket of their own.

use std::{io, os::fd::AsFd};

use nix::{
    libc::{
        BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, sock_filter,
        sock_fprog,
    },
    sys::socket::{setsockopt, sockopt::AttachReusePortCbpf},
};

/// Where what a datagram is goes, counted in the order in which the sockets were bound.
const MAIN: u32 = 0;
const APART: u32 = 1;

/// Of the sockets that share the port of this one, the second gets RTCP and STUN, and this one, the first, everything else. Datagrams that
/// the kernel handed over as one (GRO) go where the first of them belongs: a voice behind a report of its size may wait with reports.
///
/// STUN begins with a byte of 0 to 3, RTP and RTCP with one of 128 to 191 (RFC 7983 section 7), RTCP goes on with one of 192 to 223 (RFC
/// 5761 section 4). SRTCP has both in the clear (RFC 3711 section 3.4).
pub(super) fn steer(first: impl AsFd) -> io::Result<()> {
    let step = |code: u32, to: u32, (yes, no): (u8, u8)| sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k: to,
    };
    let load = |byte| step(BPF_LD | BPF_B | BPF_ABS, byte, (0, 0));
    let keep = |bits| step(BPF_ALU | BPF_AND | BPF_K, bits, (0, 0));
    let unless = |is, skip| step(BPF_JMP | BPF_JEQ | BPF_K, is, (0, skip));
    let goes_to = |socket| step(BPF_RET | BPF_K, socket, (0, 0));
    // A load beyond the datagram's end ends the program with 0.
    let mut program = [
        load(0),
        keep(0xfc),
        unless(0, 1),
        goes_to(APART),
        load(0),
        keep(0xc0),
        unless(0x80, 4),
        load(1),
        keep(0xe0),
        unless(0xc0, 1),
        goes_to(APART),
        goes_to(MAIN),
    ];
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    Ok(setsockopt(&first, AttachReusePortCbpf, &program)?)
}
