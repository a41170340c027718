//! The contract in Rust: messages, clients and servers generated from `schema/`.
//!
//! [`v1`] is the public API of Chappe, [`node::v1`] what a control plane and a media node say to each other.
//! Units, errors and rules stand in the schema, beside what they describe.

/// All schemas as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The public API: rooms and participants.
#[allow(missing_docs, unreachable_pub, missing_debug_implementations)]
pub mod v1 {
    tonic::include_proto!("chappe.v1");
}

/// Control plane <-> media node.
pub mod node {
    /// First version of the node API.
    #[allow(missing_docs, unreachable_pub, missing_debug_implementations)]
    pub mod v1 {
        tonic::include_proto!("chappe.node.v1");
    }
}
