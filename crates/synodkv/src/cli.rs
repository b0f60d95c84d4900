//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::access::AccessArgs;
use crate::auth::AuthArgs;
use crate::backup_cmd::BackupArgs;
use crate::bench::BenchArgs;
use crate::bench_disk::BenchDiskArgs;
use crate::cert::CertArgs;
use crate::convert::ConvertArgs;
use crate::debug::DebugArgs;
use crate::doctor::DoctorArgs;
use crate::family::FamilyArgs;
use crate::generate::{CompletionArgs, ManArgs};
use crate::health::HealthArgs;
use crate::import::ImportArgs;
use crate::member::{JoinArgs, MemberArgs};
use crate::output::Format;
use crate::range::RangeArgs;
use crate::recover::RecoverArgs;
use crate::restore_cmd::RestoreArgs;
use crate::statement::commands;
use crate::targets::{AdminTarget, ThriftTarget};
use crate::text::Notation;
use crate::top::{SlowArgs, TopArgs};
use crate::upgrade::UpgradeArgs;
use crate::usage::{REFUSED, epilogue, whole_number};
use crate::watch::WatchArgs;

/// A replicated transactional key-value store: server, client and benchmark.
#[derive(Debug, Parser)]
#[command(
    name = "synodkv",
    version,
    max_term_width = 110,
    after_help = "First steps:\n  \
        REPLICATED_MODE=true synodkv serve    start three replicas in this process\n  \
        synodkv set hello world               then, in another terminal\n  \
        synodkv get hello\n  \
        synodkv status\n  \
        synodkv verify\n\n\
        Exit status, of every command but `serve`: 0 done; 1 the answer is no; 2 wrong usage or input, nothing was done;\n\
        3 no answer, not now, or an outcome that is unknown. All outputs, escapes and statuses: docs/CLI.md."
)]
pub struct Cli {
    /// With --version: also the commit, the feature levels, and the version of RocksDB.
    #[arg(long, requires = "version")]
    pub verbose: bool,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(ServeArgs),
    Status(StatusArgs),
    Health(HealthArgs),
    Doctor(DoctorArgs),
    Top(TopArgs),
    Slow(SlowArgs),
    Debug(DebugArgs),
    Failover(FailoverArgs),
    Member(MemberArgs),
    Join(JoinArgs),
    Upgrade(UpgradeArgs),
    Family(FamilyArgs),
    Auth(AuthArgs),
    Get(GetArgs),
    Set(SetArgs),
    Delete(DeleteArgs),
    Range(RangeArgs),
    Import(ImportArgs),
    Backup(BackupArgs),
    Restore(Box<RestoreArgs>),
    Txn(TxnArgs),
    Shell(ShellArgs),
    Watch(WatchArgs),
    Verify(VerifyArgs),
    Bench(BenchArgs),
    BenchDisk(BenchDiskArgs),
    Cert(CertArgs),
    Convert(ConvertArgs),
    Recover(RecoverArgs),
    Completion(CompletionArgs),
    #[command(hide = true)]
    Man(ManArgs),
}

/// Start a server.
///
/// A setting comes from the first of these that has it: a flag, an environment variable
/// (SYNODKV_<SECTION>_<KEY>, for example SYNODKV_SERVER_THRIFT_ADDR; also REPLICATED_MODE=true and
/// THRIFT_PORT), the configuration file, the default. The server prints one line that begins with
/// `ready` once it serves, and logs to standard error. Ctrl-C and SIGTERM stop it. SIGHUP makes it
/// open the log file again and read the configuration file again, from which only `log.level` takes
/// effect.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    synodkv serve                                          one database in ./data\n  \
    synodkv serve --mode replicated                        three replicas in this process\n  \
    synodkv serve --config cluster.toml --node-id 0        one replica of several processes\n\n\
    cluster.toml for three processes:\n  \
    mode = \"replicated\"\n  \
    [[replication.replicas]]\n  \
    id = 0\n  \
    peer = \"127.0.0.1:6001\"\n  \
    thrift = \"127.0.0.1:9090\"\n  \
    admin = \"127.0.0.1:9190\"\n  \
    # ... and the same for id 1 and id 2\n\n\
    Every setting, with unit, default and range: docs/CONFIGURATION.md. Exit status: 0 stopped as asked; 1 could not start\n\
    or go on; 2 wrong usage or configuration.")]
