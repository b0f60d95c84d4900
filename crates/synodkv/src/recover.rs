//! `recover`: founds a new cluster on a surviving replica, after the others are lost for good.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use kv_server::recover::{Inspection, Plan, RecoverError, Recovered, Recovery, inspect, make_plan};
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::usage::whole_number;

/// Found a new cluster on a surviving replica, after most of them are lost for good.
///
/// Only for that: as long as the lost replicas can come back with their data, start them instead.
/// `inspect` each surviving data directory, `plan` from all inspections, and `apply` the plan to the
/// directory that it names. The cluster that results has a new id and one member, to which others
/// are added; nothing of the former members can join it. Servers must not run meanwhile. See "Two
/// replicas of three are gone" in docs/OPERATIONS.md.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv recover inspect --data-dir /var/lib/synodkv > 2.json\n  \
    synodkv recover plan 2.json --out plan.json\n  \
    synodkv recover apply --data-dir /var/lib/synodkv --plan plan.json --dry-run\n  \
    synodkv recover apply --data-dir /var/lib/synodkv --plan plan.json --i-accept-data-loss"))]
pub struct RecoverArgs {
    #[command(subcommand)]
    pub action: RecoverAction,
}

fn epilogue(examples: &str) -> String {
    format!(
        "{examples}\n\n\
        Exit status:\n  \
        0  done\n  \
        1  refused, with the reason: nothing has to be recovered, or more would be lost than must be; nothing was done\n  \
        2  wrong usage or input; nothing was done\n  \
        3  not finished: the disk is full or has failed, …; repeat the command"
    )
}

#[derive(Debug, Subcommand)]
pub enum RecoverAction {
    /// Print what the log and the database of a stopped replica hold, as JSON. Changes nothing.
    #[command(after_help = epilogue("Example:\n  synodkv recover inspect --data-dir /var/lib/synodkv > 2.json"))]
    Inspect {
        /// The data directory of a server that does not run.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The replica, if the directory holds several.
        #[arg(long, value_name = "N", value_parser = whole_number::<u32>)]
        replica: Option<u32>,
    },
    /// Choose the survivor to keep, and say what may be lost.
    ///
    /// The choice is the one that an election would make: the log of the greatest epoch, view and
    /// length. It refuses survivors of different clusters, and survivors that can elect a primary by
    /// themselves: these only have to be started.
    #[command(after_help = epilogue("Examples:\n  \
        synodkv recover plan 2.json --out plan.json\n  \
        synodkv recover plan 3.json 4.json --keep 4 > plan.json"))]
    Plan {
        /// The output of `inspect` for each survivor.
        #[arg(required = true, value_name = "FILE")]
        inspections: Vec<PathBuf>,
        /// The replica to keep. Only needed if entries are lost that no survivor has: the error says
        /// what each choice means.
        #[arg(long, value_name = "N", value_parser = whole_number::<u32>)]
        keep: Option<u32>,
        /// Where to write the plan. [default: standard output; the explanation goes to standard
        /// error then]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make the survivor that the plan names the only member of a new cluster.
    ///
    /// Its log is applied to a copy of its database (hard links, which take hardly any space at
    /// first), through the entry that the plan names. The old log and the old database stay next
    /// to the new ones as `….before-recovery-N`. The command may be killed at any time: until it is
    /// finished no server opens the directory, and repeating it with the same plan finishes it.
    #[command(after_help = epilogue("Examples:\n  \
        synodkv recover apply --data-dir /var/lib/synodkv --plan plan.json --dry-run\n  \
        synodkv recover apply --data-dir /var/lib/synodkv --plan plan.json --i-accept-data-loss"))]
    Apply {
        /// The data directory of the replica that the plan keeps.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The file that `plan` has written.
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// You have read what the plan says about the data. Needed for everything but --dry-run.
        #[arg(long)]
        i_accept_data_loss: bool,
        /// How many versions are skipped. It must be more than the lost replicas can have given out
        /// that no survivor knows, so that no version exists twice.
        #[arg(long, value_name = "COUNT", default_value_t = 1_000_000_000,
            value_parser = clap::value_parser!(u64).range(1..=1 << 60))]
        bump_versions: u64,
        /// Check everything, and print the steps instead of taking them.
        #[arg(long)]
        dry_run: bool,
        /// How results are printed.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Input(text) => Failure::Usage(text),
            RecoverError::Refused(text) => Failure::Failed(text),
            RecoverError::Failed(text) => Failure::Unsure(text),
        }
    }
}

