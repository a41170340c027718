//! What the commands do.

use std::{
    io::{IsTerminal, Write},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::ExitCode,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::{
    capacity::{self, Capacity, Search, Step},
    cli::{CapacityArgs, Cli, Command, CompareArgs, RunArgs, ServerArgs, TuningArgs},
    client::ws::{ConnectError, Target, tls_connector},
    measure::Process,
    report::{self, Condition, Report},
    scenario::{self, Scenario},
    server::LocalServer,
    swarm::{Lead, Phase, Progress},
};

/// Errors of usage are one line each and end with this code.
const USAGE: u8 = 2;

/// A cause that keeps the run from making sense.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl From<String> for Usage {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Runs a command to its exit code.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(cli)),
        Err(error) => Err(Usage(error.to_string())),
    };
    match done {
        Ok(code) => code,
        Err(Usage(text)) => {
            eprintln!("chappe-loadtest: {text}");
            ExitCode::from(USAGE)
        }
    }
}

async fn dispatch(cli: Cli) -> Result<ExitCode, Usage> {
    match cli.command {
        Command::Run(args) => run_scenario(args).await,
        Command::FindCapacity(args) => find_capacity(args).await,
        Command::Compare(args) => compare(&args).map(|()| ExitCode::SUCCESS),
        Command::Presets => {
            presets();
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn presets() {
    for (name, _) in scenario::presets() {
        let about = scenario::load(name, &[]).map(|scenario| scenario.about).unwrap_or_default();
        println!("{name:<16} {about}");
    }
}

async fn run_scenario(args: RunArgs) -> Result<ExitCode, Usage> {
    let scenario = load(&args.scenario, &args.tuning)?;
    let conditions: Vec<Condition> =
        args.fail_if.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let server = Server::prepare(&args.server, &scenario).await?;
    let stop = stop_on_signals();
    let (report, refused) = measure(&scenario, &server, &args.tuning, &stop).await?;
    drop(server);
    publish(&report, &args)?;
    if let Some(refusal) = refused {
        return Err(Usage(refusal));
    }
    let mut code = ExitCode::SUCCESS;
    for condition in conditions {
        match condition.check(&report.figures) {
            Some((_, false)) => {}
            Some((value, true)) => {
                eprintln!("chappe-loadtest: failed: {condition} ({value})");
                code = ExitCode::FAILURE;
            }
            None => {
                let figure = condition.figure();
                return Err(Usage(format!(
                    "--fail-if {condition}: this run has no figure {figure}"
                )));
            }
        }
    }
    Ok(code)
}

/// The report, wherever it was asked for.
fn publish(report: &Report, args: &RunArgs) -> Result<(), Usage> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|error| Usage(format!("{}: {error}", path.display())))
    };
    if let Some(path) = &args.output {
        write(path, json(report)?)?;
    }
    if let Some(path) = &args.html {
        write(path, report::html(report))?;
    }
    let text = if args.json { json(report)? + "\n" } else { report::table(report) };
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Usage(error.to_string()))
}

