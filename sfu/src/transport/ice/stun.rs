//! The two STUN messages that an ICE-lite agent needs: binding requests read, binding responses written (RFC 8489).

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;

/// What a binding request says, attributes after MESSAGE-INTEGRITY left out (RFC 8489 section 14.5).
#[derive(Clone, Copy, Debug)]
pub(super) struct BindingRequest<'a> {
    pub(super) transaction: [u8; 12],
    pub(super) username: &'a [u8],
    pub(super) use_candidate: bool,
    /// The peer takes itself for the controlled agent.
    pub(super) controlled: bool,
    /// Bytes that MESSAGE-INTEGRITY covers.
    covered: &'a [u8],
    integrity: &'a [u8],
}

/// What a message is when it is no well-formed binding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ParseError {
    Malformed,
    /// Another method or class.
    NotABindingRequest,
    /// No MESSAGE-INTEGRITY or no USERNAME.
    Unauthenticated,
}

impl<'a> BindingRequest<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, ParseError> {
        use ParseError::{Malformed, NotABindingRequest, Unauthenticated};
        let (header, mut rest) = message.split_at_checked(HEADER_LEN).ok_or(Malformed)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[4..8] != MAGIC || length != rest.len() || length % 4 != 0 {
            return Err(Malformed);
        }
        if header[..2] != BINDING_REQUEST {
            return Err(NotABindingRequest);
        }
        let mut username = None;
        let mut use_candidate = false;
        let mut controlled = false;
        while !rest.is_empty() {
            let (head, body) = rest.split_at_checked(4).ok_or(Malformed)?;
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let value = body.get(..len).ok_or(Malformed)?;
            match kind {
                USERNAME => username = Some(value),
                USE_CANDIDATE => use_candidate = true,
                ICE_CONTROLLED => controlled = true,
                MESSAGE_INTEGRITY if len == INTEGRITY_LEN => {
                    let covered = &message[..message.len() - rest.len()];
                    return Ok(Self {
                        transaction: header[8..].try_into().map_err(|_| Malformed)?,
                        username: username.ok_or(Unauthenticated)?,
                        use_candidate,
                        controlled,
                        covered,
                        integrity: value,
                    });
                }
                MESSAGE_INTEGRITY => return Err(Malformed),
                _ => {}
            }
            rest = body.get(len.next_multiple_of(4)..).ok_or(Malformed)?;
        }
        Err(Unauthenticated)
    }

    /// Whether the request was made with `key` (the password of the one it is addressed to).
    pub(super) fn verify(&self, key: &hmac::Key) -> bool {
        let wanted = integrity(key, self.covered);
        aws_lc_rs::constant_time::verify_slices_are_equal(&wanted, self.integrity).is_ok()
    }
}

/// HMAC key of a short-term password (RFC 8489 section 9.1.1).
pub(super) fn integrity_key(pwd: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pwd.as_bytes())
}

/// A response. It has its bytes in itself: each peer checks every few seconds, and between its checks nothing else of a
/// steady load asks for memory.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Response {
    bytes: [u8; MAX_RESPONSE],
    len: usize,
}

impl Response {
    fn new(kind: [u8; 2], transaction: [u8; 12]) -> Self {
        let mut response = Self { bytes: [0; MAX_RESPONSE], len: 0 };
        for part in [&kind[..], &[0, 0], &MAGIC, &transaction] {
            response.push(part);
        }
        response
    }

    /// What does not fit is left out: all there are fit.
    fn push(&mut self, part: &[u8]) {
        let end = self.len + part.len();
        debug_assert!(end <= MAX_RESPONSE);
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place.copy_from_slice(part);
            self.len = end;
        }
    }

    fn push_attr(&mut self, kind: u16, len: usize, padded: &[u8]) {
        self.push(&kind.to_be_bytes());
        self.push(&(len as u16).to_be_bytes());
        self.push(padded);
    }
}

