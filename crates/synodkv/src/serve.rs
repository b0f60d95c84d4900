//! `serve`: runs a server, from its configuration until a signal stops it.

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kv_server::ReplicatedServerManager;
use kv_server::budget::{Budget, Host, Threads};
use kv_server::restarting::RestartingServer;
use kv_server::{Config, Mode, Overrides, ServerError, ServerManager, StandaloneServerManager};

use crate::allocator;
use crate::cli::ServeArgs;
use crate::failure::Failure;
use crate::logging::{self, Logging};
use crate::output;
use crate::reload::{Origin, Reload};
use crate::signals::{self, Signals};
use crate::supervisor::Supervisor;

/// How often to check whether the server still works.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// How long the process waits at its end for blocked threads, for example on a disk that hangs.
const LEFTOVERS_PATIENCE: Duration = Duration::from_secs(1);

pub fn run(args: ServeArgs) -> Result<ExitCode, Failure> {
    let overrides = Overrides {
        mode: args.mode,
        node_id: args.node_id,
        data_dir: args.data_dir,
        thrift_addr: args.thrift_addr,
        admin_addr: args.admin_addr,
        log_level: args.log_level,
        log_format: args.log_format,
        log_file: args.log_file,
        ..Overrides::default()
    };
    let origin = Origin { file: args.config, overrides };
    let config = origin.load().map_err(|error| Failure::Usage(error.to_string()))?;
    if args.print_config {
        return print_config(config);
    }
    let processors = Host::of_process().processors;
    allocator::limit_arenas(processors);
    let log = Logging::start(&config.log)?;
    let (workers, blocking) = Threads::of_runtime(processors);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(workers).max_blocking_threads(blocking).enable_all().build()?;
    let ended = runtime.block_on(serve(config, origin, &log));
    runtime.shutdown_timeout(LEFTOVERS_PATIENCE);
    // Reported here and not by the caller, because writing to standard error may block for ever.
    Ok(ended.unwrap_or_else(|failure| {
        log.say_at_the_end(&failure);
        match failure {
            Failure::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }))
}

/// Prints the effective configuration as a file, and the resource budget.
fn print_config(config: Config) -> Result<ExitCode, Failure> {
    let mut effective = config.clone();
    let budget =
        Budget::plan(&mut effective, &Host::of_process()).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut text = format!("{}\n{}", effective.describe(&config, "the resource budget"), budget.describe());
    for problem in budget.problems() {
        text += &format!("#\n# {}: {problem}\n", problem.kind);
    }
    output::write(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config, origin: Origin, log: &Logging) -> Result<ExitCode, Failure> {
    // From here on, a signal waits until the server has started, so that it can stop in good order.
    let mut signals = Signals::listen_as_server()?;
    signals::ignore_others()?;
    let mut reload = Reload::new(origin, config.clone(), log.control());
    signals::on_hangup(move || reload.run())?;
    let (mode, data_dir) = (config.mode, config.storage.data_dir.clone());
    let supervisor = Supervisor::of_environment();
    let (server, mut asked) = supervisor.while_starting(start(config, &mut signals)).await?;
    let (dropped, control, seen) = (log.dropped(), log.control(), supervisor.seen());
    server.extend(Arc::new(move |problems, metrics, cluster| {
        seen.set(cluster);
        problems.watch(control.problems());
        metrics.registry().register(Box::new(dropped.clone())).expect("registered once for each server");
    }));
    logging::say(std::io::stdout(), ready_line(mode, &data_dir, server.as_ref()), Duration::ZERO);
    supervisor.ready();
    let mut health = tokio::time::interval(HEALTH_INTERVAL);
    let stopped = loop {
        if let Some(name) = asked {
            break Ok(name);
        }
        tokio::select! {
            name = signals.next() => asked = Some(name),
            _ = health.tick() => if let Some(reason) = server.failure() {
                tracing::error!("this server cannot work any more, and stops: {reason}");
                break Err(Failure::Failed(reason));
            },
        }
    };
    supervisor.stopping();
    if let Ok(name) = &stopped {
        tracing::info!("{name}: stopping; a second signal stops at once");
    }
    tokio::select! {
        () = server.shutdown() => {}
        name = signals.next() => return Err(second_signal(name)),
    }
    stopped.map(|_| ExitCode::SUCCESS)
}

fn second_signal(name: &str) -> Failure {
    Failure::Failed(format!("second signal ({name}): stopped at once"))
}

/// Starts the server. Also returns the signal that arrived meanwhile: a start is completed first,
/// so that the server can stop in good order.
async fn start(
    config: Config,
    signals: &mut Signals,
) -> Result<(Box<dyn ServerManager>, Option<&'static str>), Failure> {
    let mut starting = pin!(manager(config));
    let mut asked = None;
    loop {
        tokio::select! {
            server = &mut starting => {
                return server.map(|server| (server, asked)).map_err(|error| match error {
                    ServerError::TooSmall(_) | ServerError::Certificates(_) => Failure::Usage(error.to_string()),
                    _ => Failure::Failed(error.to_string()),
                });
            }
            name = signals.next() => {
                if asked.is_some() {
                    return Err(second_signal(name));
                }
                tracing::info!("{name}: stopping as soon as the start is complete; a second signal stops at once");
                asked = Some(name);
            }
        }
    }
}

async fn manager(config: Config) -> Result<Box<dyn ServerManager>, ServerError> {
    Ok(match config.mode {
        Mode::Standalone => Box::new(RestartingServer::<StandaloneServerManager>::start(config).await?),
        Mode::Replicated => Box::new(RestartingServer::<ReplicatedServerManager>::start(config).await?),
    })
}

/// The only line on standard output. Scripts wait for its first word, `ready`.
fn ready_line(mode: Mode, data_dir: &Path, server: &dyn ServerManager) -> String {
    let (thrift, admin) = (server.thrift_addr(), server.admin_addr());
    let program = std::env::args().next().unwrap_or_else(|| "synodkv".to_string());
    let target = if thrift.port() == 9090 { String::new() } else { format!(" --addr {thrift}") };
    let waits = match server.awaits_bootstrap() {
        true => " Waiting for the other replicas: the first start of a cluster needs all of them.",
        false => "",
    };
    format!(
        "ready: {mode}, Thrift on {thrift}, admin on http://{admin}, data in {}.{waits} Try: {program} set{target} hello \
         world\n",
        data_dir.display()
    )
}
