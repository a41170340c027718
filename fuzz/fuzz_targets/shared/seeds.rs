//! Inputs to begin with, which each target writes in its own form: they keep up with it.

use std::path::PathBuf;

/// Writes them where the run asks for it (`smoke.sh`).
pub(crate) fn write(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(place) = std::env::var_os("CHAPPE_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (number, seed) in seeds().into_iter().enumerate() {
        std::fs::write(place.join(format!("seed-{number}")), seed).expect("the corpus takes files");
    }
}
