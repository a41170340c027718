//! The machine's own addresses.

use std::{io, net::IpAddr};

/// Which network interfaces count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct InterfaceFilter {
    /// Names; empty is all.
    pub(crate) include: Vec<String>,
    /// Names; wins over `include`.
    pub(crate) exclude: Vec<String>,
    /// Loopback counts even where there is something else.
    pub(crate) loopback: bool,
    /// IPv6 counts.
    pub(crate) ipv6: bool,
}

impl InterfaceFilter {
    fn takes(&self, name: &str) -> bool {
        (self.include.is_empty() || self.include.iter().any(|n| n == name))
            && !self.exclude.iter().any(|n| n == name)
    }
}

/// Addresses that clients may reach this machine at, without duplicates, in the order of the interfaces. Loopback is in it
/// only where asked for or where there is nothing else.
pub(crate) fn local_addresses(filter: &InterfaceFilter) -> io::Result<Vec<IpAddr>> {
    let all = if_addrs::get_if_addrs()?;
    let named = all.iter().map(|interface| (interface.name.as_str(), interface.ip()));
    Ok(choose(named, filter))
}

fn choose<'a>(
    addresses: impl Iterator<Item = (&'a str, IpAddr)>,
    filter: &InterfaceFilter,
) -> Vec<IpAddr> {
    let (mut chosen, mut loopback) = (Vec::new(), Vec::new());
    for (name, ip) in addresses {
        if !filter.takes(name) || !usable(ip) || (ip.is_ipv6() && !filter.ipv6) {
            continue;
        }
        let list = if ip.is_loopback() { &mut loopback } else { &mut chosen };
        if !list.contains(&ip) {
            list.push(ip);
        }
    }
    if filter.loopback || chosen.is_empty() {
        chosen.extend(loopback);
    }
    chosen
}

fn usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_link_local(),
        // A link-local address means nothing without its interface, which a candidate cannot name.
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_chosen_by_the_filter() {
        struct Case {
            name: &'static str,
            filter: InterfaceFilter,
            wanted: &'static [&'static str],
        }
        let all = InterfaceFilter { ipv6: true, ..InterfaceFilter::default() };
        let cases = [
            Case {
                name: "everything but loopback",
                filter: all.clone(),
                wanted: &["10.0.0.5", "2001:db8::5", "172.17.0.1"],
            },
            Case {
                name: "loopback on request, last",
                filter: InterfaceFilter { loopback: true, ..all.clone() },
                wanted: &["10.0.0.5", "2001:db8::5", "172.17.0.1", "127.0.0.1", "::1"],
            },
            Case {
                name: "excluded",
                filter: InterfaceFilter { exclude: vec!["docker0".into()], ..all.clone() },
                wanted: &["10.0.0.5", "2001:db8::5"],
            },
            Case {
                name: "included",
                filter: InterfaceFilter { include: vec!["docker0".into()], ..all.clone() },
                wanted: &["172.17.0.1"],
            },
            Case {
                name: "IPv4 only",
                filter: InterfaceFilter::default(),
                wanted: &["10.0.0.5", "172.17.0.1"],
            },
            Case {
                name: "nothing but loopback is left",
                filter: InterfaceFilter {
                    include: vec!["lo".into()],
                    ..InterfaceFilter::default()
                },
                wanted: &["127.0.0.1"],
            },
        ];
        let machine = [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("eth0", "10.0.0.5"),
            ("eth0", "fe80::5"),
            ("eth0", "2001:db8::5"),
            ("docker0", "172.17.0.1"),
            ("eth0:1", "10.0.0.5"),
            ("zeroconf", "169.254.3.4"),
        ];
        for case in cases {
            let machine = machine.iter().map(|(name, ip)| (*name, ip.parse().unwrap()));
            assert_eq!(choose(machine, &case.filter), ips(case.wanted), "{}", case.name);
        }
    }

    #[test]
    fn every_machine_has_an_address() {
        let filter = InterfaceFilter { loopback: true, ipv6: true, ..InterfaceFilter::default() };
        assert!(local_addresses(&filter).unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
