//! What the benchmarks share: a client that is as cheap as one can be, the floor, and ways to count.
//!
//! The client uses none of the node's codecs: a mistake that both sides share would not show.

pub mod alloc;
pub mod client;
pub mod cores;
pub mod cpu;
pub mod floor;
pub mod handshake;
pub mod packet;
pub mod port;
pub mod report;
pub mod rig;
pub mod rmcat;
pub mod room;
pub mod rtcp;
pub mod sink;
pub mod srtp;
pub mod stun;
pub mod turn_cost;
pub mod world;
