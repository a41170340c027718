//! Vectors of the RFCs, round trips, and another implementation in both directions.

use proptest::prelude::*;
use rtc::srtp::{
    context::Context, option::srtp_replay_protection, protection_profile::ProtectionProfile,
};

use super::{cipher::Cipher, *};
use crate::rtp::SeqNo;

const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::AesCm128HmacSha1_80];

const SSRC: u32 = 0x5501_a0b2;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn keys(profile: SrtpProfile) -> SrtpKeys {
    let key: Vec<u8> = (0..profile.key_len() as u8).map(|i| i.wrapping_mul(37) ^ 0x5a).collect();
    let salt: Vec<u8> = (0..profile.salt_len() as u8).map(|i| i.wrapping_mul(11) ^ 0xc3).collect();
    SrtpKeys::new(profile, &key, &salt).unwrap()
}

fn oracle(profile: SrtpProfile) -> Context {
    let keys = keys(profile);
    let theirs = match profile {
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        SrtpProfile::AesCm128HmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
    };
    let provider = rtc::crypto::default_provider().unwrap();
    let (key, salt) = keys.raw();
    Context::new(key, salt, theirs, Some(srtp_replay_protection(64)), None, provider.crypto())
        .unwrap()
}

/// Version 2, optionally with a one-word extension and a CSRC.
fn rtp(seq: SeqNo, rich: bool, payload: &[u8]) -> (Vec<u8>, usize) {
    let mut packet = vec![if rich { 0x91 } else { 0x80 }, 96];
    packet.extend_from_slice(&seq.seq16().0.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 1, 0]);
    packet.extend_from_slice(&SSRC.to_be_bytes());
    if rich {
        packet.extend_from_slice(&[1, 2, 3, 4, 0xbe, 0xde, 0, 1, 0x10, 0xff, 0, 0]);
    }
    let header_len = packet.len();
    packet.extend_from_slice(payload);
    (packet, header_len)
}

fn sealed(egress: &SrtpEgress, seq: SeqNo, rich: bool, payload: &[u8]) -> Vec<u8> {
    let (mut packet, header_len) = rtp(seq, rich, payload);
    packet.resize(packet.len() + egress.profile().rtp_overhead(), 0);
    assert_eq!(egress.seal_rtp(seq, header_len, &mut packet), Ok(packet.len()));
    packet
}

fn rtcp(fill: u8) -> Vec<u8> {
    let mut packet = vec![0x80, 200, 0, 6];
    packet.extend_from_slice(&SSRC.to_be_bytes());
    packet.extend_from_slice(&[fill; 20]);
    packet
}

fn pair(profile: SrtpProfile) -> (SrtpEgress, SrtpIngress) {
    let keys = keys(profile);
    (SrtpEgress::new(&keys).unwrap(), SrtpIngress::new(&keys).unwrap())
}

