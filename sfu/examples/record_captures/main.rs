//! Makes the captures in `tests/captures` anew from stock Chromium: `cargo run -p chappe-sfu --example record_captures`.

mod browser;
#[path = "../../tests/captures/recorded.rs"]
mod recorded;
mod repair;

use std::time::Duration;

use recorded::{CAPTURES, RED, RTX, Recorded, place, place_of};

fn main() {
    let repair = repair::record();
    for (name, packets) in [(RED, &repair.red), (RTX, &repair.video)] {
        eprintln!("{name}: {} packets", packets.len());
        std::fs::write(place_of(name), recorded::frame(packets)).unwrap();
    }
    // `record_captures repair` makes no others.
    if std::env::args().nth(1).as_deref() == Some("repair") {
        return;
    }
    for (codec, mode) in CAPTURES {
        let mut recorded = browser::record(
            codec,
            mode,
            if codec == "av1" { 700_000 } else { 1_000_000 },
            Duration::from_millis(3_400),
        );
        recorded.sort_by_key(|packet| packet.seq);
        recorded.dedup_by_key(|packet| packet.seq);
        let mut bytes = Vec::new();
        // Whole pictures, and no more than a fixture should have.
        let mut whole = 0;
        for packet in &recorded {
            write(packet, &mut bytes);
            if packet.marker && bytes.len() <= 300_000 {
                whole = bytes.len();
            }
        }
        bytes.truncate(whole);
        eprintln!("{codec} {mode}: {} packets, {} bytes", recorded.len(), bytes.len());
        std::fs::write(place(codec, mode), bytes).unwrap();
    }
}

/// As [`Recorded`] says.
fn write(packet: &Recorded, out: &mut Vec<u8>) {
    out.extend_from_slice(&(packet.payload.len() as u16).to_be_bytes());
    out.extend_from_slice(&packet.seq.to_be_bytes());
    out.extend_from_slice(&packet.time.to_be_bytes());
    out.push(packet.marker.into());
    out.push(packet.descriptor.len() as u8);
    out.extend_from_slice(&packet.descriptor);
    out.extend_from_slice(&packet.payload);
}
