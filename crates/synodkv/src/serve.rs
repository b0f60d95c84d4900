//! `serve`: a server from its configuration until a signal stops it.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kv_server::ReplicatedServerManager;
use kv_server::budget::{Budget, Host, Threads};
use kv_server::config::{Config, Environment, Mode, Overrides};
use kv_server::manager::{ServerError, ServerManager, StandaloneServerManager};
use tracing_subscriber::EnvFilter;

use crate::allocator;
use crate::cli::ServeArgs;
use crate::failure::Failure;
use crate::signals::Signals;

/// How often the server is asked whether it still does its work.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

pub fn run(args: ServeArgs) -> Result<ExitCode, Failure> {
    let overrides = Overrides {
        mode: args.mode,
        node_id: args.node_id,
        data_dir: args.data_dir,
        thrift_addr: args.thrift_addr,
        admin_addr: args.admin_addr,
        log_level: args.log_level,
        ..Overrides::default()
    };
    let config = Config::load(args.config.as_deref(), &Environment::of_process(), &overrides)
        .and_then(|config| config.refuse_forgotten_node_id().map(|()| config))
        .map_err(|error| Failure::Usage(error.to_string()))?;
    if args.print_config {
        return print_config(config);
    }
    let processors = Host::of_process().processors;
    allocator::limit_arenas(processors);
    log_to_stderr(&config.log.level)?;
    let (workers, blocking) = Threads::of_runtime(processors);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(workers).max_blocking_threads(blocking).enable_all().build()?;
    runtime.block_on(serve(config))
}

/// What holds, as a configuration file that would say the same, and the budget behind it.
fn print_config(config: Config) -> Result<ExitCode, Failure> {
    let mut effective = config.clone();
    let budget =
        Budget::plan(&mut effective, &Host::of_process()).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}\n{}", effective.describe(&config, "the resource budget"), budget.describe())?;
    for problem in budget.problems() {
        writeln!(out, "#\n# {}: {problem}", problem.kind)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level).map_err(|error| Failure::Usage(format!("log.level = {level}: {error}")))?;
    let colours = std::io::stderr().is_terminal();
    // When nobody reads the log any more, to complain about that would end the thread that writes it.
    let to_stderr = tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false);
    to_stderr.with_env_filter(filter).with_ansi(colours).init();
    Ok(())
}

async fn start(config: Config) -> Result<Box<dyn ServerManager>, ServerError> {
    Ok(match config.mode {
        Mode::Standalone => Box::new(StandaloneServerManager::start(config).await?),
        Mode::Replicated => Box::new(ReplicatedServerManager::start(config).await?),
    })
}

async fn serve(config: Config) -> Result<ExitCode, Failure> {
    // From here on a signal waits for the server to be there, so that it can stop in good order.
    let mut signals = Signals::listen()?;
    let (mode, data_dir) = (config.mode, config.storage.data_dir.clone());
    let server = start(config).await.map_err(|error| match error {
        ServerError::TooSmall(_) => Failure::Usage(error.to_string()),
        _ => Failure::Failed(error.to_string()),
    })?;
    if let Err(error) = writeln!(std::io::stdout(), "{}", ready_line(mode, &data_dir, server.as_ref())) {
        tracing::warn!(%error, "nobody reads that this server is ready; it serves all the same");
    }
    let mut health = tokio::time::interval(HEALTH_INTERVAL);
    let stopped = loop {
        tokio::select! {
            name = signals.next() => break Ok(name),
            _ = health.tick() => if !server.is_healthy() {
                break Err(Failure::Failed("the server can work no longer; the log says why".to_string()));
            },
        }
    };
    if let Ok(name) = &stopped {
        tracing::info!("{name}: stopping; a second signal stops at once");
    }
    tokio::select! {
        () = server.shutdown() => {}
        name = signals.next() => return Err(Failure::Failed(format!("second signal ({name}): stopped at once"))),
    }
    stopped.map(|_| ExitCode::SUCCESS)
}

/// One line, and the only one on standard output. Whoever waits for a server waits for its first word.
fn ready_line(mode: Mode, data_dir: &Path, server: &dyn ServerManager) -> String {
    let (thrift, admin) = (server.thrift_addr(), server.admin_addr());
    let program = std::env::args().next().unwrap_or_else(|| "synodkv".to_string());
    let target = if thrift.port() == 9090 { String::new() } else { format!(" --addr {thrift}") };
    let waits = match server.awaits_founding() {
        true => " Waiting for the other replicas: the first start of a cluster needs all of them.",
        false => "",
    };
    format!(
        "ready: {mode}, Thrift on {thrift}, admin on http://{admin}, data in {}.{waits} Try: {program} set{target} hello \
         world",
        data_dir.display()
    )
}
