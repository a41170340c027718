//! Sockets: batched UDP, ICE-TCP with RFC 4571 framing, the machine's addresses, and what the kernel can do, for memory too.
//!
//! Nothing here knows what a datagram means, apart from the one STUN message that opens an ICE-TCP connection. Only
//! `runtime` imports this module.

mod address;
mod apart;
mod framing;
mod kernel;
mod large_pages;
mod poller;
mod stun;
mod tcp;
mod udp;

#[cfg(fuzzing)]
pub use framing::fuzz_framing;

pub(crate) use address::{InterfaceFilter, local_addresses};
pub(crate) use kernel::udp_kernel_drops;
pub(crate) use large_pages::{LargePages, PageMaker};
pub(crate) use poller::{BellRope, Poller, Source};
pub(crate) use stun::{local_ufrag, public_address};
pub(crate) use tcp::{Accepted, TcpAcceptor, TcpBuffer, TcpConnection, TcpRead, TcpWrite};
pub(crate) use udp::{Capabilities, Receiver, RecvBatch, Sent, UdpBuffers, UdpPort};
