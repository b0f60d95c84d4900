//! `join`: makes this machine a member, and writes the configuration of its server.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use kv_server::membership::{MemberView, MembersView};
use serde_json::json;

use super::args::{Change, JoinArgs};
use super::{Operator, adding};
use crate::admin::AdminClient;
use crate::failure::Failure;
use crate::output;

pub async fn join(args: JoinArgs) -> Result<ExitCode, Failure> {
    let JoinArgs { place, config, data_dir, witness, target, format } = args;
    check_free(&config, &data_dir)?;
    let id = place.id;
    let operator = Operator { client: AdminClient::new()?, target: target.into() };
    let change = Change { format, dry_run: false, force: false, wait_seconds: 0 };
    let members = operator.make(&adding(place), &change).await?;
    let text = configuration(&members, id, &data_dir, witness);
    write_new(&config, &text).map_err(|error| {
        Failure::Unsure(format!(
            "replica {id} is a member now, but {} cannot be written: {error}. Repeat the command with another --config",
            config.display()
        ))
    })?;
    let (file, document) = (config.display(), json!({ "config": config, "members": members }));
    output::done(
        format,
        &document,
        &format!(
            "replica {id} is an observer of the cluster, and {file} is written. Add what is particular to this machine \
             (certificates: [server.tls], [replication.tls]), then start it:\n  synodkv serve --config {file}\nLet it vote \
             once it has caught up:\n  synodkv member promote {id}"
        ),
    )
}

/// Checks what can be checked before anything is changed.
fn check_free(config: &Path, data_dir: &Path) -> Result<(), Failure> {
    if config.exists() {
        return Err(Failure::Usage(format!("{} exists: choose another --config, or remove it", config.display())));
    }
    let holds_data = data_dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if holds_data {
        return Err(Failure::Usage(format!(
            "{} is not empty: a new member starts with an empty directory; choose another --data-dir",
            data_dir.display()
        )));
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The configuration of the new member's server. The other members are listed so that it finds
/// them; from then on it knows them from the cluster.
fn configuration(members: &MembersView, id: u8, data_dir: &Path, is_witness: bool) -> String {
    let quoted = |text: &str| toml_string(text);
    let mut text = format!(
        "mode = \"replicated\"\n\n[storage]\ndata_dir = {}\n\n[replication]\nnode_id = {id}\njoin = true\n{}",
        quoted(&data_dir.display().to_string()),
        if is_witness { "witness = true\n" } else { "" }
    );
    let reachable =
        |member: &&MemberView| !member.peer.is_empty() && !member.thrift.is_empty() && !member.admin.is_empty();
    for member in members.members.iter().filter(reachable) {
        let MemberView { id, peer, thrift, admin, .. } = member;
        let _ = write!(
            text,
            "\n[[replication.replicas]]\nid = {id}\npeer = {}\nthrift = {}\nadmin = {}\n",
            quoted(peer),
            quoted(thrift),
            quoted(admin)
        );
    }
    text
}

/// A basic string of TOML: the escapes of JSON are allowed there as well.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use kv_server::membership::MemberRole;

    use super::*;

    #[test]
    fn the_configuration_lists_the_members_that_can_be_reached_and_joins() {
        let member = |id: u8, peer: &str| MemberView {
            id,
            role: MemberRole::Voter,
            disk: None,
            present_disk: None,
            is_witness: false,
            peer: peer.to_string(),
            thrift: "t:1".to_string(),
            admin: "a:1".to_string(),
            is_moving: false,
            reachable: true,
            lag: None,
            ready: false,
        };
        let members = vec![member(0, "p:1"), member(1, ""), member(3, "q:1")];
        let members = MembersView { epoch: 2, since: 5, changing: false, primary: None, members };
        let text = configuration(&members, 3, Path::new("/a \"b\""), false);
        assert!(!text.contains("witness"), "{text}");
        assert!(configuration(&members, 3, Path::new("/a"), true).contains("join = true\nwitness = true\n"));
        assert!(text.contains("node_id = 3\njoin = true\n"), "{text}");
        assert!(text.contains("data_dir = \"/a \\\"b\\\"\""), "{text}");
        assert_eq!(text.matches("[[replication.replicas]]").count(), 2, "{text}");
    }
}