pub fn run(args: RecoverArgs) -> Result<ExitCode, Failure> {
    match args.action {
        RecoverAction::Inspect { data_dir, replica } => {
            let found = inspect(&data_dir, replica)?;
            output::write(pretty(&found)?.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        RecoverAction::Plan { inspections, keep, out } => plan(&inspections, keep, out.as_deref()),
        RecoverAction::Apply { data_dir, plan, i_accept_data_loss, bump_versions, dry_run, format } => {
            let name = plan.display().to_string();
            let plan = Plan::from_json(&read(&plan)?, &name)?;
            let recovery = Recovery::open(&data_dir, &plan, bump_versions)?;
            if dry_run {
                return show_steps(format, &plan, &recovery.steps());
            }
            if !i_accept_data_loss {
                return Err(Failure::Usage(format!(
                    "{}\n\nNothing was done. To do it, add --i-accept-data-loss; to see the steps, --dry-run",
                    told(&plan)
                )));
            }
            apply(recovery, format)
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
}

fn pretty(document: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Failure::Unsure(error.to_string()))?;
    Ok(text + "\n")
}

fn plan(files: &[PathBuf], keep: Option<u32>, out: Option<&Path>) -> Result<ExitCode, Failure> {
    let mut survivors = Vec::new();
    for file in files {
        let name = file.display().to_string();
        survivors.push((name.clone(), Inspection::from_json(&read(file)?, &name)?));
    }
    let plan = make_plan(&survivors, keep)?;
    let document = pretty(&plan)?;
    match out {
        Some(path) => {
            let written = fs::write(path, document);
            written.map_err(|error| Failure::Unsure(format!("cannot write {}: {error}", path.display())))?;
            output::write_line(&format!("{}\n\nwritten to {}", told(&plan), path.display()))?;
        }
        None => {
            output::remark(told(&plan));
            output::write(document.as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The consequences of a plan, one a line.
fn told(plan: &Plan) -> String {
    let lines = plan.consequences.iter().map(|line| format!("- {line}"));
    format!("Replica {} is kept. This means:\n{}", plan.replica, lines.collect::<Vec<_>>().join("\n"))
}

fn show_steps(format: Format, plan: &Plan, steps: &[String]) -> Result<ExitCode, Failure> {
    let numbered = (1..).zip(steps).map(|(number, step)| format!("{number}. {step}"));
    let text = format!("{}\n\nSteps:\n{}", told(plan), numbered.collect::<Vec<_>>().join("\n"));
    match format {
        Format::Json => output::write_json(&json!({"consequences": plan.consequences, "steps": steps}))?,
        Format::Text => output::write_line(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn apply(mut recovery: Recovery, format: Format) -> Result<ExitCode, Failure> {
    let again =
        if recovery.steps().is_empty() { "this plan was applied before, and nothing was left to do: " } else { "" };
    while let Some(step) = recovery.step().map_err(repeatable)? {
        if format == Format::Text {
            output::remark(format!("done: {step}"));
        }
    }
    let Recovered { replica, cluster_id, aside } = recovery.outcome();
    let aside: Vec<String> = aside.iter().map(|path| path.display().to_string()).collect();
    let text = format!(
        "{again}replica {replica} is the only member of the new cluster {cluster_id}: start its server, then add others with empty \
         directories\nkept aside, remove it once the cluster is as you want it: {}",
        aside.join(", ")
    );
    output::done(format, &json!({"replica": replica, "cluster_id": cluster_id, "aside": aside}), &text)
}

/// Once the first step is taken, every failure is one to repeat after.
fn repeatable(error: RecoverError) -> Failure {
    Failure::Unsure(format!("{error}\nNot finished: remove the cause, and repeat the command with the same plan"))
}
