//! What the benchmarks share.

pub mod rmcat;
