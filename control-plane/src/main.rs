//! The binary `chappe`: everything in one process, or the control plane beside media nodes.

fn main() {}
