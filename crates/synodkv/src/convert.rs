//! `convert`: gives a data directory that no server has open another form.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use kv_server::convert::{Check, Conversion, ConvertError, Plan, plan};
use kv_server::{Config, Overrides};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::reload::Origin;
use crate::usage::{epilogue, whole_number};

/// Turn the data directory of a stopped server into that of another kind of server.
///
/// `--to replicated` makes a cluster with one member of a standalone server: with all rows,
/// versions, families, users, and results of earlier commits; versions continue where they were. The
/// cluster then grows by `synodkv join`. `--to standalone` is the way back, for a cluster with
/// one member. `--split` makes one directory for each replica of a server that ran several of them
/// in one process.
///
/// The data directory has its old form or its new one at any time, whatever interrupts the command.
/// The same command again finishes one that was interrupted, and says so if nothing is left to do.
/// Rows are not copied: both forms share their files, so it takes seconds, and little space.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv convert --data-dir data --to replicated --config cluster.toml --dry-run\n  \
    synodkv convert --data-dir data --to replicated --config cluster.toml\n  \
    synodkv convert --data-dir data --to standalone --config cluster.toml\n  \
    synodkv convert --data-dir data --split 0,1,2 --out split\n\n\
    cluster.toml is the file with which the replica is started afterwards (with --to standalone: until now). It lists the\n\
    replica with its addresses; members that join later need not be listed:\n  \
    mode = \"replicated\"\n  \
    [[replication.replicas]]\n  \
    id = 0\n  \
    peer = \"10.0.0.1:6001\"\n  \
    thrift = \"10.0.0.1:9090\"\n  \
    admin = \"10.0.0.1:9190\"\n\n\
    After a split, replica N has DIR/replica-N, and each process is started with the same list and its own number:\n  \
    synodkv serve --config cluster.toml --node-id 0 --data-dir split/replica-0\n\
    cluster.toml then lists all three as above, each with peer, thrift and admin addresses of its own. The peer addresses\n\
    may be new ones. A directory may be moved to another machine first (as a whole, and only while nothing runs on it).\n\
    Never start a replica on two copies of its directory.",
    "a precondition is not met (--dry-run lists them all); nothing was changed"))]
pub struct ConvertArgs {
    /// The new form: `replicated` or `standalone`.
    #[arg(long, value_name = "MODE", value_enum, required_unless_present = "split", conflicts_with = "split")]
    pub to: Option<Target>,
    /// The replicas in the directory, all of which get directories of their own.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = whole_number::<u32>, requires = "out")]
    pub split: Vec<u32>,
    /// Where --split makes these directories: DIR/replica-0, DIR/replica-1, … It must be on the same
    /// file system.
    #[arg(long, value_name = "DIR", requires = "split")]
    pub out: Option<PathBuf>,
    /// Configuration file (TOML) of the replica.
    #[arg(long, value_name = "FILE", env = "SYNODKV_CONFIG")]
    pub config: Option<PathBuf>,
    /// The replica that the data becomes, if the configuration lists several.
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>)]
    pub node_id: Option<u32>,
    /// The directory to convert. [default: that of the configuration, or ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Change nothing: list the preconditions and the steps.
    #[arg(long)]
    pub dry_run: bool,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// The modes, as `--to` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// A cluster with one member.
    Replicated,
    /// One database, no consensus.
    Standalone,
}

/// The outcome as JSON.
#[derive(Serialize)]
struct Document {
    /// Whether the directory has its new form now.
    converted: bool,
    /// The state of the directory then.
    result: String,
    checks: Vec<Check>,
    /// The steps that were taken, or would be.
    steps: Vec<String>,
}

impl Document {
    fn of(plan: &Plan) -> Document {
        Document {
            converted: plan.is_done(),
            result: plan.result.clone(),
            checks: plan.checks.clone(),
            steps: plan.steps.iter().map(|step| step.text.clone()).collect(),
        }
    }
}

