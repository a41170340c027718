//! Where a datagram came from and where it goes.

use std::{fmt, net::SocketAddr};

/// What carries the datagrams of a path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// Datagrams as they are.
    Udp,
    /// ICE-TCP with RFC 4571 framing; one framed packet is one datagram here.
    Tcp,
}

/// Protocol and both addresses of a path. Its Debug form shows no address: addresses are not logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// What carries the datagrams.
    pub protocol: Protocol,
    /// The address on this machine that the datagram was sent to; answers leave from it.
    pub local: SocketAddr,
    /// The peer's address as seen here.
    pub remote: SocketAddr,
}

impl fmt::Debug for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.remote.is_ipv4() { "v4" } else { "v6" };
        write!(f, "FiveTuple({:?} {family} redacted)", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_address() {
        let tuple = FiveTuple {
            protocol: Protocol::Udp,
            local: "192.0.2.1:7882".parse().unwrap(),
            remote: "198.51.100.7:5555".parse().unwrap(),
        };
        let text = format!("{tuple:?}");
        assert!(!text.contains("198") && !text.contains("5555") && !text.contains("192"), "{text}");
    }
}
