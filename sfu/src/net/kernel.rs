//! What the kernel dropped before we could read it.

use std::{collections::HashSet, fs};

/// Datagrams that the kernel dropped at the UDP sockets bound to these ports, since they were bound: receive buffer full or
/// checksum wrong. Reads /proc, so not for the packet path. `None` where there is no such file.
pub(crate) fn udp_kernel_drops(ports: &HashSet<u16>) -> Option<u64> {
    let v4 = fs::read_to_string("/proc/self/net/udp").ok()?;
    let v6 = fs::read_to_string("/proc/self/net/udp6").unwrap_or_default();
    Some(drops_in(&v4, ports) + drops_in(&v6, ports))
}

/// Lines look like `sl local_address:port rem_address:port st ... drops`, numbers in hexadecimal but the last one.
fn drops_in(table: &str, ports: &HashSet<u16>) -> u64 {
    let of_line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (_, port) = fields.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let drops: u64 = fields.next_back()?.parse().ok()?;
        ports.contains(&port).then_some(drops)
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn drops_of_our_ports_are_summed() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
            100: 00000000:1ECA 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0000000000000000 17\n \
            101: 00000000:1ECB 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4243 2 0000000000000000 5\n \
            102: garbage\n";
        assert_eq!(drops_in(table, &HashSet::from([7_882])), 17);
        assert_eq!(drops_in(table, &HashSet::from([7_882, 7_883])), 22);
        assert_eq!(drops_in(table, &HashSet::new()), 0);
    }

    #[test]
    fn an_overrun_socket_is_seen() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4_096).unwrap();
        let port = socket.local_addr().unwrap().port();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..200 {
            sender.send_to(&[0; 1_000], ("127.0.0.1", port)).unwrap();
        }
        assert!(udp_kernel_drops(&HashSet::from([port])).is_some_and(|drops| drops > 0));
    }
}