pub fn run(args: ConvertArgs) -> Result<ExitCode, Failure> {
    let (format, dry_run) = (args.format, args.dry_run);
    let conversion = conversion(&args)?;
    let start = how_to_start(&args, &conversion);
    let plan = plan(conversion).map_err(explain)?;
    let document = Document::of(&plan);
    if dry_run {
        let is_possible = plan.obstacles().next().is_none();
        match format {
            Format::Json => output::write_json(&document)?,
            Format::Text => output::write(describe(&plan).as_bytes())?,
        }
        return Ok(if is_possible { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let was_done = plan.is_done();
    let count = plan.steps.len();
    plan.run(|number, text| output::remark(format!("step {number} of {count}: {text}"))).map_err(explain)?;
    let text = match was_done {
        true => format!("nothing to do: {}", document.result),
        false => format!("done: {}. {start}", document.result),
    };
    output::done(format, &Document { converted: true, ..document }, &text)
}

fn conversion(args: &ConvertArgs) -> Result<Conversion, Failure> {
    let Some(target) = args.to else {
        let data_dir =
            args.data_dir.clone().ok_or_else(|| Failure::Usage("--split needs --data-dir DIR".to_string()))?;
        let out = args.out.clone().ok_or_else(|| Failure::Usage("--split needs --out DIR".to_string()))?;
        return Ok(Conversion::Split { data_dir, replicas: args.split.clone(), out });
    };
    // In both directions it is the configuration of a replica.
    let overrides = Overrides {
        mode: Some("replicated".to_string()),
        node_id: args.node_id,
        data_dir: args.data_dir.clone(),
        ..Overrides::default()
    };
    let origin = Origin { file: args.config.clone(), overrides };
    let config: Box<Config> = Box::new(origin.load().map_err(|error| Failure::Usage(error.to_string()))?);
    Ok(match target {
        Target::Replicated => Conversion::ToReplicated(config),
        Target::Standalone => Conversion::ToStandalone(config),
    })
}

/// The commands that start the servers of the new form.
fn how_to_start(args: &ConvertArgs, conversion: &Conversion) -> String {
    let flag = |name: &str, value: Option<String>| value.map(|value| format!(" {name} {value}")).unwrap_or_default();
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let (config, data_dir) = (flag("--config", path(&args.config)), flag("--data-dir", path(&args.data_dir)));
    match conversion {
        Conversion::ToReplicated(of_replica) => {
            let id = of_replica.replication.local_ids().first().map(u32::to_string);
            format!("Start it with: synodkv serve{config}{}{data_dir}", flag("--node-id", id))
        }
        Conversion::ToStandalone(_) => {
            format!("Start it with: synodkv serve --mode standalone{data_dir}, and a --config without replicas")
        }
        Conversion::Split { out, .. } => {
            format!("Start each with: synodkv serve --config FILE --node-id N --data-dir {}/replica-N", out.display())
        }
    }
}

fn explain(error: ConvertError) -> Failure {
    match error {
        ConvertError::Refused(text) => Failure::Failed(format!("{text}; nothing was changed")),
        ConvertError::Failed(text) => Failure::Unsure(format!(
            "{text}. The data is as it was, or in its new form; the same command again goes on from here, and --dry-run \
             says which it is"
        )),
    }
}

/// The preconditions and the steps, for people.
fn describe(plan: &Plan) -> String {
    if plan.is_done() && plan.obstacles().next().is_none() {
        return format!("nothing to do: {}\n", plan.result);
    }
    let mut text = "Preconditions:\n".to_string();
    for Check { what, obstacle } in &plan.checks {
        text += &match obstacle {
            None => format!("  ok  {what}\n"),
            Some(obstacle) => format!("  NO  {what}\n      {obstacle}\n"),
        };
    }
    text += "Steps:\n";
    for (number, step) in (1..).zip(&plan.steps) {
        text += &format!("  {number}. {}\n", step.text);
    }
    text + "Nothing was changed (--dry-run).\n"
}
