//! The binary `chappe`: everything in one process, or the control plane beside media nodes.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use chappe::{
    app::App,
    auth::{Grants, Keys},
    config::{Cli, Command, Config, RawConfig, TokenArgs},
};
use chappe_sfu::telemetry::log;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let nodes = match &cli.command {
        Some(Command::Control(nodes)) => Some(nodes),
        _ => None,
    };
    let raw = match &cli.run.config {
        Some(path) => RawConfig::read(path),
        None => Ok(RawConfig::default()),
    };
    let config = match raw.and_then(|raw| raw.check(&cli.run, nodes)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("chappe: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match &cli.command {
        Some(Command::Token(args)) => token(&config, args),
        Some(Command::CheckConfig) => Ok(()),
        Some(Command::Control(_)) | None => run(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chappe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn token(config: &Config, args: &TokenArgs) -> Result<(), String> {
    let pairs = config.keys.iter().map(|(key, secret)| (key.clone(), secret.reveal().to_owned()));
    let keys = Keys::new(pairs)
        .map_err(|_| "a token is signed with an API key: give --key KEY:SECRET or --config")?;
    let mut grants = Grants::to_join(&args.room, &args.identity);
    if let Some(name) = &args.name {
        grants.name.clone_from(name);
    }
    if args.watch_only {
        grants.video.can_publish = Some(false);
    }
    if args.room_admin {
        grants.video.room_admin = true;
        grants.video.room_create = true;
        grants.video.room_list = true;
    }
    // A negative life is one that ended so long ago.
    let seconds = Duration::from_secs(args.valid_for.unsigned_abs());
    let (life, from) = if args.valid_for < 0 {
        (Duration::from_secs(1), SystemTime::now() - seconds - Duration::from_secs(1))
    } else {
        (seconds, SystemTime::now())
    };
    let token = keys.mint(&grants, life, from).ok_or("no API key")?;
    println!("{token}");
    Ok(())
}

fn run(config: &Config) -> Result<(), String> {
    // Several crates could bring one: say which before the first handshake.
    let _ = rustls::crypto::ring::default_provider().install_default();
    log::start(&config.log_filter, config.log_json)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers(config))
        .max_blocking_threads(workers(config).max(4))
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?
        .block_on(serve(config))
}

/// Threads of all that is not media. Beside media threads, which have a core each, half of the cores are enough: a burst of
/// joins leaves room for media, and fewer threads wake each other less.
fn workers(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let beside_media = config.nodes.is_empty();
    if beside_media { (cores / 2).max(1) } else { cores }
}

async fn serve(config: &Config) -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|error| error.to_string());
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let app = App::start(config).await?;
    banner(config, &app);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    app.stop().await;
    Ok(())
}

/// What a person needs after the start, on standard output.
fn banner(config: &Config, app: &App) {
    println!("\n  Chappe {} is running.\n", env!("CARGO_PKG_VERSION"));
    if !chappe::api::page::is_built() {
        println!(
            "  The meeting page was left out of this build (Node.js 20.19 or newer builds it)."
        );
    }
    println!("  Meeting page     {}?room=demo", app.page);
    if let Some(page) = &app.page_on_network {
        println!(
            "  On your network  {page}?room=demo   (the browser warns about the certificate: accept it)"
        );
    }
    if config.dev {
        println!(
            "\n  DEVELOPMENT MODE: whoever opens the page gets a token. Give API keys for anything else (--help)."
        );
        if config.keys.is_empty() {
            for (key, secret) in app.keys().iter() {
                println!("  API key {key}, secret {} (made at this start)", secret.reveal());
            }
        }
    }
    println!();
}
