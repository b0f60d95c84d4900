//! The command line of `member` and `join`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::output::Format;
use crate::targets::{AdminTarget, ClusterTarget};
use crate::usage::{epilogue, whole_number};

/// See and change the members of a cluster, while it works.
///
/// A member is a voter or an observer. Voters agree on every write; a majority of them must run. An
/// observer follows without a vote, so adding one never endangers the cluster. A new machine joins
/// as an observer, catches up, and is then promoted. Every change happens in one step of the log:
/// `member promote 1 2` takes a cluster from one voter to three without passing through two.
///
/// A voter that came back with an empty disk needs no command: it catches up, and votes again by
/// itself. Nor does a replica whose addresses changed: it announces those of its own configuration.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv member list\n  \
    synodkv member add --id 3 --peer 10.0.0.4:6001 --thrift 10.0.0.4:9090 --admin 10.0.0.4:9190\n  \
    synodkv member promote 3 4             two at once: an even number of voters survives no more failures\n  \
    synodkv member replace 2 --with 3      3 votes instead of 2, in one step\n  \
    synodkv member remove 4 --dry-run      what that needs, and whether it is so", NO))]
pub struct MemberArgs {
    #[command(subcommand)]
    pub action: MemberAction,
}

const NO: &str = "the members are the same as before, with the reason; with --dry-run: the change is not possible now";

#[derive(Debug, Subcommand)]
pub enum MemberAction {
    /// Show the members, their parts and addresses, and how far each has come.
    #[command(after_help = epilogue("Example:\n  synodkv member list --format json", NO))]
    List {
        #[command(flatten)]
        target: AdminTarget,
        /// How results are printed.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Add a member, as an observer. Start its server with `replication.join = true` before or after.
    #[command(after_help = epilogue("Examples:\n  \
        synodkv member add --id 3 --peer h3:6001 --thrift h3:9090 --admin h3:9190\n  \
        synodkv member add --id 3 --peer h3:6001 --thrift h3:9090 --admin h3:9190 --voter\n\n\
        On the new machine itself, `synodkv join` does this, and writes the configuration of its server.", NO))]
    Add {
        #[command(flatten)]
        place: Place,
        /// Wait until it has caught up, and let it vote.
        #[arg(long)]
        voter: bool,
        #[command(flatten)]
        target: ClusterTarget,
        #[command(flatten)]
        change: Change,
    },
    /// Let observers vote, all in one step. Waits until they have caught up.
    #[command(after_help = epilogue("Examples:\n  synodkv member promote 1 2\n  synodkv member promote 3 4 --dry-run", NO))]
    Promote {
        /// The observers.
        #[arg(required = true, value_name = "ID", value_parser = whole_number::<u8>)]
        ids: Vec<u8>,
        #[command(flatten)]
        target: AdminTarget,
        #[command(flatten)]
        change: Change,
    },
    /// Take the vote from voters, all in one step. They stay as observers.
    #[command(after_help = epilogue("Example:\n  synodkv member demote 3 4", NO))]
    Demote {
        /// The voters.
        #[arg(required = true, value_name = "ID", value_parser = whole_number::<u8>)]
        ids: Vec<u8>,
        #[command(flatten)]
        target: AdminTarget,
        #[command(flatten)]
        change: Change,
    },
    /// Let an observer vote in the place of a voter, in one step. The voter is removed.
    #[command(after_help = epilogue("Example:\n  synodkv member replace 2 --with 3", NO))]
    Replace {
        /// The voter that leaves.
        #[arg(value_name = "ID", value_parser = whole_number::<u8>)]
        id: u8,
        /// The observer that votes from then on. Waits until it has caught up.
        #[arg(long = "with", value_name = "ID", value_parser = whole_number::<u8>)]
        with: u8,
        /// The voter that leaves stays as an observer.
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        target: AdminTarget,
        #[command(flatten)]
        change: Change,
    },
    /// Remove members, all in one step. Stop their servers once `status` of them says `removed`.
    #[command(after_help = epilogue("Examples:\n  synodkv member remove 3 4\n  synodkv member remove 4 --dry-run", NO))]
    Remove {
        /// The members that leave.
        #[arg(required = true, value_name = "ID", value_parser = whole_number::<u8>)]
        ids: Vec<u8>,
        #[command(flatten)]
        target: AdminTarget,
        #[command(flatten)]
        change: Change,
    },
    /// Correct the addresses of a member that the others cannot reach any more.
    ///
    /// That is rarely needed: a replica announces the addresses of its own configuration itself.
    /// While it runs and announces others, those win.
    #[command(after_help = epilogue("Example:\n  synodkv member move 1 --peer h7:6001", NO))]
    Move {
        /// The member.
        #[arg(value_name = "ID", value_parser = whole_number::<u8>)]
        id: u8,
        /// Where its peers reach it. [default: as before]
        #[arg(long, value_name = "HOST:PORT")]
        peer: Option<String>,
        /// Where Thrift clients reach it. [default: as before]
        #[arg(long, value_name = "HOST:PORT")]
        thrift: Option<String>,
        /// Where its admin interface is. [default: as before]
        #[arg(long, value_name = "HOST:PORT")]
        admin: Option<String>,
        #[command(flatten)]
        target: ClusterTarget,
        #[command(flatten)]
        change: Change,
    },
}

/// A member's id and addresses.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Its id: one that no member has, 0 to 254.
    #[arg(long, value_name = "ID", value_parser = whole_number::<u8>)]
    pub id: u8,
    /// Where its peers reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: String,
    /// Where Thrift clients reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub thrift: String,
    /// Where its admin interface is. (The addresses of the cluster: --to.)
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: String,
}

#[derive(Clone, Debug, Args)]
pub struct Change {
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// List what the change needs, and whether that is so; change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Skip the checks that only keep the cluster running: new voters that are not there or lag,
    /// an even number of voters. Acknowledged writes are safe even so.
    #[arg(long, conflicts_with = "dry_run")]
    pub force: bool,
    /// How long to wait until new voters have caught up, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = whole_number::<u64>)]
    pub wait_seconds: u64,
}

/// Make this machine a member of a cluster: adds it as an observer, and writes the configuration
/// of its server.
///
/// Then start the server, and let it vote with `synodkv member promote`.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Example, on the new machine:\n  \
    synodkv join --to 10.0.0.1:9190 --id 3 --peer 10.0.0.4:6001 --thrift 10.0.0.4:9090 --admin 10.0.0.4:9190 \\\n      \
    --data-dir /var/lib/synodkv --config synodkv.toml\n  \
    synodkv serve --config synodkv.toml\n  \
    synodkv member promote 3 4 --admin 10.0.0.1:9190", NO))]
pub struct JoinArgs {
    #[command(flatten)]
    pub place: Place,
    /// The configuration file that is written; it must not exist.
    #[arg(long, value_name = "FILE", default_value = "synodkv.toml")]
    pub config: PathBuf,
    /// The data directory in that file; it must not hold data.
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// As a witness: it will vote and keep the log, hold no data, and never lead. For a third place
    /// between two data centres.
    #[arg(long)]
    pub witness: bool,
    #[command(flatten)]
    pub target: ClusterTarget,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
