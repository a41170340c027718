//! What the outside asks over HTTP and gRPC: request -> room command -> reply, no rules.

pub mod page;