async fn find_capacity(args: CapacityArgs) -> Result<ExitCode, Usage> {
    let objectives = Condition::list(&args.objective)?;
    // Shows mistakes before anything is started.
    let base = load(&args.scenario, &args.tuning)?;
    let loaded = |value: u64| {
        let mut tuning = args.tuning.clone();
        tuning.set.push(format!("{}={value}", args.field));
        load(&args.scenario, &tuning)
    };
    loaded(args.from)?;
    let server = Server::prepare(&args.server, &base).await?;
    let stop = stop_on_signals();
    let mut search = Search::new(args.from, args.limit);
    let mut capacity = Capacity {
        field: args.field.clone(),
        objective: args.objective.clone(),
        capacity: None,
        at_limit: false,
        tester_was_bottleneck: false,
        steps: Vec::new(),
    };
    while let Some(value) = search.poll() {
        let (report, _) = measure(&loaded(value)?, &server, &args.tuning, &stop).await?;
        if report.interrupted {
            break;
        }
        let broke = capacity::broken(&report, &objectives);
        let held = broke.is_empty();
        capacity.tester_was_bottleneck |= !held && report.tester.is_bottleneck;
        if !args.json {
            let verdict = if held { "held".to_owned() } else { broke.join("; ") };
            println!("{} = {value}: {verdict}", args.field);
        }
        capacity.steps.push(Step { load: value, held, broke, figures: report.figures });
        search.handle(value, held);
    }
    capacity.capacity = search.held();
    capacity.at_limit = search.at_limit();
    if args.json {
        let text = serde_json::to_string_pretty(&capacity).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    match capacity.capacity {
        Some(held) if capacity.at_limit => {
            println!("capacity: at least {} = {held} (--limit)", args.field);
        }
        Some(held) => println!("capacity: {} = {held}", args.field),
        None => println!("capacity: not even the first load held"),
    }
    if capacity.tester_was_bottleneck {
        println!("warning: the tester itself was the bottleneck at a load that broke");
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &CompareArgs) -> Result<(), Usage> {
    let read = |path: &Path| -> Result<Report, Usage> {
        let fail = |error: &dyn std::fmt::Display| Usage(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
        serde_json::from_str(&text).map_err(|error| fail(&format!("no report: {error}")))
    };
    print!("{}", report::compare(&read(&args.a)?, &read(&args.b)?, args.all));
    Ok(())
}

fn json(report: &Report) -> Result<String, Usage> {
    serde_json::to_string_pretty(report).map_err(|error| Usage(error.to_string()))
}

/// The scenario with what the command line says of it.
pub(crate) fn load(name: &str, tuning: &TuningArgs) -> Result<Scenario, Usage> {
    let duration = tuning.duration.iter().map(|time| format!("duration={time}"));
    let overrides: Vec<_> = tuning.set.iter().cloned().chain(duration).collect();
    scenario::load(name, &overrides).map_err(|error| Usage(error.to_string()))
}

/// The server under test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) target: Target,
    process: Option<Process>,
    metrics: Option<http::Uri>,
    /// Stopped when this goes.
    _local: Option<LocalServer>,
}

impl Server {
    /// Finds or starts it, and asks whether it would let clients in.
    pub(crate) async fn prepare(args: &ServerArgs, scenario: &Scenario) -> Result<Self, Usage> {
        let local = if args.start_server { Some(LocalServer::start().await?) } else { None };
        let given = |value: &Option<String>| value.clone().unwrap_or_default();
        let (url, key, secret, metrics) = match &local {
            Some(local) => {
                let metrics = Some(local.metrics.clone());
                (local.url.clone(), local.key.clone(), local.secret.clone(), metrics)
            }
            None => {
                let metrics = args.metrics_url.clone();
                (given(&args.url), given(&args.api_key), given(&args.api_secret), metrics)
            }
        };
        let url = parse_url(&url)?;
        let tls = matches!(url.scheme_str(), Some("https" | "wss"));
        let tls = if tls { Some(tls_connector(args.ca.as_deref())?) } else { None };
        let metrics = match metrics {
            Some(metrics) => {
                Some(metrics.parse().map_err(|error| format!("--metrics-url {metrics}: {error}"))?)
            }
            None => None,
        };
        let process = local.as_ref().map(LocalServer::process).or(args.server_pid.map(Process));
        if let Some(process) = process
            && process.usage().is_none()
        {
            return Err(Usage(format!("--server-pid {}: no such process", process.0)));
        }
        let mut target = Target { url, key, secret, tls, local: IpAddr::V4(Ipv4Addr::LOCALHOST) };
        preflight(&mut target, scenario).await?;
        Ok(Self { target, process, metrics, _local: local })
    }
}

fn parse_url(text: &str) -> Result<http::Uri, Usage> {
    let fail = || Usage(format!("--url {text}: write http://host:7880 or wss://host"));
    let url: http::Uri = text.parse().map_err(|_| fail())?;
    let scheme = matches!(url.scheme_str(), Some("http" | "https" | "ws" | "wss"));
    if scheme && url.host().is_some() { Ok(url) } else { Err(fail()) }
}

/// One question before the crowd comes.
async fn preflight(target: &mut Target, scenario: &Scenario) -> Result<(), Usage> {
    let room = format!("load-check-{:08x}", rand::random::<u32>());
    let say = |url: &http::Uri, error: &ConnectError| Usage(format!("{url}: {error}"));
    let token =
        target.token(&room, "load-check", true, true).map_err(|error| say(&target.url, &error))?;
    let path = if scenario.peer_connections == 1 { "/rtc/v1/validate" } else { "/rtc/validate" };
    match target.validate(&token, path).await {
        Ok(()) => Ok(()),
        Err(ConnectError::Refused { status: 401, reason }) => Err(Usage(format!(
            "{}: the server does not take this API key and secret (401: {reason})",
            target.url
        ))),
        // Rooms that joining makes do not exist yet.
        Err(ConnectError::Refused { status: 404, reason }) if reason.contains("room") => Ok(()),
        Err(ConnectError::Refused { status: 404, .. }) => Err(Usage(format!(
            "{}: there is no room server (404 for {path}){}",
            target.url,
            if scenario.peer_connections == 1 {
                "; for an older one --set peer_connections=2"
            } else {
                ""
            }
        ))),
        Err(error) => Err(say(&target.url, &error)),
    }
}

/// Runs a scenario once. The second value says when the server had no room for all.
pub(crate) async fn measure(
    scenario: &Scenario,
    server: &Server,
    tuning: &TuningArgs,
    stop: &CancellationToken,
) -> Result<(Report, Option<String>), Usage> {
    let memory = Process::own().usage().map_or(0, |usage| usage.memory);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = tuning.workers.map_or(cores, usize::from);
    let metrics = server.metrics.clone();
    let lead = Lead::new(scenario.clone(), &server.target, workers, server.process, metrics)
        .map_err(|error| error.to_string())?;
    let mut view = LiveView::new(tuning.quiet, &scenario.name);
    let run = lead.run(stop, |progress| view.show(&progress)).await;
    view.end();
    if run.joined == 0 && !run.interrupted {
        let most = run.errors.values().max_by_key(|(_, count)| *count);
        let cause = most.map_or("nobody joined".to_owned(), |(error, _)| error.to_string());
        return Err(Usage(format!("{}: {cause}", server.target.url)));
    }
    let full: Vec<_> = run.errors.values().filter(|(error, _)| error.is_full()).collect();
    let refused = full.first().map(|(error, _)| {
        let count: u64 = full.iter().map(|(_, count)| count).sum();
        format!("the server is full: {count} of {} clients were not let in: {error}", run.planned)
    });
    Ok((report::build(scenario.clone(), run, server.process, memory), refused))
}

/// Ctrl-C and SIGTERM end a run with its report; a second one ends the process.
pub(crate) fn stop_on_signals() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let told = stop.clone();
    if let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    {
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if told.is_cancelled() {
                    std::process::exit(130);
                }
                told.cancel();
            }
        });
    }
    stop
}

