//! The two containers of the shipped loops. They read our own files: malformed ones end the list early.

/// Frames of an IVF file: a header that says its own length, then frames of 12 bytes of header each.
pub(super) fn ivf(file: &'static [u8]) -> Vec<&'static [u8]> {
    let Some(header) = file.get(6..8) else { return Vec::new() };
    let mut at = usize::from(u16::from_le_bytes([header[0], header[1]]));
    let mut frames = Vec::new();
    while let Some(size) = file.get(at..at + 4) {
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        let Some(frame) = file.get(at + 12..at + 12 + size) else { break };
        frames.push(frame);
        at += 12 + size;
    }
    frames
}

/// Packets of an Ogg file with one stream (RFC 3533). Packets that span pages are left out: Opus packets of 20 ms do not.
pub(super) fn ogg_packets(file: &'static [u8]) -> Vec<&'static [u8]> {
    let mut packets = Vec::new();
    let mut page = file;
    while page.starts_with(b"OggS") {
        let Some(count) = page.get(26).map(|count| usize::from(*count)) else { break };
        let Some(table) = page.get(27..27 + count) else { break };
        let (mut at, mut size) = (27 + count, 0);
        for lacing in table {
            size += usize::from(*lacing);
            if *lacing < 255 {
                if let Some(packet) = page.get(at..at + size) {
                    packets.push(packet);
                }
                at += size;
                size = 0;
            }
        }
        let Some(next) = page.get(at + size..) else { break };
        page = next;
    }
    packets
}