impl std::ops::Deref for Response {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Success response that tells the peer how it is seen.
pub(super) fn binding_success(
    transaction: [u8; 12],
    mapped: SocketAddr,
    key: &hmac::Key,
) -> Response {
    let mut value = [0; 20];
    value[1] = 1;
    value[2..4].copy_from_slice(&(mapped.port() ^ 0x2112).to_be_bytes());
    let mut mask = |octets: &[u8]| {
        let mask = MAGIC.iter().chain(&transaction);
        for ((place, octet), mask) in value[4..].iter_mut().zip(octets).zip(mask) {
            *place = octet ^ mask;
        }
        4 + octets.len()
    };
    // An IPv4 peer on a dual-stack socket knows itself by its IPv4 address.
    let len = match mapped.ip().to_canonical() {
        IpAddr::V4(ip) => mask(&ip.octets()),
        IpAddr::V6(ip) => {
            let len = mask(&ip.octets());
            value[1] = 2;
            len
        }
    };
    response(BINDING_SUCCESS, transaction, XOR_MAPPED_ADDRESS, &value[..len], len, key)
}

/// 487: the peer must take the controlling role, since a lite agent never can (RFC 8445 section 7.3.1.1).
pub(super) fn role_conflict(transaction: [u8; 12], key: &hmac::Key) -> Response {
    const VALUE: &[u8; 20] = b"\0\0\x04\x57Role Conflict\0\0\0";
    // 17 bytes of value, 3 of padding.
    response(BINDING_ERROR, transaction, ERROR_CODE, VALUE, 17, key)
}

fn response(
    kind: [u8; 2],
    transaction: [u8; 12],
    attr: u16,
    padded: &[u8],
    len: usize,
    key: &hmac::Key,
) -> Response {
    let mut out = Response::new(kind, transaction);
    out.push_attr(attr, len, padded);
    let tag = integrity(key, &out);
    out.push_attr(MESSAGE_INTEGRITY, INTEGRITY_LEN, &tag);
    let body_len = (out.len() - HEADER_LEN + 8) as u16;
    out.bytes[2..4].copy_from_slice(&body_len.to_be_bytes());
    let crc = crc32(&out) ^ 0x5354_554e;
    out.push_attr(FINGERPRINT, 4, &crc.to_be_bytes());
    out
}

/// HMAC over what precedes the attribute, with the length of a message that ends with it (RFC 8489 section 14.5).
fn integrity(key: &hmac::Key, covered: &[u8]) -> [u8; INTEGRITY_LEN] {
    let mut context = hmac::Context::with_key(key);
    let length = (covered.len() - HEADER_LEN + 4 + INTEGRITY_LEN) as u16;
    context.update(&covered[..2]);
    context.update(&length.to_be_bytes());
    context.update(&covered[4..]);
    let mut tag = [0; INTEGRITY_LEN];
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

/// CRC-32 of ISO 3309, as in PNG and zip. Bitwise: responses are some 80 bytes, a few a second.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

const HEADER_LEN: usize = 20;
const INTEGRITY_LEN: usize = 20;
/// A role conflict, or an IPv6 address: a value of 20 bytes, integrity, fingerprint.
const MAX_RESPONSE: usize = HEADER_LEN + 4 + 20 + 4 + INTEGRITY_LEN + 8;
const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const BINDING_ERROR: [u8; 2] = [0x01, 0x11];
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;

#[cfg(any(test, fuzzing))]
fn push_attr(out: &mut Vec<u8>, kind: u16, len: usize, padded: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(len as u16).to_be_bytes());
    out.extend_from_slice(padded);
}

/// For the fuzzer and tests: a check with these attributes, signed as its peer would.
#[cfg(any(test, fuzzing))]
pub fn fuzz_check(username: &str, pwd: &str, attributes: &[u8]) -> Vec<u8> {
    let mut out = [&BINDING_REQUEST[..], &[0, 0], &MAGIC, &[7; 12]].concat();
    let mut padded = username.as_bytes().to_vec();
    padded.resize(padded.len().next_multiple_of(4), 0);
    push_attr(&mut out, USERNAME, username.len(), &padded);
    out.extend_from_slice(&attributes[..attributes.len() & !3]);
    let tag = integrity(&integrity_key(pwd), &out);
    push_attr(&mut out, MESSAGE_INTEGRITY, INTEGRITY_LEN, &tag);
    let length = (out.len() - HEADER_LEN) as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use is::{
        DefaultSha1HmacProvider, Sha1HmacProvider,
        stun::{StunMessage, TransId},
    };
    use proptest::prelude::*;

    use super::*;

    fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
        DefaultSha1HmacProvider.sha1_hmac(key, parts)
    }

