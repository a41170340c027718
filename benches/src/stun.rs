//! The one STUN message that a client of an ICE-lite node needs (RFC 8445, RFC 8489).

use aws_lc_rs::hmac;

/// A binding request that nominates its path. `key` is the node's password.
pub fn binding_request(username: &str, key: &hmac::Key, transaction: [u8; 12]) -> Vec<u8> {
    let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    message.extend_from_slice(&transaction);
    attribute(&mut message, 0x0006, username.as_bytes());
    attribute(&mut message, 0x0024, &0x6eff_ffff_u32.to_be_bytes());
    attribute(&mut message, 0x802a, &[0x5a; 8]);
    attribute(&mut message, 0x0025, &[]);
    // The length counts the attribute that is to come.
    let length = (message.len() - 20 + 24) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
    let tag = hmac::sign(key, &message);
    attribute(&mut message, 0x0008, tag.as_ref());
    message
}

/// Whether a datagram is the success response to a binding request.
pub fn is_binding_success(datagram: &[u8]) -> bool {
    datagram.starts_with(&[1, 1]) && datagram.get(4..8) == Some(&[0x21, 0x12, 0xa4, 0x42])
}

/// HMAC key of a short-term password.
pub fn integrity_key(password: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&(value.len() as u16).to_be_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}
