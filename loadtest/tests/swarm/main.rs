//! The built binary against a real server in this process. Each test says what happens to the clients, and the report
//! has to show it.
#![allow(missing_docs)]

mod agents;
mod harness;
mod machines;
mod runs;
mod schema;
mod usage;
