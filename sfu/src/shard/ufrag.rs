//! Local ICE user names: they say where a peer lives.

use rand::Rng;

use crate::room::ShardId;

/// ice-char of RFC 8839 section 5.4 has exactly 64 members.
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Random characters of a user name: 48 bits, twice what RFC 8839 asks.
const RANDOM_CHARS: usize = 8;

/// Characters of a password: 144 bits (RFC 8839 asks 128).
const PASSWORD_CHARS: usize = 24;

/// What a local user name tells: three characters of node generation, three of the shard, then eight random ones.
///
/// Whoever gets a STUN request (at the wrong socket, or as first message of a TCP connection) reads from it which shard
/// knows the peer, and whether the name was given by this life of the node at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ufrag {
    /// Drawn at each start of the node.
    pub node_generation: u16,
    /// Where the peer lives.
    pub shard: ShardId,
}

impl Ufrag {
    /// Characters of a local user name.
    pub const LEN: usize = 6 + RANDOM_CHARS;

    /// Reads the local part of a STUN USERNAME (before the colon). `None` for a name that no Chappe node gave.
    pub fn decode(local: &[u8]) -> Option<Self> {
        if local.len() != Self::LEN || !local.iter().all(|c| value(*c).is_some()) {
            return None;
        }
        let node_generation = decode_u16(local.get(..3)?)?;
        let shard = ShardId(decode_u16(local.get(3..6)?)?);
        Some(Self { node_generation, shard })
    }

    /// What the connectivity check in `datagram` says about where it belongs. For whoever has no shard's tables at hand;
    /// nothing is authenticated yet.
    pub fn of_check(datagram: &[u8]) -> Option<Self> {
        Self::decode(local_ufrag(datagram)?)
    }

    /// A new name with this meaning.
    pub(super) fn generate(self, random: &mut impl Rng) -> String {
        let mut text = String::with_capacity(Self::LEN);
        encode_u16(self.node_generation, &mut text);
        encode_u16(self.shard.0, &mut text);
        push_random(RANDOM_CHARS, random, &mut text);
        text
    }
}

/// The local part (ours) of the USERNAME of a STUN message (RFC 8489 sections 5 and 14.3).
pub(super) fn local_ufrag(message: &[u8]) -> Option<&[u8]> {
    let body = message.get(STUN_HEADER_LEN..)?;
    let mut rest = body;
    while let Some((header, tail)) = rest.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = tail.get(..len)?;
        if kind == STUN_USERNAME {
            return value.split(|c| *c == b':').next();
        }
        rest = tail.get(len.next_multiple_of(4)..)?;
    }
    None
}

const STUN_HEADER_LEN: usize = 20;
const STUN_USERNAME: u16 = 0x0006;

/// A new ICE password.
pub(super) fn generate_password(random: &mut impl Rng) -> String {
    let mut text = String::with_capacity(PASSWORD_CHARS);
    push_random(PASSWORD_CHARS, random, &mut text);
    text
}

/// A canonical name that tells nothing (RFC 7022 section 4.2).
pub(super) fn generate_name(random: &mut impl Rng) -> [u8; 16] {
    std::array::from_fn(|_| ICE_CHARS[random.random_range(0..ICE_CHARS.len())])
}

fn push_random(count: usize, random: &mut impl Rng, text: &mut String) {
    for _ in 0..count {
        text.push(char::from(ICE_CHARS[random.random_range(0..ICE_CHARS.len())]));
    }
}

fn encode_u16(number: u16, text: &mut String) {
    for shift in [12, 6, 0] {
        text.push(char::from(ICE_CHARS[usize::from(number >> shift) & 0x3f]));
    }
}

fn decode_u16(chars: &[u8]) -> Option<u16> {
    let mut number = 0_u32;
    for c in chars {
        number = number << 6 | u32::from(value(*c)?);
    }
    u16::try_from(number).ok()
}

fn value(c: u8) -> Option<u8> {
    match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    proptest! {
        #[test]
        fn a_name_tells_what_was_put_in(node_generation: u16, shard: u16, seed: u64) {
            let meaning = Ufrag { node_generation, shard: ShardId(shard) };
            let name = meaning.generate(&mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(name.len(), Ufrag::LEN);
            prop_assert_eq!(Ufrag::decode(name.as_bytes()), Some(meaning));
        }

        #[test]
        fn noise_is_refused_without_a_panic(noise: Vec<u8>) {
            if noise.len() != Ufrag::LEN {
                prop_assert_eq!(Ufrag::decode(&noise), None);
            }
        }
    }

    #[test]
    fn names_of_others_are_refused() {
        assert_eq!(Ufrag::decode(b"short"), None);
        assert_eq!(Ufrag::decode(b"AAAAAAxxxxxxx!"), None, "not an ice-char");
        assert_eq!(Ufrag::decode(b"///AAAxxxxxxxx"), None, "a generation above 16 bits");
    }

    #[test]
    fn the_name_is_found_in_a_check() {
        let mut check = vec![0; STUN_HEADER_LEN];
        check.extend_from_slice(&[0x80, 0x22, 0, 1, b'x', 0, 0, 0]);
        check.extend_from_slice(&[0, 6, 0, 9]);
        check.extend_from_slice(b"abcd:wxyz\0\0\0");
        assert_eq!(local_ufrag(&check), Some(&b"abcd"[..]));
        for cut in 0..check.len() - 3 {
            assert_eq!(local_ufrag(&check[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn passwords_are_long_and_new_each_time() {
        let mut random = StdRng::seed_from_u64(1);
        let (a, b) = (generate_password(&mut random), generate_password(&mut random));
        assert_eq!(a.len(), PASSWORD_CHARS);
        assert_ne!(a, b);
    }
}
