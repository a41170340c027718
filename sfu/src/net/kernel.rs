//! What the kernel dropped before we could read it.

use std::fs;

/// Datagrams that the kernel dropped at the UDP sockets bound to each of these ports, since they were bound: receive buffer
/// full or checksum wrong. The same number as SO_RXQ_OVFL gives, which comes with datagrams only. Reads /proc, so not for
/// the packet path. `None` where there is no such file.
pub(crate) fn udp_kernel_drops(ports: &[u16]) -> Option<Vec<u64>> {
    let v4 = fs::read_to_string("/proc/self/net/udp").ok()?;
    let v6 = fs::read_to_string("/proc/self/net/udp6").unwrap_or_default();
    Some(ports.iter().map(|port| drops_in(&v4, *port) + drops_in(&v6, *port)).collect())
}

/// Lines look like `sl local_address:port rem_address:port st ... drops`, numbers in hexadecimal but the last one.
fn drops_in(table: &str, wanted: u16) -> u64 {
    let of_line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (_, port) = fields.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let drops: u64 = fields.next_back()?.parse().ok()?;
        (port == wanted).then_some(drops)
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn drops_are_told_by_port() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
            100: 00000000:1ECA 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0000000000000000 17\n \
            101: 00000000:1ECB 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4243 2 0000000000000000 5\n \
            102: garbage\n";
        assert_eq!([7_882, 7_883, 7_884].map(|port| drops_in(table, port)), [17, 5, 0]);
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
        assert!(udp_kernel_drops(&[port]).is_some_and(|drops| drops.iter().all(|n| *n > 0)));
    }
}