/// Progress on a terminal; silence elsewhere.
struct LiveView(Option<ProgressBar>);

impl LiveView {
    fn new(quiet: bool, name: &str) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(1_000);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        Self(Some(bar))
    }

    fn show(&mut self, progress: &Progress<'_>) {
        let Some(bar) = &self.0 else { return };
        let phase = match progress.phase {
            Phase::Joining => "joining",
            Phase::WarmingUp => "warming up",
            Phase::Measuring => "measuring",
            Phase::Leaving => "leaving",
        };
        let mut text = format!("{phase} · {}/{} joined", progress.joined, progress.planned);
        if progress.failed + progress.lost > 0 {
            text.push_str(&format!(" · {} failed, {} lost", progress.failed, progress.lost));
        }
        if let Some(point) = progress.last {
            let count = &point.stats.count;
            let latency = point.stats.latency();
            text.push_str(&format!(" · {:.1} Mb/s", count.bytes_received as f64 * 8.0 / 1e6));
            if count.expected > 0 {
                let share = count.lost_after_repair as f64 * 100.0 / count.expected as f64;
                text.push_str(&format!(" · loss {share:.2} %"));
            }
            if let (Some(p50), Some(p99)) = (latency.quantile_ms(0.5), latency.quantile_ms(0.99)) {
                text.push_str(&format!(" · latency {p50:.1}/{p99:.1} ms"));
            }
            if point.stats.tester_delay.quantile_ms(0.99).is_some_and(|ms| ms > 20.0) {
                text.push_str(" · THE TESTER IS LATE");
            }
        }
        bar.set_message(text);
        bar.set_position((progress.done * 1_000.0) as u64);
    }

    fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