pub struct ServeArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "SYNODKV_CONFIG")]
    pub config: Option<PathBuf>,
    /// `standalone` (one database) or `replicated` (a quorum of replicas agrees on every write).
    /// [default: standalone, or replicated with --node-id]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,
    /// Run only this replica of [[replication.replicas]] in this process. Ids start at 0.
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>)]
    pub node_id: Option<u32>,
    /// The directory of the data. Only one process can use it at a time. It belongs to one cluster,
    /// replica and mode. [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where Thrift clients connect. [default: 127.0.0.1:9090]
    #[arg(long, value_name = "HOST:PORT")]
    pub thrift_addr: Option<String>,
    /// Where admin HTTP is served: /status, /metrics, /health. [default: 127.0.0.1:9190]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_addr: Option<String>,
    /// error, warn, info, debug, trace, or a list such as info,rsml=debug. [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log to this file instead of standard error. SIGHUP opens it again, for logrotate and similar
    /// tools.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// text (for people) or json (one object per line). [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Print every effective setting with its origin, and the resource budget of this process; then
    /// exit.
    #[arg(long)]
    pub print_config: bool,
}

/// How the bytes of arguments and results are written.
#[derive(Clone, Debug, Args)]
pub struct ByteArgs {
    /// Keys and values are text with escapes: \xNN, \\, \n, \t, \r, \0. Without this flag,
    /// arguments are taken literally.
    #[arg(long, conflicts_with = "hex")]
    pub escape: bool,
    /// Keys and values are hexadecimal.
    #[arg(long)]
    pub hex: bool,
    /// How results are printed. In JSON, keys and values are text with escapes, or hexadecimal with
    /// --hex.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

impl ByteArgs {
    pub fn notation(&self) -> Notation {
        match (self.hex, self.escape) {
            (true, _) => Notation::Hex,
            (false, true) => Notation::Escaped,
            (false, false) => Notation::Plain,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub struct Presentation {
    /// Keys and values are hexadecimal, instead of text with \xNN, \\, \n, \t for other bytes.
    #[arg(long)]
    pub hex: bool,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

impl Presentation {
    pub fn notation(&self) -> Notation {
        if self.hex { Notation::Hex } else { Notation::Escaped }
    }
}

/// Show the cluster: its mode and primary, the progress of each replica, and the problems of every
/// server with their remedies.
///
/// Asks all servers at the same time, including those that --admin leaves out, and shows the most
/// informed answer. With `--watch` it repeats this until Ctrl-C (exit status 0): in place on a
/// terminal, otherwise one answer after the other. If no server answers, it says so and continues
/// to ask.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv status\n  \
    synodkv status --admin 127.0.0.1:9190,127.0.0.1:9191,127.0.0.1:9192\n  \
    synodkv status --watch                 every 2 seconds\n  \
    synodkv status --watch 0.5 --format json | jq -c '.replicas[].committed'\n  \
    synodkv status --format json | jq -r '.problems[] | .text, .remedy'", "there is no primary"))]
pub struct StatusArgs {
    #[command(flatten)]
    pub admin: AdminTarget,
    /// Repeat every SECONDS (0.1 to 3600) until Ctrl-C. [default when given without a number: 2]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = interval)]
    pub watch: Option<Duration>,
    /// How results are printed. `json` is the server's own answer on one line, with the problems
    /// reported by all servers, and `unanswered`: the servers that did not answer.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds, from 0.1 to 3600".to_string()),
    }
}

/// Make another replica the primary.
///
/// Writes wait for some milliseconds meanwhile, and none is refused. --admin may name any replica:
/// the command finds the primary and sends it one request. The exit status is also 0 if the
/// requested replica is primary already. If the primary hangs, the others elect another one by
/// themselves within some seconds.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv failover                       to the most up-to-date replica\n  \
    synodkv failover --to 1\n  \
    synodkv failover --to 1 --admin 10.0.0.1:9190,10.0.0.2:9190,10.0.0.3:9190\n\n\
    A server that is stopped in good order (SIGTERM, Ctrl-C) transfers leadership by itself.",
    "the primary is the same as before, with the reason"))]
pub struct FailoverArgs {
    /// The replica that becomes primary. [default: the most up-to-date one]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>)]
    pub to: Option<u32>,
    #[command(flatten)]
    pub admin: AdminTarget,
    /// How results are printed. `json` is the server's own answer.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Print the value of a key.
///
/// Sees every write acknowledged before. On a terminal the value is shown with escapes for what
/// cannot be printed, and a newline after it. To a file or a pipe its bytes are written as they
/// are, and nothing else, so that `synodkv get a | synodkv set b -` is a copy. With --escape or
/// --hex it is one line of text, wherever it goes.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv get hello\n  \
    synodkv get picture > picture.png\n  \
    synodkv get a | synodkv set b -\n  \
    synodkv get --escape 'user\\x00\\x01' --format json\n  \
    synodkv get --hex 75736572 --at 1200", "the key does not exist, or the server refused permanently"))]
pub struct GetArgs {
    /// The key, as it is; see --escape and --hex.
    pub key: OsString,
    /// The column family. [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub family: String,
    /// The value as of this version (as printed by `range --format json`), not the newest. By
    /// default versions of the last minute can be read (storage.readable_window_ms of the servers).
    #[arg(long, value_name = "VERSION", value_parser = whole_number::<u64>)]
    pub at: Option<u64>,
    /// Write the value's bytes as they are, without a newline, on a terminal, too.
    #[arg(long, conflicts_with = "format")]
    pub raw: bool,
    #[command(flatten)]
    pub target: ThriftTarget,
    #[command(flatten)]
    pub bytes: ByteArgs,
}

/// Set a key to a value.
///
/// Key and value are taken literally: `C:\temp\new` has two backslashes and no line feed. Standard
/// input always is.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv set hello world\n  \
    synodkv set settings '{\"separator\": \"\\n\"}'\n  \
    synodkv set picture - < picture.png\n  \
    synodkv set --escape 'user\\x00\\x01' 'first line\\nsecond line'\n  \
    synodkv set --hex 75736572 00ff", REFUSED))]
pub struct SetArgs {
    /// The key, as it is; see --escape and --hex.
    pub key: OsString,
    /// The value, as it is; `-` reads it from standard input. (The value `-` itself: --hex 2d.)
    #[arg(allow_hyphen_values = true)]
    pub value: OsString,
    /// The column family. [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub family: String,
    #[command(flatten)]
    pub target: ThriftTarget,
    #[command(flatten)]
    pub bytes: ByteArgs,
}

/// Delete a key. A key that does not exist is no error.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Example:\n  synodkv delete hello", REFUSED))]
pub struct DeleteArgs {
    /// The key, as it is; see --escape and --hex.
    pub key: OsString,
    /// The column family. [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub family: String,
    #[command(flatten)]
    pub target: ThriftTarget,
    #[command(flatten)]
    pub bytes: ByteArgs,
}

/// Run a script as one transaction: all of it happens at once, or nothing does.
///
/// One statement per line; `#` begins a comment. Everything is read at one version, with the
/// script's own writes on top. Reads count: if another client writes something that was read before
/// the commit, the whole script runs again, until the timeout. A failed `assert` ends the script.
/// Keys and values are text with escapes (\xNN, \\, \n, \t, \r, \0), in quotes if they contain
/// blanks. Prints the rows that were read (key, tab, value; escaped likewise) and the version of
/// the commit.
#[derive(Debug, Args)]
#[command(after_help = txn_help())]
pub struct TxnArgs {
    /// The script. [default: `-`, standard input]
    #[arg(value_name = "FILE", conflicts_with = "lines")]
    pub file: Option<PathBuf>,
    /// A line of the script, instead of a file; may be repeated.
    #[arg(short = 'e', long = "execute", value_name = "STATEMENT", allow_hyphen_values = true)]
    pub lines: Vec<String>,
    /// Fail at once on a conflict, instead of running the script again.
    #[arg(long)]
    pub no_retry: bool,
    /// Read as of this version: the commit fails if anything that was read has been written since.
    /// Implies --no-retry.
    #[arg(long, value_name = "VERSION", value_parser = whole_number::<u64>)]
    pub at: Option<u64>,
    /// The column family of statements that name none. [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub family: String,
    #[command(flatten)]
    pub target: ThriftTarget,
    #[command(flatten)]
    pub presentation: Presentation,
}

fn txn_help() -> String {
    let text = format!(
        "Statements:\n{}\n\n\
        `synodkv shell -e 'help range'` explains one, with its options.\n\n\
        Examples:\n  \
        synodkv txn -e 'assert balance 100' -e 'set balance 90' -e 'add transfers 1'\n  \
        synodkv txn migrate.txn --format json\n  \
        printf 'get a\\nclear --prefix tmp/\\n' | synodkv txn --no-retry",
        commands::list(|command| !command.is_for_shell_only())
    );
    epilogue(&text, "nothing was written: an assert failed, there was a conflict, or the server refused")
}

/// Enter commands interactively.
///
/// The shell has a history, completion by Tab, `help`, and transactions: the commands between
/// `begin` and `commit` take effect together, and reads among them see the writes before. Outside
/// of a transaction each command is a transaction of its own, and is retried on conflicts. If
/// standard input is not a terminal, the shell executes its lines without a prompt, and the first
/// that fails ends it with its exit status.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv shell\n  \
    synodkv shell -e 'help' -e 'help range'\n  \
    printf 'begin\\nset a 1\\nget a\\ncommit\\n' | synodkv shell\n\n\
    The history is kept in $XDG_STATE_HOME/synodkv/history, by default ~/.local/state/synodkv/history.",
    "a line failed permanently, or the input ended inside a transaction; without a terminal only"))]
