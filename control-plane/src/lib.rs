//! Chappe's control plane: rooms, signalling, APIs, auth and placement.
//!
//! ```text
//! main -> { api, signal } -> room -> { node, store } -> proto
//! ```
//!
//! `auth` is read by `api` and `signal`; SDP is known to `signal` only.

pub mod api;
pub mod app;
pub mod auth;
pub mod config;
pub mod node;
pub mod room;
pub mod server;
pub mod signal;
pub mod store;
pub mod telemetry;
