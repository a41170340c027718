//! The swarm.

fn main() {}
