//! The swarm: a load tester for any room server that speaks the LiveKit client protocol. It shares no media code with
//! the server: its clients run on str0m.
//!
//! ```text
//! app -> swarm -> client -> { measure, media, scenario }
//!     |       \\-> remote (agents) -> swarm's workers
//!     \\-> output -> report -> measure
//! ```

mod app;
mod capacity;
mod cli;
mod client;
mod fetch;
mod live;
mod measure;
mod media;
mod output;
mod redacted;
mod remote;
mod report;
mod scenario;
mod server;
mod swarm;
mod usage;

use std::process::ExitCode;

use clap::Parser;

/// The program.
pub fn main() -> ExitCode {
    // Several crates could bring one: say which before the first handshake.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let filter = tracing_subscriber::EnvFilter::try_from_env("CHAPPE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = logs.try_init();
    app::run(cli::Cli::parse())
}
