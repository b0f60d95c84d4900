//! `family`: lists, creates and drops column families.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::admin::AdminClient;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::targets::AdminTarget;
use crate::usage::epilogue;

/// Create, drop and list column families.
///
/// Like a write, a change takes effect on all replicas. Creating a family that exists changes
/// nothing. Dropping one removes all its rows at once, permanently.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv family list\n  \
    synodkv family create orders\n  \
    synodkv set --family orders 1 paid\n  \
    synodkv family drop orders", NO))]
pub struct FamilyArgs {
    #[command(subcommand)]
    pub action: FamilyAction,
}

const NO: &str = "the server refused it permanently: no such family, or one that cannot be dropped";

#[derive(Debug, Subcommand)]
pub enum FamilyAction {
    /// Show the column families.
    #[command(after_help = epilogue("Example:\n  synodkv family list", NO))]
    List(FamilyTarget),
    /// Create a column family.
    #[command(after_help = epilogue("Example:\n  synodkv family create orders", NO))]
    Create {
        /// Its name: 1 to 64 letters, digits, or any of `_`, `-`, `.`
        name: String,
        #[command(flatten)]
        target: FamilyTarget,
    },
    /// Drop a column family with all its rows.
    ///
    /// A family that `storage.column_families` names cannot be dropped, because the next write
    /// would create it again.
    #[command(after_help = epilogue("Example:\n  synodkv family drop orders", NO))]
    Drop {
        /// Its name, as `family list` shows it.
        name: String,
        #[command(flatten)]
        target: FamilyTarget,
    },
}

#[derive(Debug, Args)]
pub struct FamilyTarget {
    #[command(flatten)]
    pub admin: AdminTarget,
    /// How results are printed. `json` is the server's own answer.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Deserialize)]
struct Families {
    column_families: Vec<Family>,
}

#[derive(Debug, Deserialize)]
struct Family {
    name: String,
    exists: bool,
    configured: bool,
}

pub async fn run(args: FamilyArgs) -> Result<ExitCode, Failure> {
    match args.action {
        FamilyAction::List(target) => {
            let client = AdminClient::new()?;
            let (_, document): (String, Value) = client.first(&target.admin, "/column-families").await?;
            let families: Families = serde_json::from_value(document.clone()).map_err(Failure::of_answer)?;
            match target.format {
                Format::Json => output::write_json(&document)?,
                Format::Text => output::write_line(&show(&families))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        FamilyAction::Create { name, target } => {
            let document = change(Method::POST, &target, &name).await?;
            output::done(target.format, &document, &format!("column family {name} exists"))
        }
        FamilyAction::Drop { name, target } => {
            let document = change(Method::DELETE, &target, &name).await?;
            output::done(target.format, &document, &format!("column family {name} is gone, with all its rows"))
        }
    }
}

async fn change(method: Method, target: &FamilyTarget, name: &str) -> Result<Value, Failure> {
    // The name becomes part of a URL path, so invalid characters must not change where it leads.
    if let Some(fault) = kv_api::family_name_fault(name) {
        return Err(Failure::Usage(format!("column family `{name}`: {fault}")));
    }
    let client = AdminClient::new()?;
    client.change(method, &target.admin, &format!("/column-families/{name}"), &[]).await
}

fn show(families: &Families) -> String {
    let line = |family: &Family| match (family.exists, family.configured) {
        (false, _) => format!("{}  (created by the first write: storage.column_families names it)", family.name),
        (true, true) => format!("{}  (storage.column_families names it)", family.name),
        (true, false) => family.name.clone(),
    };
    families.column_families.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_family_names_its_origin() {
        let family = |name: &str, exists, configured| Family { name: name.into(), exists, configured };
        let column_families =
            vec![family("default", true, false), family("later", false, true), family("users", true, true)];
        let shown = show(&Families { column_families });
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "default");
        assert!(lines[1].starts_with("later  (created by the first write"), "{shown}");
        assert_eq!(lines[2], "users  (storage.column_families names it)");
    }
}
