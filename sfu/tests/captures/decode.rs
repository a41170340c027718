//! Pictures into files that a real decoder reads: libvpx and dav1d, through ffmpeg.

use std::process::Command;

use chappe_sfu::{rtp::CodecKind, wire::payload::Vp9Descriptor};

/// What a receiver hands to its decoder at once.
pub(crate) struct Picture {
    pub(crate) time: u32,
    /// Of its highest spatial layer.
    pub(crate) size: (u16, u16),
    /// By spatial layer, the payloads of its packets.
    pub(crate) frames: Vec<Vec<Vec<u8>>>,
}

/// Decodes the pictures: each comes out in its size, and the decoder complains about nothing.
pub(crate) fn decode(name: &str, kind: CodecKind, pictures: &[Picture]) {
    let (fourcc, decoder) = match kind {
        CodecKind::Vp9 => (b"VP90", "libvpx-vp9"),
        _ => (b"AV01", "libdav1d"),
    };
    let units: Vec<Vec<u8>> = pictures
        .iter()
        .map(|picture| match kind {
            CodecKind::Vp9 => vp9(picture),
            _ => av1(picture),
        })
        .collect();
    let file = std::env::temp_dir().join(format!(
        "chappe-{}-{:?}.ivf",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&file, ivf(*fourcc, &units)).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostats", "-xerror", "-threads", "1", "-c:v", decoder, "-i"])
        .arg(&file)
        .args(["-vf", "showinfo", "-autoscale", "0", "-fps_mode", "passthrough", "-f", "null", "-"])
        .output()
        .expect("ffmpeg is missing: run scripts/setup.sh");
    let _ = std::fs::remove_file(&file);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {log}");
    let complaint = log.lines().find(|line| {
        let line = line.to_ascii_lowercase();
        ["error", "invalid", "corrupt", "failed", "missing"].iter().any(|word| line.contains(word))
    });
    assert_eq!(complaint, None, "{name}");
    let sizes: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("showinfo") && line.contains(" pts:"))
        .filter_map(|line| line.split(" s:").nth(1)?.split(' ').next())
        .collect();
    let expected: Vec<String> =
        pictures.iter().map(|picture| format!("{}x{}", picture.size.0, picture.size.1)).collect();
    assert_eq!(sizes, expected, "{name}");
}

/// The frames of all layers one behind the other, as browsers give them to libvpx.
fn vp9(picture: &Picture) -> Vec<u8> {
    let mut unit = Vec::new();
    for payload in picture.frames.iter().flatten() {
        let descriptor = Vp9Descriptor::parse(payload).unwrap();
        unit.extend_from_slice(&payload[descriptor.len..]);
    }
    unit
}

/// A temporal unit of the low-overhead format from OBU elements (RTP Payload Format For AV1, section 4.4).
fn av1(picture: &Picture) -> Vec<u8> {
    let mut unit = vec![0x12, 0x00];
    for frame in &picture.frames {
        let mut obus: Vec<Vec<u8>> = Vec::new();
        for payload in frame {
            let (aggregation, mut rest) = payload.split_first().unwrap();
            let count = aggregation >> 4 & 3;
            let mut index = 0;
            while !rest.is_empty() {
                index += 1;
                let len = if count != index { read_leb128(&mut rest) } else { rest.len() };
                let (element, behind) = rest.split_at(len);
                rest = behind;
                match obus.last_mut() {
                    Some(obu) if index == 1 && aggregation & 0x80 != 0 => obu.extend(element),
                    _ => obus.push(element.to_vec()),
                }
            }
        }
        for obu in obus {
            let header_len = if obu[0] & 0x04 != 0 { 2 } else { 1 };
            // Temporal delimiters stand once, in front.
            if obu[0] >> 3 & 15 == 2 {
                continue;
            }
            assert_eq!(obu[0] & 0x02, 0, "sizes are left out on the way");
            unit.push(obu[0] | 0x02);
            unit.extend_from_slice(&obu[1..header_len]);
            write_leb128(&mut unit, obu.len() - header_len);
            unit.extend_from_slice(&obu[header_len..]);
        }
    }
    unit
}

fn read_leb128(bytes: &mut &[u8]) -> usize {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn write_leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn ivf(fourcc: [u8; 4], units: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"DKIF\0\0\x20\0".to_vec();
    file.extend_from_slice(&fourcc);
    file.extend_from_slice(&1_280u16.to_le_bytes());
    file.extend_from_slice(&720u16.to_le_bytes());
    file.extend_from_slice(&10u32.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    file.extend_from_slice(&(units.len() as u32).to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    for (index, unit) in units.iter().enumerate() {
        file.extend_from_slice(&(unit.len() as u32).to_le_bytes());
        file.extend_from_slice(&(index as u64).to_le_bytes());
        file.extend_from_slice(unit);
    }
    file
}