    fn request(use_candidate: bool, controlling: bool) -> Vec<u8> {
        let mut buf = vec![0; 500];
        let message = StunMessage::binding_request(
            "ours:theirs",
            TransId::new(),
            controlling,
            7,
            100,
            use_candidate,
        );
        let len = message.to_bytes(Some(b"password-of-ours"), &mut buf, hmac).unwrap();
        buf.truncate(len);
        buf
    }

    /// RFC 5769 section 2.1: sample request with short-term authentication.
    #[test]
    fn reads_the_sample_request() {
        let sample = hex("000100582112a442b7e7a701bc34d686fa87dfae802200105354554e2074657374\
             20636c69656e74002400046e0001ff80290008932ff9b151263b36000600096576\
             746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571\
             a280280004e57a3bcf");
        let request = BindingRequest::parse(&sample).unwrap();
        assert_eq!(request.username, b"evtj:h6vY");
        assert!(request.controlled);
        assert!(!request.use_candidate);
        assert!(request.verify(&integrity_key("VOkJxbRl1RmTxUk/WvJxBt")));
        assert!(!request.verify(&integrity_key("VOkJxbRl1RmTxUk/WvJxBu")));
    }

    #[test]
    fn reads_what_another_implementation_writes() {
        for (use_candidate, controlling) in [(true, true), (false, true), (false, false)] {
            let bytes = request(use_candidate, controlling);
            let parsed = BindingRequest::parse(&bytes).unwrap();
            assert_eq!(parsed.username, b"ours:theirs");
            assert_eq!(parsed.use_candidate, use_candidate);
            assert_eq!(parsed.controlled, !controlling);
            assert!(parsed.verify(&integrity_key("password-of-ours")));
        }
    }

    #[test]
    fn attributes_after_the_integrity_do_not_count() {
        let mut bytes = request(false, true);
        // In place of FINGERPRINT, the last 8 bytes.
        bytes.truncate(bytes.len() - 8);
        push_attr(&mut bytes, USE_CANDIDATE, 0, &[]);
        push_attr(&mut bytes, USE_CANDIDATE, 0, &[]);
        let parsed = BindingRequest::parse(&bytes).unwrap();
        assert!(parsed.verify(&integrity_key("password-of-ours")));
        assert!(!parsed.use_candidate);
    }

    #[test]
    fn another_implementation_reads_what_we_write() {
        let key = integrity_key("password-of-ours");
        for address in ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"] {
            let address: SocketAddr = address.parse().unwrap();
            let bytes = binding_success([7; 12], address, &key);
            let message = StunMessage::parse(&bytes).unwrap();
            assert!(message.is_successful_binding_response());
            assert!(message.verify(b"password-of-ours", hmac));
            assert_eq!(message.mapped_address(), Some(address));
        }
        let bytes = binding_success([7; 12], "[::ffff:192.0.2.1]:9".parse().unwrap(), &key);
        let message = StunMessage::parse(&bytes).unwrap();
        assert_eq!(message.mapped_address(), Some("192.0.2.1:9".parse().unwrap()), "mapped");
        let bytes = role_conflict([7; 12], &key);
        let message = StunMessage::parse(&bytes).unwrap();
        assert!(message.verify(b"password-of-ours", hmac));
        assert_eq!(message.error_code(), Some((487, "Role Conflict")));
    }

    /// RFC 5769 section 2.2, its FINGERPRINT.
    #[test]
    fn fingerprint_is_that_of_the_sample_response() {
        let sample = hex("0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563\
             746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f9\
             2af9ba53f06be7d780280004c07d4c96");
        let crc = crc32(&sample[..sample.len() - 8]) ^ 0x5354_554e;
        assert_eq!(crc.to_be_bytes(), sample[sample.len() - 4..]);
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), fix_header: bool) {
            if fix_header && bytes.len() >= HEADER_LEN {
                bytes.truncate(bytes.len() / 4 * 4);
                let len = (bytes.len() - HEADER_LEN) as u16;
                bytes[..2].copy_from_slice(&BINDING_REQUEST);
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[4..8].copy_from_slice(&MAGIC);
            }
            if let Ok(request) = BindingRequest::parse(&bytes) {
                request.verify(&integrity_key("x"));
            }
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..92, bit in 0u8..8) {
            let mut bytes = request(true, true);
            let end = bytes.len() - 8;
            let at = at % end;
            bytes[at] ^= 1 << bit;
            let passes = BindingRequest::parse(&bytes)
                .is_ok_and(|request| request.verify(&integrity_key("password-of-ours")));
            prop_assert!(!passes);
        }
    }
}
