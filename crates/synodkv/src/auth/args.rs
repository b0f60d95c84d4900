//! The command line of `auth`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::output::Format;
use crate::targets::AdminTarget;
use crate::usage::epilogue;

const NO: &str = "the server refused it: no such user or role, or you may not do this";

/// Enable authentication, and manage users, roles and tokens.
///
/// As long as authentication is not enabled, everybody who reaches a server may do everything.
/// Afterwards every request needs an identity: a token, a client certificate, or a JWT.
/// Everything that no role grants is denied. Changes take effect on all servers, like a write.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv auth enable --root-token-file root.token\n  \
    export SYNODKV_TOKEN_FILE=root.token\n  \
    synodkv auth role set shop --grant 'read,write orders prefix:eu/' --grant 'read customers'\n  \
    synodkv auth user add anna --role shop\n  \
    synodkv auth token create anna --expires 90d > anna.token\n  \
    synodkv auth check anna write orders eu/1", NO))]
pub struct AuthArgs {
    #[command(subcommand)]
    pub action: AuthAction,
}

#[derive(Debug, Subcommand)]
pub enum AuthAction {
    Enable(EnableArgs),
    /// Disable authentication: everybody may do everything again.
    ///
    /// Needs admin:auth. Users, roles and tokens are kept for the next `enable`.
    #[command(after_help = epilogue("Example:\n  synodkv auth disable --i-understand", NO))]
    Disable {
        /// Confirms that everybody who reaches a server may then do everything.
        #[arg(long)]
        i_understand: bool,
        #[command(flatten)]
        target: AuthTarget,
    },
    /// Show users, roles and tokens.
    #[command(after_help = epilogue("Example:\n  synodkv auth show", NO))]
    Show(AuthTarget),
    Check(CheckArgs),
    /// Add, change and remove users.
    #[command(after_help = epilogue("Example:\n  synodkv auth user add anna --role reader", NO))]
    User {
        #[command(subcommand)]
        action: UserAction,
    },
    /// Set and remove roles.
    #[command(after_help = epilogue("Example:\n  synodkv auth role set shop --grant 'read,write orders'", NO))]
    Role {
        #[command(subcommand)]
        action: RoleAction,
    },
    /// Create, list and revoke tokens.
    #[command(after_help = epilogue("Example:\n  synodkv auth token create anna --expires 90d > anna.token", NO))]
    Token {
        #[command(subcommand)]
        action: TokenAction,
    },
}

/// Enable authentication, with a first user `root` who may do everything.
///
/// Writes a new token for root to the file, which only its owner can read. If the file exists, its
/// token is used, so that the command can be repeated. From then on nothing is answered without an
/// identity, apart from `ping`, `authenticate` and /health.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Example:\n  \
    synodkv auth enable --root-token-file root.token && export SYNODKV_TOKEN_FILE=root.token", NO))]
pub struct EnableArgs {
    /// Where the token of root is written.
    #[arg(long, value_name = "FILE")]
    pub root_token_file: PathBuf,
    /// Allow it although tokens then travel over the network without encryption.
    #[arg(long)]
    pub allow_plaintext: bool,
    #[command(flatten)]
    pub target: AuthTarget,
}

/// Decide whether a user may do something, and say why.
///
/// The exit status is 1 if not.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv auth check anna write orders eu/1\n  \
    synodkv auth check anna admin:status", "the user may not do it, or the server refused the question"))]
pub struct CheckArgs {
    /// The user.
    pub user: String,
    /// read, write, watch, admin:status, admin:family, admin:member, admin:backup, admin:auth or fault.
    pub verb: String,
    /// The column family. [default: all of them]
    pub family: Option<String>,
    /// The key, as text with escapes; see --hex. [default: all keys]
    pub key: Option<OsString>,
    #[command(flatten)]
    pub bytes: HexArg,
    #[command(flatten)]
    pub target: AuthTarget,
}

#[derive(Debug, Args)]
pub struct HexArg {
    /// The key is hexadecimal.
    #[arg(long)]
    pub hex: bool,
}

