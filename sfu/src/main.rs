//! The media node on its own: `chappe-sfu`.

fn main() {}
