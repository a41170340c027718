//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::redacted::Redacted;

/// Measures a room server that speaks the LiveKit client protocol: plays clients, reports what they see.
#[derive(Parser, Debug)]
#[command(name = "chappe-loadtest", version)]
#[command(after_help = "Examples:
  chappe-loadtest presets
  chappe-loadtest run meeting --start-server
  chappe-loadtest run livestream --set subscribers=500 --url http://sfu:7880 --api-key KEY --api-secret SECRET
  chappe-loadtest run meeting --start-server --json --fail-if 'p99_latency_ms > 50' > report.json
  chappe-loadtest compare before.json after.json
  CHAPPE_SWARM_SECRET=... chappe-loadtest agent --listen 0.0.0.0:7990
  CHAPPE_SWARM_SECRET=... chappe-loadtest coordinator livestream --agent host1:7990,host2:7990 --url http://sfu:7880")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant)] // There is one.
pub(crate) enum Command {
    /// Run a preset or a scenario file.
    Run(RunArgs),
    /// Raise the load until an objective breaks; say the last load that held.
    FindCapacity(CapacityArgs),
    /// Two reports (JSON) side by side.
    Compare(CompareArgs),
    /// Wait for a coordinator and play the clients that it gives to this machine.
    Agent(AgentArgs),
    /// Run a preset or a scenario file on several agents, into one report.
    Coordinator(CoordinatorArgs),
    /// List the presets.
    Presets,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Name of a preset, or a YAML file.
    pub(crate) scenario: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) out: OutputArgs,
    #[command(flatten)]
    pub(crate) workers: WorkerArgs,
}

/// Where the report goes, and what it decides.
#[derive(Args, Debug)]
pub(crate) struct OutputArgs {
    /// Print the report as JSON, alone, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the report as JSON into a file as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write the report as one HTML page with plots.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// End with exit code 1 when this holds, for example 'p99_latency_ms > 50'. May be repeated.
    #[arg(long, value_name = "CONDITION")]
    pub(crate) fail_if: Vec<String>,
}

/// Who plays the clients of a process.
#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    /// Threads that play clients [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: Option<u16>,
}

/// What an agent needs to know.
#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    /// Address and port to wait at.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:7990")]
    pub(crate) listen: String,
    #[command(flatten)]
    pub(crate) secret: SecretArgs,
    /// Clients that a coordinator may ask for.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(crate) max_clients: u64,
    #[command(flatten)]
    pub(crate) workers: WorkerArgs,
}

/// A run on agents.
#[derive(Args, Debug)]
pub(crate) struct CoordinatorArgs {
    /// Name of a preset, or a YAML file.
    pub(crate) scenario: String,
    /// An agent. May be repeated, or several with commas.
    #[arg(long = "agent", value_name = "HOST:PORT", required = true, value_delimiter = ',')]
    pub(crate) agents: Vec<String>,
    #[command(flatten)]
    pub(crate) secret: SecretArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) out: OutputArgs,
}

/// What agents and their coordinator share.
#[derive(Args, Debug)]
pub(crate) struct SecretArgs {
    /// The secret, 16 random characters or more.
    #[arg(long, env = "CHAPPE_SWARM_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub(crate) swarm_secret: Option<Redacted>,
    /// A file that holds it.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
}

/// What is searched.
#[derive(Args, Debug)]
pub(crate) struct CapacityArgs {
    /// Name of a preset, or a YAML file.
    pub(crate) scenario: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    /// Field of the scenario that is raised (a number of people or rooms).
    #[arg(long, default_value = "subscribers")]
    pub(crate) field: String,
    /// What has to hold, separated by commas.
    #[arg(long, default_value = "p99_latency_ms < 50, loss_percent < 0.1")]
    pub(crate) objective: String,
    /// First load.
    #[arg(long, default_value_t = 10)]
    pub(crate) from: u64,
    /// Largest load to try.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) workers: WorkerArgs,
    /// Print the outcome as JSON, alone, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which reports.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// The first report.
    pub(crate) a: PathBuf,
    /// The second one.
    pub(crate) b: PathBuf,
    /// Show figures that are equal, too.
    #[arg(long)]
    pub(crate) all: bool,
}

/// Which server.
#[derive(Args, Debug, Clone)]
pub(crate) struct ServerArgs {
    /// URL of the server (http, https, ws or wss) [env: LIVEKIT_URL].
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// API key that tokens are signed with [env: LIVEKIT_API_KEY].
    #[arg(long)]
    pub(crate) api_key: Option<String>,
    /// Its secret [env: LIVEKIT_API_SECRET].
    #[arg(long)]
    pub(crate) api_secret: Option<Redacted>,
    /// Start a local chappe for the run, and measure it.
    #[arg(long, conflicts_with_all = ["url", "server_pid", "metrics_url"])]
    pub(crate) start_server: bool,
    /// Process of a server on this machine, for its CPU time and memory.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// The server's metrics, for example http://127.0.0.1:7889/metrics.
    #[arg(long, value_name = "URL")]
    pub(crate) metrics_url: Option<String>,
    /// PEM file of certificates to trust instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// How it is run.
#[derive(Args, Debug, Clone)]
pub(crate) struct TuningArgs {
    /// Override a field of the scenario. May be repeated.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
    /// Length of the measured window, for example 20s.
    #[arg(long, value_name = "TIME")]
    pub(crate) duration: Option<String>,
    /// No progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