/// RFC 3711 appendix B.3.
#[test]
fn session_keys_are_those_of_rfc_3711() {
    let keys = SrtpKeys::new(
        SrtpProfile::AesCm128HmacSha1_80,
        &hex("E1F97A0D3E018BE0D64FA32C06DE4139"),
        &hex("0EC675AD498AFEEBB6960B3AABE6"),
    )
    .unwrap();
    let mut key = [0; 16];
    let prf = keys.prf().unwrap();
    keys.derive(&prf, 0, &mut key).unwrap();
    assert_eq!(key[..], hex("C61E7A93744F39EE10734AFE3FF7A087"));
    let mut salt = [0; 14];
    keys.derive(&prf, 2, &mut salt).unwrap();
    assert_eq!(salt[..], hex("30CBBC08863D8C85D49DB34A9AE1"));
    // The RFC derives 94 bytes, of which HMAC-SHA1 uses 20.
    let mut auth = [0; 20];
    keys.derive(&prf, 1, &mut auth).unwrap();
    assert_eq!(auth[..], hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"));
}

/// RFC 3711 appendix B.2: the keystream for SSRC 0 and index 0, seen through a payload of zeros.
#[test]
fn keystream_is_that_of_rfc_3711() {
    let cipher = Cipher::new(
        SrtpProfile::AesCm128HmacSha1_80,
        &hex("2B7E151628AED2A6ABF7158809CF4F3C"),
        &hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD"),
        &[0; 20],
    )
    .unwrap();
    let mut packet = vec![0; 12 + 48 + CM_TAG_LEN];
    cipher.seal_rtp(0, 0, 12, &mut packet).unwrap();
    assert_eq!(
        packet[12..60],
        hex("E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB
             41E95B3BB0A2E8DD477901E4FCA894C0")
    );
}

struct GcmVector {
    profile: SrtpProfile,
    key: &'static str,
    rtp: &'static str,
    rtcp: &'static str,
}

/// RFC 7714 sections 16.1.1, 16.2.1 (RTP), 17.1 and 17.3 (RTCP). The RTCP packets are sealed for the plain text that
/// the implementations agree on.
#[test]
fn gcm_packets_are_those_of_rfc_7714() {
    let plain_rtp = hex("8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e6973206469766973
         6120696e207061727465732074726573");
    let plain_rtcp = hex("81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61
         deadbeefdeadbeefdeadbeefdeadbeefdeadbeef");
    let vectors = [
        GcmVector {
            profile: SrtpProfile::AeadAes128Gcm,
            key: "000102030405060708090a0b0c0d0e0f",
            rtp: "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd5
                  0d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
            rtcp: "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32d
                   c676a5f1730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf872
                   45d9eade800005d4",
        },
        GcmVector {
            profile: SrtpProfile::AeadAes256Gcm,
            key: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            rtp: "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab1801238
                  9a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
            rtcp: "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50
                   a2eaa5c1110555be8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6c
                   b26ac3be800005d4",
        },
    ];
    for vector in vectors {
        let salt = hex("517569642070726f2071756f");
        let cipher = Cipher::new(vector.profile, &hex(vector.key), &salt, &[]).unwrap();
        let mut packet = [&plain_rtp[..], &[0; GCM_TAG_LEN]].concat();
        cipher.seal_rtp(SSRC, 0xf17b, 12, &mut packet).unwrap();
        assert_eq!(packet, hex(vector.rtp), "{}", vector.profile);
        assert_eq!(cipher.open_rtp(SSRC, 0xf17b, 12, &mut packet), Ok(plain_rtp.len()));
        assert_eq!(packet[..plain_rtp.len()], plain_rtp);

        let mut packet = [&plain_rtcp[..], &[0; GCM_TAG_LEN + RTCP_INDEX_LEN]].concat();
        cipher.seal_rtcp(0x5d4, &mut packet).unwrap();
        assert_eq!(packet, hex(vector.rtcp), "{}", vector.profile);
        assert_eq!(cipher.open_rtcp(&mut packet), Ok(plain_rtcp.len()));
        assert_eq!(packet[..plain_rtcp.len()], plain_rtcp);
    }
}

#[test]
fn another_implementation_opens_what_we_seal() {
    for profile in PROFILES {
        let (mut egress, _) = pair(profile);
        let mut theirs = oracle(profile);
        // Over the wrap of the sequence number.
        for seq in (65_500..65_600).map(SeqNo) {
            let rich = seq.0 % 2 == 0;
            let payload = vec![seq.0 as u8; seq.0 as usize % 90];
            let packet = sealed(&egress, seq, rich, &payload);
            let plain = theirs.decrypt_rtp(&packet).unwrap();
            assert_eq!(plain[..], rtp(seq, rich, &payload).0, "{profile} {seq}");
        }
        for fill in 0..5 {
            let mut packet = rtcp(fill);
            packet.resize(packet.len() + profile.rtcp_overhead(), 0);
            egress.seal_rtcp(&mut packet).unwrap();
            assert_eq!(theirs.decrypt_rtcp(&packet).unwrap()[..], rtcp(fill), "{profile}");
        }
    }
}

#[test]
fn we_open_what_another_implementation_seals() {
    for profile in PROFILES {
        let (_, mut ingress) = pair(profile);
        let mut theirs = oracle(profile);
        for seq in (65_500..65_600).map(SeqNo) {
            let (plain, _) = rtp(seq, seq.0 % 2 == 0, &[7; 50]);
            let mut packet = theirs.encrypt_rtp(&plain).unwrap().to_vec();
            let len = ingress.unprotect_rtp(&mut packet).unwrap();
            assert_eq!(packet[..len], plain, "{profile} {seq}");
        }
        for fill in 0..5 {
            let mut packet = theirs.encrypt_rtcp(&rtcp(fill)).unwrap().to_vec();
            let len = ingress.unprotect_rtcp(&mut packet).unwrap();
            assert_eq!(packet[..len], rtcp(fill), "{profile}");
        }
    }
}

#[test]
fn packets_pass_once_and_only_untouched() {
    for profile in PROFILES {
        let (mut egress, mut ingress) = pair(profile);
        let packet = sealed(&egress, SeqNo(10), true, b"payload");
        for at in 0..packet.len() {
            let mut tampered = packet.clone();
            tampered[at] ^= 0x01;
            assert!(ingress.unprotect_rtp(&mut tampered).is_err(), "{profile} byte {at}");
        }
        assert!(ingress.unprotect_rtp(&mut packet.clone()).is_ok(), "{profile}");
        assert_eq!(ingress.unprotect_rtp(&mut packet.clone()), Err(SrtpError::Replayed));

        let mut packet = rtcp(1);
        packet.resize(packet.len() + profile.rtcp_overhead(), 0);
        egress.seal_rtcp(&mut packet).unwrap();
        for at in 0..packet.len() {
            let mut tampered = packet.clone();
            tampered[at] ^= 0x80;
            assert!(ingress.unprotect_rtcp(&mut tampered).is_err(), "{profile} byte {at}");
        }
        assert!(ingress.unprotect_rtcp(&mut packet.clone()).is_ok(), "{profile}");
        assert_eq!(ingress.unprotect_rtcp(&mut packet), Err(SrtpError::Replayed));
    }
}

#[test]
fn a_forged_packet_moves_neither_window_nor_rollover() {
    for profile in PROFILES {
        let (egress, mut ingress) = pair(profile);
        ingress.unprotect_rtp(&mut sealed(&egress, SeqNo(100), false, b"a")).unwrap();
        let mut forged = sealed(&egress, SeqNo(20_000), false, b"b");
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert_eq!(ingress.unprotect_rtp(&mut forged), Err(SrtpError::Authentication));
        assert!(ingress.unprotect_rtp(&mut sealed(&egress, SeqNo(99), false, b"c")).is_ok());
        assert!(ingress.unprotect_rtp(&mut sealed(&egress, SeqNo(101), false, b"d")).is_ok());
    }
}

#[test]
fn streams_are_bounded_and_the_silent_one_goes() {
    let (egress, mut ingress) = pair(SrtpProfile::AeadAes128Gcm);
    let mut first = sealed(&egress, SeqNo(1), false, b"x");
    ingress.unprotect_rtp(&mut first).unwrap();
    for ssrc in 0..300_u32 {
        let (mut packet, header_len) = rtp(SeqNo(1), false, b"x");
        packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
        packet.resize(packet.len() + 16, 0);
        egress.seal_rtp(SeqNo(1), header_len, &mut packet).unwrap();
        ingress.unprotect_rtp(&mut packet).unwrap();
        // The stream that goes on is kept.
        let mut alive = sealed(&egress, SeqNo(2 + u64::from(ssrc)), false, b"x");
        ingress.unprotect_rtp(&mut alive).unwrap();
    }
    assert_eq!(ingress.forgotten_ssrcs(), 300 + 1 - 256);
    let mut replayed = sealed(&egress, SeqNo(200), false, b"x");
    assert_eq!(ingress.unprotect_rtp(&mut replayed), Err(SrtpError::Replayed));
}

#[test]
fn keys_of_both_roles_fit_together() {
    for profile in PROFILES {
        let material: Vec<u8> = (0..2 * (profile.key_len() + profile.salt_len()) as u8).collect();
        let (client, server) = SrtpKeys::from_dtls(profile, &material).unwrap();
        assert_eq!(client.raw().0[..], material[..profile.key_len()]);
        assert_eq!(server.raw().0[0], profile.key_len() as u8);
        assert_eq!(server.raw().1.last(), material.last());
        assert!(SrtpKeys::from_dtls(profile, &material[1..]).is_err());
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens(
        profile in prop::sample::select(&PROFILES[..]),
        start in 0u64..65_536,
        rich: bool,
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
    ) {
        let (egress, mut ingress) = pair(profile);
        for (i, payload) in payloads.iter().enumerate() {
            let seq = SeqNo(start + 3_000 * i as u64);
            let mut packet = sealed(&egress, seq, rich, payload);
            if !payload.is_empty() && payload.len() > 8 {
                prop_assert!(!packet.windows(payload.len()).any(|window| window == payload));
            }
            let len = ingress.unprotect_rtp(&mut packet).unwrap();
            prop_assert_eq!(&packet[..len], &rtp(seq, rich, payload).0[..]);
        }
    }

    #[test]
    fn no_bytes_panic(
        profile in prop::sample::select(&PROFILES[..]),
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        header_len in 0usize..100,
    ) {
        let (mut egress, mut ingress) = pair(profile);
        prop_assert!(ingress.unprotect_rtp(&mut bytes.clone()).is_err());
        prop_assert!(ingress.unprotect_rtcp(&mut bytes.clone()).is_err());
        let _ = egress.seal_rtcp(&mut bytes.clone());
        if let Some(seq) = bytes.get(2..4) {
            let seq = SeqNo(u64::from(u16::from_be_bytes([seq[0], seq[1]])));
            let _ = egress.seal_rtp(seq, header_len, &mut bytes.clone());
        }
    }
}
