//! `member` and `join`: the members of a cluster.

mod args;
mod join;
mod plan;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use kv_server::membership::{Check, Checks, MemberRole, MemberView, MembersView, WantedMember, WantedMembers};
use serde_json::{Value, json};

use args::{Change, MemberAction, Place};
pub use args::{JoinArgs, MemberArgs};
pub use join::join;
use plan::Plan;

use crate::admin::{AdminClient, NoAnswer, failure_of, server_of_the_primary};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::targets::AdminTarget;

/// How often to look whether new voters have caught up.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often a change is made again, if another one comes between.
const ATTEMPTS: usize = 4;
/// A change that the cluster cannot make at this moment is tried again after this time.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub async fn run(args: MemberArgs) -> Result<ExitCode, Failure> {
    let (target, change, plan, is_voter) = match args.action {
        MemberAction::List { target, format } => return list(&target, format).await,
        MemberAction::Add { place, voter, target, change } => (target.into(), change, adding(place), voter),
        MemberAction::Promote { ids, target, change } => (target, change, Plan::Promote(ids), false),
        MemberAction::Demote { ids, target, change } => (target, change, Plan::Demote(ids), false),
        MemberAction::Replace { id, with, keep, target, change } => {
            (target, change, Plan::Replace { id, with, keep }, false)
        }
        MemberAction::Remove { ids, target, change } => (target, change, Plan::Remove(ids), false),
        MemberAction::Move { id, peer, thrift, admin, target, change } => {
            (target.into(), change, Plan::Move { id, peer, thrift, admin }, false)
        }
    };
    let client = Operator { client: AdminClient::new()?, target };
    if change.dry_run {
        return client.dry_run(&plan, change.format).await;
    }
    let mut members = client.make(&plan, &change).await?;
    if let (true, Plan::Add { id, .. }) = (is_voter, &plan) {
        members = client.make(&Plan::Promote(vec![*id]), &change).await?;
    }
    output::done(change.format, &members, format!("{}\n{}", show(&members), next_step(&plan, &members)).trim_end())
}

fn wanted_after(present: &MembersView, members: Vec<WantedMember>, force: bool) -> WantedMembers {
    WantedMembers { expected_epoch: present.epoch, members, force }
}

fn adding(place: Place) -> Plan {
    let Place { id, peer, thrift, admin } = place;
    Plan::Add { id, peer, thrift, admin }
}

async fn list(target: &AdminTarget, format: Format) -> Result<ExitCode, Failure> {
    let client = Operator { client: AdminClient::new()?, target: target.clone() };
    let (_, members) = client.members().await?;
    output::done(format, &members, &show(&members))
}

/// The cluster, as an operator reaches it.
struct Operator {
    client: AdminClient,
    target: AdminTarget,
}

impl Operator {
    /// The members, and the address of the server that would change them.
    async fn members(&self) -> Result<(String, MembersView), Failure> {
        let gathered = self.client.gather(&self.target).await?;
        let address = server_of_the_primary(&gathered)?.to_string();
        let shown = self.client.get(&address, "/members", &[], LOOK_TIMEOUT).await;
        Ok((address.clone(), shown.map_err(|no_answer| failure_of(&address, no_answer))?))
    }