#[derive(Debug, Subcommand)]
pub enum UserAction {
    /// Add a user.
    #[command(after_help = epilogue("Example:\n  synodkv auth user add anna --role reader --role metrics", NO))]
    Add {
        /// Its name: 1 to 128 letters, digits, or any of `_`, `-`, `.`, `@`, `:`
        name: String,
        /// A role of the user; may be repeated. Built in: root, reader, writer, operator, metrics.
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
        #[command(flatten)]
        target: AuthTarget,
    },
    /// Remove a user with its tokens.
    #[command(after_help = epilogue("Example:\n  synodkv auth user remove anna", NO))]
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        target: AuthTarget,
    },
    /// Replace the roles of a user.
    #[command(after_help = epilogue("Example:\n  synodkv auth user roles anna --role writer", NO))]
    Roles {
        /// Its name.
        name: String,
        /// A role of the user; may be repeated. Without any, the user may do nothing.
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
        #[command(flatten)]
        target: AuthTarget,
    },
    /// Shut a user out at once, whatever it presents.
    #[command(after_help = epilogue("Example:\n  synodkv auth user disable anna", NO))]
    Disable {
        /// Its name.
        name: String,
        #[command(flatten)]
        target: AuthTarget,
    },
    /// Let a disabled user in again.
    #[command(after_help = epilogue("Example:\n  synodkv auth user enable anna", NO))]
    Enable {
        /// Its name.
        name: String,
        #[command(flatten)]
        target: AuthTarget,
    },
}

#[derive(Debug, Subcommand)]
pub enum RoleAction {
    /// Create a role, or replace its grants.
    ///
    /// A grant is `VERBS FAMILIES [KEYS]`. VERBS and FAMILIES are lists with commas; `*` is every
    /// family. KEYS are `prefix:P`, `range:A..B`, `range:A..` or `range:..B`, where \xNN is the byte
    /// NN; without KEYS, all keys.
    #[command(after_help = epilogue("Examples:\n  \
        synodkv auth role set shop --grant 'read,write orders prefix:eu/' --grant 'read customers,default'\n  \
        synodkv auth role set backup --grant 'read *' --grant 'admin:backup *'", NO))]
    Set {
        /// Its name.
        name: String,
        /// A grant of the role; may be repeated.
        #[arg(long, value_name = "GRANT")]
        grant: Vec<String>,
        #[command(flatten)]
        target: AuthTarget,
    },
    /// Remove a role that no user has.
    #[command(after_help = epilogue("Example:\n  synodkv auth role remove shop", NO))]
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        target: AuthTarget,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Create a token for a user, and print it. It cannot be shown again.
    #[command(after_help = epilogue("Example:\n  synodkv auth token create anna --expires 90d > anna.token", NO))]
    Create {
        /// The user.
        user: String,
        /// How long it is valid: a number with s, m, h or d. [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires: Option<Duration>,
        #[command(flatten)]
        target: AuthTarget,
    },
    /// List the tokens, without their secrets.
    #[command(after_help = epilogue("Example:\n  synodkv auth token list", NO))]
    List(AuthTarget),
    /// Revoke a token at once.
    #[command(after_help = epilogue("Example:\n  synodkv auth token revoke 0123456789abcdef", NO))]
    Revoke {
        /// Its id, as `auth token list` shows it.
        id: String,
        #[command(flatten)]
        target: AuthTarget,
    },
}

#[derive(Debug, Args)]
pub struct AuthTarget {
    #[command(flatten)]
    pub admin: AdminTarget,
    /// How results are printed. `json` is the server's own answer.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let wanted = || "expected a number with s, m, h or d, for example 90d".to_string();
    let at = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wanted)?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wanted()),
    };
    let number: u64 = number.parse().map_err(|_| wanted())?;
    match number.checked_mul(unit) {
        Some(seconds @ 1..=3_153_600_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected more than nothing and at most 36500d".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_a_unit() {
        assert_eq!(lifetime("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(lifetime("5s"), Ok(Duration::from_secs(5)));
        for wrong in ["", "d", "90", "-1d", "1.5h", "0d", "99999999999999999999d", "36501d", "1ä"] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }
}
