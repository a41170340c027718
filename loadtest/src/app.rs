//! What the commands do.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    capacity::{self, Capacity, Search, Step},
    cli::{
        AgentArgs, CapacityArgs, Cli, Command, CompareArgs, CoordinatorArgs, RunArgs, SecretArgs,
        TuningArgs, WorkerArgs,
    },
    live::LiveView,
    output::{conclude, conditions, json, known, print},
    remote::{self, Secret, Setting},
    report::{self, Condition, Report},
    scenario::{self, Scenario, plan},
    server::Server,
    swarm::{Crew, Lead},
    usage::Usage,
};

/// Errors of usage are one line each and end with this code.
const USAGE: u8 = 2;

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
        Command::Agent(args) => agent(&args).await,
        Command::Coordinator(args) => coordinate(args).await,
        Command::Compare(args) => compare(&args).map(|()| ExitCode::SUCCESS),
        Command::Presets => presets().map(|()| ExitCode::SUCCESS),
    }
}

fn presets() -> Result<(), Usage> {
    let line = |(name, _): (&str, _)| {
        let about = scenario::load(name, &[]).map(|scenario| scenario.about).unwrap_or_default();
        format!("{name:<16} {about}\n")
    };
    print(&scenario::presets().map(line).collect::<String>())
}

async fn run_scenario(args: RunArgs) -> Result<ExitCode, Usage> {
    let scenario = load(&args.scenario, &args.tuning)?;
    let conditions = conditions(&args.out)?;
    let server = Server::prepare(&args.server, &scenario).await?;
    let stop = stop_on_signals();
    let players = Players::Threads(workers(&args.workers));
    let measured = measure(&scenario, &server, &players, args.tuning.quiet, &stop).await?;
    drop(server);
    conclude(measured, &args.out, &conditions)
}

/// Plays clients for whoever holds the secret.
async fn agent(args: &AgentArgs) -> Result<ExitCode, Usage> {
    let secret = secret(&args.secret)?;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| Usage(format!("--listen {}: {error}", args.listen)))?;
    let address = listener.local_addr().map_err(|error| Usage(error.to_string()))?;
    eprintln!("chappe-loadtest: an agent waits for its coordinator at {address}");
    let stop = stop_on_signals();
    remote::serve(listener, secret, workers(&args.workers), args.max_clients, stop)
        .await
        .map_err(|error| Usage(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// A run that agents play.
async fn coordinate(args: CoordinatorArgs) -> Result<ExitCode, Usage> {
    let scenario = load(&args.scenario, &args.tuning)?;
    let conditions = conditions(&args.out)?;
    let secret = secret(&args.secret)?;
    let server = Server::prepare(&args.server, &scenario).await?;
    let stop = stop_on_signals();
    let players = Players::Agents(args.agents, secret);
    let measured = measure(&scenario, &server, &players, args.tuning.quiet, &stop).await?;
    drop(server);
    conclude(measured, &args.out, &conditions)
}

fn secret(args: &SecretArgs) -> Result<Secret, Usage> {
    let text = match (&args.swarm_secret, &args.secret_file) {
        (_, Some(path)) => std::fs::read_to_string(path)
            .map_err(|error| Usage(format!("--secret-file {}: {error}", path.display())))?,
        (Some(text), None) => text.0.clone(),
        (None, None) => {
            let text =
                "agents and coordinator need one secret: CHAPPE_SWARM_SECRET or --secret-file";
            return Err(Usage(text.to_owned()));
        }
    };
    Ok(Secret::new(&text)?)
}

/// One per core, unless told otherwise.
fn workers(args: &WorkerArgs) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    args.workers.map_or(cores, usize::from)
}

async fn find_capacity(args: CapacityArgs) -> Result<ExitCode, Usage> {
    let objectives = known(Condition::list(&args.objective)?)?;
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
    let players = Players::Threads(workers(&args.workers));
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
        let scenario = loaded(value)?;
        if let Err(reason) = scenario.fits(scenario.clients()) {
            eprintln!("chappe-loadtest: {reason}");
            let (broke, figures) = (vec![reason], BTreeMap::new());
            capacity.tester_was_bottleneck = true;
            capacity.steps.push(Step { load: value, held: false, broke, figures });
            search.handle(value, false);
            continue;
        }
        let (report, _) = measure(&scenario, &server, &players, args.tuning.quiet, &stop).await?;
        if report.interrupted {
            break;
        }
        let broke = capacity::broken(&report, &objectives);
        let held = broke.is_empty();
        capacity.tester_was_bottleneck |= !held && report.tester.is_bottleneck;
        if !args.json {
            let verdict = if held { "held".to_owned() } else { broke.join("; ") };
            print(&format!("{} = {value}: {verdict}\n", args.field))?;
        }
        capacity.steps.push(Step { load: value, held, broke, figures: report.figures });
        search.handle(value, held);
    }
    capacity.capacity = search.held();
    capacity.at_limit = search.at_limit();
    print(&if args.json { json(&capacity)? } else { capacity.to_string() })?;
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &CompareArgs) -> Result<(), Usage> {
    let read = |path: &Path| -> Result<Report, Usage> {
        let fail = |error: &dyn std::fmt::Display| Usage(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
        serde_json::from_str(&text).map_err(|error| fail(&format!("no report: {error}")))
    };
    print(&report::compare(&read(&args.a)?, &read(&args.b)?, args.all))
}

/// The scenario with what the command line says of it.
pub(crate) fn load(name: &str, tuning: &TuningArgs) -> Result<Scenario, Usage> {
    let duration = tuning.duration.iter().map(|time| format!("duration={time}"));
    let overrides: Vec<_> = tuning.set.iter().cloned().chain(duration).collect();
    scenario::load(name, &overrides).map_err(|error| Usage(error.to_string()))
}

/// Who plays.
#[derive(Debug)]
enum Players {
    /// So many threads of this process.
    Threads(usize),
    Agents(Vec<String>, Secret),
}

/// Runs a scenario once. The second value says when the server had no room for all.
async fn measure(
    scenario: &Scenario,
    server: &Server,
    players: &Players,
    quiet: bool,
    stop: &CancellationToken,
) -> Result<(Report, Option<String>), Usage> {
    let number: u32 = rand::random();
    let prefix = match scenario.room_prefix.as_str() {
        "" => format!("load-{number:08x}"),
        prefix => prefix.to_owned(),
    };
    let plans = plan(scenario, &prefix);
    let crew = match players {
        Players::Threads(count) => {
            scenario.fits(scenario.clients())?;
            Crew::threads(*count, &server.target, scenario, number)
                .map_err(|error| error.to_string())?
        }
        Players::Agents(names, secret) => {
            let setting = Setting {
                url: server.target.url.to_string(),
                key: server.target.key.clone(),
                secret: server.target.secret.clone().into(),
                certificates: server.certificates.clone(),
                scenario: scenario.clone(),
                run: number,
            };
            Crew::agents(names, secret, &setting, &plans).await?
        }
    };
    let lead = Lead::new(scenario.clone(), plans, crew, server.process, server.metrics.clone());
    let mut view = LiveView::new(quiet, &scenario.name);
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
    Ok((report::build(scenario.clone(), run, server.process), refused))
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