    /// Makes the change, and returns the members after it.
    async fn make(&self, plan: &Plan, change: &Change) -> Result<MembersView, Failure> {
        let give_up_at = Instant::now() + Duration::from_secs(change.wait_seconds);
        if !change.force {
            self.wait_until_ready(plan, give_up_at).await?;
        }
        let mut attempt = 1;
        loop {
            let (address, present) = self.members().await?;
            let Some(wanted) = plan.apply(&present)? else { return Ok(present) };
            let document = wanted_after(&present, wanted, change.force);
            let no_answer = match self.client.post(&address, "/members", &[], &document).await {
                Ok(members) => return Ok(members),
                Err(no_answer) => no_answer,
            };
            // Another change came between, or the primary is a new one, or it is just about to
            // hear from a new voter.
            let may_pass = matches!(no_answer, NoAnswer::Refused(StatusCode::CONFLICT, _));
            if !may_pass || attempt == ATTEMPTS {
                return Err(failure_of(&address, no_answer));
            }
            attempt += 1;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Waits until the voters that the plan adds have caught up.
    async fn wait_until_ready(&self, plan: &Plan, give_up_at: Instant) -> Result<(), Failure> {
        let bar = output::progress("waiting until the new voters have caught up", None);
        loop {
            let (_, present) = self.members().await?;
            let waited_for = |id: &&u8| present.get(**id).is_none_or(|member| member.role == MemberRole::Observer);
            let unready = |id: &&u8| present.get(**id).is_some_and(|member| !member.ready);
            let Some(id) = plan.new_voters().iter().filter(waited_for).find(unready) else {
                bar.finish_and_clear();
                return Ok(());
            };
            let state = state_of(present.get(*id));
            if Instant::now() >= give_up_at {
                bar.finish_and_clear();
                return Err(Failure::Failed(format!(
                    "replica {id} has not caught up in time ({state}): it stays an observer. Start its server, or wait \
                     longer with --wait-seconds"
                )));
            }
            bar.set_message(format!("waiting for replica {id}: {state}"));
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn dry_run(&self, plan: &Plan, format: Format) -> Result<ExitCode, Failure> {
        let (address, present) = self.members().await?;
        let Some(wanted) = plan.apply(&present)? else {
            return output::done(format, &json!({ "allowed": true, "checks": [] }), "the members are so already");
        };
        let document = wanted_after(&present, wanted, false);
        let query = [("dry_run", "1".to_string())];
        let answer: Value = self
            .client
            .post(&address, "/members", &query, &document)
            .await
            .map_err(|no_answer| failure_of(&address, no_answer))?;
        let checks: Checks = serde_json::from_value(answer.clone()).map_err(Failure::of_answer)?;
        output::done(format, &answer, &show_checks(&checks))?;
        Ok(ExitCode::from(u8::from(!checks.allowed)))
    }
}

/// How long a server may take to show the members.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

fn state_of(member: Option<&MemberView>) -> String {
    match member {
        Some(MemberView { reachable: false, .. }) => "nothing is heard from it".to_string(),
        Some(MemberView { lag: Some(lag), .. }) => format!("it lacks {lag} entries"),
        _ => "it has not reported yet".to_string(),
    }
}

fn show(members: &MembersView) -> String {
    let mut rows = vec![["id", "role", "reachable", "lag", "peer", "thrift", "admin"].map(str::to_string).to_vec()];
    rows.extend(members.members.iter().map(|member| {
        let role = match member.role {
            MemberRole::Voter if members.primary == Some(member.id) => "voter, primary",
            MemberRole::Voter => "voter",
            MemberRole::Observer if member.is_witness => "observer (a witness's)",
            MemberRole::Observer => "observer",
            MemberRole::Witness => "witness",
        };
        let or_dash = |text: &str| if text.is_empty() { "-".to_string() } else { text.to_string() };
        vec![
            member.id.to_string(),
            role.to_string(),
            if member.reachable { "yes" } else { "no" }.to_string(),
            member.lag.map_or("-".to_string(), |lag| lag.to_string()),
            or_dash(&member.peer),
            or_dash(&member.thrift),
            or_dash(&member.admin),
        ]
    }));
    let changing = if members.changing { ", a change is under way" } else { "" };
    format!("epoch    {}{changing}\n\n{}{}", members.epoch, output::table(&rows), moving(members))
}

/// The members that have new addresses that are not recorded.
fn moving(members: &MembersView) -> String {
    let ids: Vec<String> =
        members.members.iter().filter(|member| member.is_moving).map(|member| member.id.to_string()).collect();
    if ids.is_empty() {
        return String::new();
    }
    format!(
        "\n\nthe cluster has not recorded the new addresses of replica {} yet: wait for that before another one moves",
        ids.join(", ")
    )
}

fn next_step(plan: &Plan, members: &MembersView) -> String {
    match plan {
        Plan::Add { id, .. } if members.get(*id).is_some_and(|member| member.role == MemberRole::Observer) => format!(
            "\nreplica {id} is an observer. Start its server with replication.join = true, and let it vote with \
             `synodkv member promote {id}`"
        ),
        Plan::Remove(_) | Plan::Replace { keep: false, .. } => {
            "\nthe server of a removed replica may be stopped once its own `synodkv status` says `removed`".to_string()
        }
        _ => String::new(),
    }
}

fn show_checks(checks: &Checks) -> String {
    let line = |check: &Check| match &check.reason {
        None => format!("ok  {}", check.name),
        Some(reason) if check.can_be_forced => format!("no  {}: {reason} (--force skips this)", check.name),
        Some(reason) => format!("no  {}: {reason}", check.name),
    };
    let lines: Vec<String> = checks.checks.iter().map(line).collect();
    let result = if checks.allowed { "the change is possible now" } else { "the change is not possible now" };
    debug_assert_eq!(checks.allowed, checks.checks.iter().all(|check| check.ok));
    format!("{}\n{result}; nothing was changed", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_listed_one_by_one_with_what_to_do() {
        let check = |name: &str, reason: Option<&str>, can_be_forced| Check {
            name: name.to_string(),
            ok: reason.is_none(),
            reason: reason.map(str::to_string),
            can_be_forced,
        };
        let checks = vec![check("it leads", None, false), check("all are ready", Some("start replica 3"), true)];
        let text = show_checks(&Checks { allowed: false, checks });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ok  it leads");
        assert_eq!(lines[1], "no  all are ready: start replica 3 (--force skips this)");
        assert_eq!(lines[2], "the change is not possible now; nothing was changed");
    }
}