pub struct ShellArgs {
    /// Execute this line instead of those of standard input; may be repeated.
    #[arg(short = 'e', long = "execute", value_name = "LINE", allow_hyphen_values = true)]
    pub lines: Vec<String>,
    /// Neither read nor write the history.
    #[arg(long)]
    pub no_history: bool,
    /// The column family to begin with; `use` chooses another. [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub family: String,
    #[command(flatten)]
    pub target: ThriftTarget,
    #[command(flatten)]
    pub presentation: Presentation,
}

/// Check that all replicas hold the same rows.
///
/// Compares counts and hashes of all rows of every column family at one version on each replica,
/// page by page, so it can run under load. If replicas differ, it prints the first row that
/// differs.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv verify\n  \
    synodkv verify --addr 127.0.0.1:9090,127.0.0.1:9091 --admin 127.0.0.1:9190,127.0.0.1:9191 --format json",
    "replicas differ, or the cluster itself reports a problem of one (3 if one could not be read)"))]
pub struct VerifyArgs {
    #[command(flatten)]
    pub target: ThriftTarget,
    #[command(flatten)]
    pub admin: AdminTarget,
    /// Rows compared at a time.
    #[arg(long, value_name = "ROWS", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub page: u64,
    #[command(flatten)]
    pub presentation: Presentation,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_description_and_an_example() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
            assert!(help.contains("Exit status"), "{} does not tell its exit status", command.get_name());
        }
    }

    #[test]
    fn every_command_has_a_man_page_with_its_flags_and_examples() {
        let pages = crate::generate::pages(Cli::command()).expect("in memory");
        let page = |name: &str| {
            let (_, page) = pages.iter().find(|(file, _)| file == name).unwrap_or_else(|| panic!("no {name}"));
            String::from_utf8(page.clone()).expect("text")
        };
        for command in Cli::command().get_subcommands() {
            page(&format!("synodkv-{}.1", command.get_name()));
        }
        let serve = page("synodkv-serve.1");
        for part in ["node\\-id", "SYNODKV_CONFIG", "Examples:", "cluster.toml"] {
            assert!(serve.contains(part), "no {part}: {serve}");
        }
        page("synodkv-upgrade-finalize.1");
    }

    #[test]
    fn an_invalid_number_is_refused_in_words() {
        for arguments in [
            &["get", "k", "--at", "x"][..],
            &["range", "--limit", "-1"],
            &["failover", "--to", "one"],
            &["serve", "--node-id", "-"],
        ] {
            let error = Cli::try_parse_from([&["synodkv"], arguments].concat()).expect_err("no number").to_string();
            assert!(error.contains("expected a whole number, 0 or more"), "{arguments:?}: {error}");
        }
        let error = Cli::try_parse_from(["synodkv", "get", "k", "--timeout-seconds", "0"]).expect_err("no time");
        assert!(error.to_string().contains("from 1 to 86400"), "{error}");
    }
}
