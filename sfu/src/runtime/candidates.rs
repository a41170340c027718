//! Which addresses clients are told (RFC 8445 section 5.1, RFC 6544 section 4).

use std::net::{IpAddr, SocketAddr};

use crate::{
    config::{CandidateConfig, NodeConfig},
    net::{InterfaceFilter, local_addresses, public_address},
    shard::Protocol,
};

/// How an address was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum CandidateKind {
    /// An interface's own, or one that the operator told.
    Host,
    /// A STUN server sees us there.
    ServerReflexive,
}

/// One address that clients are told.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// UDP, or TCP passive.
    pub(crate) protocol: Protocol,
    /// Where.
    pub(crate) address: SocketAddr,
    /// How it was found.
    pub(crate) kind: CandidateKind,
    /// Higher is better.
    pub(crate) priority: u32,
    /// Equal for candidates of one kind, base and protocol.
    pub(crate) foundation: String,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Addresses stay out of logs.
        f.debug_struct("Candidate").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Addresses without ports, best first.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Addresses {
    host: Vec<IpAddr>,
    reflexive: Vec<IpAddr>,
}

impl Addresses {
    /// Looks at the interfaces and asks the STUN server, where one is configured: blocks up to some seconds then.
    pub(crate) fn gather(config: &NodeConfig, transaction: [u8; 12]) -> std::io::Result<Self> {
        let filter = InterfaceFilter {
            include: config.candidates.include_interfaces.clone(),
            exclude: config.candidates.exclude_interfaces.clone(),
            loopback: config.candidates.include_loopback,
            ipv6: config.ipv6,
        };
        let own = local_addresses(&filter)?;
        let public = config.candidates.stun_server.as_deref().and_then(|server| {
            public_address(server, transaction)
                .inspect_err(|error| tracing::warn!(%error, "the STUN server did not tell our public address"))
                .ok()
        });
        Ok(Self::choose(&config.candidates, own, public))
    }

    fn choose(config: &CandidateConfig, own: Vec<IpAddr>, public: Option<IpAddr>) -> Self {
        let told = |ip: &IpAddr| config.advertise_ips.iter().any(|a| a.is_ipv4() == ip.is_ipv4());
        let mut host = config.advertise_ips.clone();
        // A told address stands for all of its family; loopback stays for clients on this machine, where it is wanted.
        host.extend(
            own.into_iter().filter(|ip| !told(ip) || (ip.is_loopback() && config.include_loopback)),
        );
        let reflexive = public.into_iter().filter(|ip| !host.contains(ip)).collect();
        Self { host, reflexive }
    }

    /// The candidates of one shard.
    pub(crate) fn candidates(
        &self,
        udp_port: u16,
        udp_has_ipv6: bool,
        tcp_port: Option<u16>,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let kinds =
            [(CandidateKind::Host, &self.host), (CandidateKind::ServerReflexive, &self.reflexive)];
        let ports = [(Protocol::Udp, Some(udp_port)), (Protocol::Tcp, tcp_port)];
        for (protocol, port) in ports {
            let Some(port) = port else { continue };
            for (kind, ips) in kinds {
                for (index, ip) in ips.iter().enumerate() {
                    if ip.is_ipv6() && !udp_has_ipv6 {
                        continue;
                    }
                    candidates.push(Candidate {
                        protocol,
                        address: SocketAddr::new(*ip, port),
                        kind,
                        priority: priority(protocol, kind, index),
                        foundation: (candidates.len() + 1).to_string(),
                    });
                }
            }
        }
        candidates
    }
}

/// RFC 8445 section 5.1.2.1 for component 1. TCP stands below all UDP; passive is direction preference 4 of RFC 6544
/// section 4.2.
fn priority(protocol: Protocol, kind: CandidateKind, index: usize) -> u32 {
    let kind: u32 = match (protocol, kind) {
        (Protocol::Udp, CandidateKind::Host) => 126,
        (Protocol::Udp, CandidateKind::ServerReflexive) => 100,
        (Protocol::Tcp, CandidateKind::Host) => 90,
        (Protocol::Tcp, CandidateKind::ServerReflexive) => 80,
    };
    let index = u32::try_from(index.min(8_000)).unwrap_or(8_000);
    let local = match protocol {
        Protocol::Udp => 65_535 - index,
        Protocol::Tcp => (4 << 13) + 8_191 - index,
    };
    (kind << 24) + (local << 8) + 255
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn told_addresses_replace_their_family() {
        struct Case {
            name: &'static str,
            advertise: &'static [&'static str],
            loopback: bool,
            public: Option<&'static str>,
            host: &'static [&'static str],
            reflexive: &'static [&'static str],
        }
        let cases = [
            Case {
                name: "as found",
                advertise: &[],
                loopback: false,
                public: None,
                host: &["10.0.0.5", "2001:db8::5", "127.0.0.1"],
                reflexive: &[],
            },
            Case {
                name: "1:1 NAT",
                advertise: &["203.0.113.7"],
                loopback: false,
                public: None,
                host: &["203.0.113.7", "2001:db8::5"],
                reflexive: &[],
            },
            Case {
                name: "1:1 NAT, development",
                advertise: &["203.0.113.7"],
                loopback: true,
                public: None,
                host: &["203.0.113.7", "2001:db8::5", "127.0.0.1"],
                reflexive: &[],
            },
            Case {
                name: "STUN",
                advertise: &[],
                loopback: false,
                public: Some("203.0.113.7"),
                host: &["10.0.0.5", "2001:db8::5", "127.0.0.1"],
                reflexive: &["203.0.113.7"],
            },
            Case {
                name: "STUN without NAT",
                advertise: &[],
                loopback: false,
                public: Some("10.0.0.5"),
                host: &["10.0.0.5", "2001:db8::5", "127.0.0.1"],
                reflexive: &[],
            },
        ];
        for case in cases {
            let config = CandidateConfig {
                advertise_ips: ips(case.advertise),
                include_loopback: case.loopback,
                ..CandidateConfig::default()
            };
            let own = ips(&["10.0.0.5", "2001:db8::5", "127.0.0.1"]);
            let chosen = Addresses::choose(&config, own, case.public.map(|ip| ip.parse().unwrap()));
            assert_eq!(chosen.host, ips(case.host), "{}", case.name);
            assert_eq!(chosen.reflexive, ips(case.reflexive), "{}", case.name);
        }
    }

    #[test]
    fn candidates_differ_and_udp_comes_first() {
        let addresses =
            Addresses { host: ips(&["10.0.0.5", "2001:db8::5"]), reflexive: ips(&["203.0.113.7"]) };
        let all = addresses.candidates(7_882, true, Some(7_881));
        assert_eq!(all.len(), 6);
        assert!(
            all.is_sorted_by(|a, b| a.priority > b.priority),
            "{:?}",
            all.iter().map(|c| c.priority).collect::<Vec<_>>()
        );
        let foundations: HashSet<_> = all.iter().map(|c| &c.foundation).collect();
        assert_eq!(foundations.len(), all.len());
        assert_eq!(
            all[0].priority, 2_130_706_431,
            "the priority that browsers give their first host candidate"
        );
        assert!(all.iter().all(|c| (c.protocol == Protocol::Tcp) == (c.address.port() == 7_881)));
        assert_eq!(addresses.candidates(7_882, false, None).len(), 2, "no TCP, no IPv6 socket");
    }
}
