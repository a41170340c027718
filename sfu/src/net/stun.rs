//! The little STUN (RFC 8489) that is needed outside a peer: which peer a new TCP connection is for, and which address
//! the world sees.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    time::Duration,
};

const MAGIC: u32 = 0x2112_a442;
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const USERNAME: u16 = 0x0006;
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

/// First wait for an answer, doubled with each request (RFC 8489 section 6.2.1 starts with 500 ms).
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Requests until a lookup is given up: 3.5 s in all.
const ATTEMPTS: u32 = 3;

/// The part of a binding request's USERNAME before the colon: the ufrag that we gave. `None` for anything else.
pub(crate) fn local_ufrag(message: &[u8]) -> Option<&[u8]> {
    let (BINDING_REQUEST, _) = header(message)? else { return None };
    let name = attributes(message).find(|(kind, _)| *kind == USERNAME)?.1;
    name.split(|byte| *byte == b':').next()
}

/// The address that `server` (`host:port`) sees this machine at. Blocks for up to 3.5 s per address family tried.
pub(crate) fn public_address(server: &str, transaction: [u8; 12]) -> io::Result<IpAddr> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the STUN server has no address");
    for address in server.to_socket_addrs()? {
        match ask(address, transaction) {
            Ok(ip) => return Ok(ip),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn ask(server: SocketAddr, transaction: [u8; 12]) -> io::Result<IpAddr> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    let request = binding_request(transaction);
    let mut answer = [0; 1_500];
    for attempt in 0..ATTEMPTS {
        socket.send(&request)?;
        socket.set_read_timeout(Some(FIRST_WAIT * 2_u32.pow(attempt)))?;
        match socket.recv(&mut answer) {
            Ok(len) => {
                let mapped = mapped_address(answer.get(..len).unwrap_or_default(), transaction);
                if let Some(ip) = mapped {
                    return Ok(ip);
                }
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the STUN server did not answer"))
}

fn binding_request(transaction: [u8; 12]) -> [u8; HEADER] {
    let mut request = [0; HEADER];
    request[..2].copy_from_slice(&BINDING_REQUEST.to_be_bytes());
    request[4..8].copy_from_slice(&MAGIC.to_be_bytes());
    request[8..].copy_from_slice(&transaction);
    request
}

fn mapped_address(message: &[u8], transaction: [u8; 12]) -> Option<IpAddr> {
    let (BINDING_SUCCESS, id) = header(message)? else { return None };
    if id != transaction {
        return None;
    }
    let find =
        |wanted| attributes(message).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    match find(XOR_MAPPED_ADDRESS) {
        Some(value) => {
            let mut mask = [0; 16];
            mask[..4].copy_from_slice(&MAGIC.to_be_bytes());
            mask[4..].copy_from_slice(&transaction);
            address(value, mask)
        }
        None => address(find(MAPPED_ADDRESS)?, [0; 16]),
    }
}

fn address(value: &[u8], mask: [u8; 16]) -> Option<IpAddr> {
    let octets = value.get(4..)?;
    let unmask = |index: usize, octet: u8| octet ^ mask[index];
    match value.get(1)? {
        1 => {
            let octets: [u8; 4] = octets.get(..4)?.try_into().ok()?;
            Some(std::array::from_fn::<u8, 4, _>(|i| unmask(i, octets[i])).into())
        }
        2 => {
            let octets: [u8; 16] = octets.get(..16)?.try_into().ok()?;
            Some(std::array::from_fn::<u8, 16, _>(|i| unmask(i, octets[i])).into())
        }
        _ => None,
    }
}

/// Message type and transaction id.
fn header(message: &[u8]) -> Option<(u16, [u8; 12])> {
    let head = message.first_chunk::<HEADER>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let magic = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    if magic != MAGIC || usize::from(word(2)) + HEADER != message.len() {
        return None;
    }
    let mut transaction = [0; 12];
    transaction.copy_from_slice(&head[8..]);
    Some((word(0), transaction))
}

fn attributes(message: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (head, body) = rest.split_first_chunk::<4>()?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = body.get(..length)?;
        rest = body.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, transaction: [u8; 12], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = binding_request(transaction).to_vec();
        bytes[..2].copy_from_slice(&kind.to_be_bytes());
        for (kind, value) in attributes {
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = (bytes.len() - HEADER) as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    #[test]
    fn the_ufrag_of_a_request_is_the_name_before_the_colon() {
        let request =
            message(BINDING_REQUEST, [7; 12], &[(0x8022, b"soft"), (USERNAME, b"ours:theirs")]);
        assert_eq!(local_ufrag(&request), Some(&b"ours"[..]));
        assert_eq!(local_ufrag(&message(BINDING_SUCCESS, [7; 12], &[(USERNAME, b"a:b")])), None);
        assert_eq!(local_ufrag(&message(BINDING_REQUEST, [7; 12], &[])), None);
        assert_eq!(local_ufrag(&request[..request.len() - 1]), None, "cut short");
    }

    /// Sample response of RFC 5769 section 2.2 (and 2.3 for IPv6), integrity and fingerprint left out.
    #[test]
    fn mapped_addresses_of_rfc_5769() {
        let transaction = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let v4 = [0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let answer = message(BINDING_SUCCESS, transaction, &[(XOR_MAPPED_ADDRESS, &v4)]);
        assert_eq!(mapped_address(&answer, transaction), Some([192, 0, 2, 1].into()));
        let v6 = [
            0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25,
            0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        let answer = message(BINDING_SUCCESS, transaction, &[(XOR_MAPPED_ADDRESS, &v6)]);
        let wanted: IpAddr = "2001:db8:1234:5678:11:2233:4455:6677".parse().unwrap();
        assert_eq!(mapped_address(&answer, transaction), Some(wanted));
        assert_eq!(mapped_address(&answer, [0; 12]), None, "an answer to somebody else");
    }

    #[test]
    fn a_lookup_asks_again_and_reads_the_answer() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap().to_string();
        let answering = std::thread::spawn(move || {
            let mut request = [0; 100];
            server.recv_from(&mut request).unwrap(); // the first request is lost
            let (len, from) = server.recv_from(&mut request).unwrap();
            let (_, transaction) = header(&request[..len]).unwrap();
            let answer = message(
                BINDING_SUCCESS,
                transaction,
                &[(MAPPED_ADDRESS, &[0, 1, 0, 9, 203, 0, 113, 4])],
            );
            server.send_to(&answer, from).unwrap();
        });
        assert_eq!(public_address(&address, [3; 12]).unwrap(), IpAddr::from([203, 0, 113, 4]));
        answering.join().unwrap();
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise: Vec<u8>, mut framed in prop::collection::vec(any::<u8>(), HEADER..200)) {
            let _ = (local_ufrag(&noise), mapped_address(&noise, [0; 12]));
            framed[..8].copy_from_slice(&binding_request([0; 12])[..8]);
            let length = (framed.len() - HEADER) as u16;
            framed[2..4].copy_from_slice(&length.to_be_bytes());
            let _ = local_ufrag(&framed);
            framed[..2].copy_from_slice(&BINDING_SUCCESS.to_be_bytes());
            let _ = mapped_address(&framed, [0; 12]);
        }
    }
}
