//! Which survivor is kept.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use rsml::offline::{Survivor, can_elect};
use rsml::{ReplicaId, Sequence, View};

use super::error::RecoverError;
use super::inspection::{Inspection, MembersAt};
use super::plan::{FORMAT, Plan};
use super::words;

/// Chooses among the survivors of a cluster, each with the name of the file that it comes from. The
/// choice is that of phase 1, unless entries that it needs are lost: then `keep`, the number of a
/// replica, has to name the one to keep.
///
/// # Errors
/// The survivors belong to different clusters, can elect a primary by themselves, or `keep` would
/// lose more than another choice.
pub fn make_plan(survivors: &[(String, Inspection)], keep: Option<u32>) -> Result<Plan, RecoverError> {
    check_inputs(survivors)?;
    let all: Vec<&Inspection> = survivors.iter().map(|(_, survivor)| survivor).collect();
    let members = newest_members(&all)?;
    refuse_if_they_can_elect(&all, &members)?;
    let (chosen, through) = choose(&all, keep)?;
    let present: BTreeSet<(u32, &str)> = all.iter().map(|s| (s.replica, s.disk_id.as_str())).collect();
    let lost = |members: &MembersAt| -> Vec<u32> {
        members.voters().filter(|voter| !present.contains(voter)).map(|(id, _)| id).collect()
    };
    let lost_voters: BTreeSet<u32> = members.iter().flat_map(|members| lost(members)).collect();
    let mut plan = Plan {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_string(),
        cluster_id: chosen.cluster_id.clone(),
        replica: chosen.replica,
        disk_id: chosen.disk_id.clone(),
        boot: chosen.boot,
        promised: chosen.promised,
        accepted_view: chosen.accepted_view,
        log_last: chosen.log.last,
        keep_through: through,
        committed: chosen.committed.min(through),
        applied: chosen.applied(),
        survivors: all.iter().map(|survivor| survivor.replica).collect(),
        lost_voters: lost_voters.into_iter().collect(),
        consequences: Vec::new(),
    };
    plan.consequences = words::consequences(&plan, chosen, &all);
    Ok(plan)
}

fn check_inputs(survivors: &[(String, Inspection)]) -> Result<(), RecoverError> {
    let Some((first_name, first)) = survivors.first() else {
        return Err(RecoverError::Input("name the inspection of at least one survivor".to_string()));
    };
    for (place, (name, survivor)) in survivors.iter().enumerate() {
        if survivor.cluster_id != first.cluster_id {
            return Err(RecoverError::Refused(format!(
                "{first_name} is of cluster {}, and {name} of cluster {}: a plan is about one cluster. One of them is the \
                 wrong directory, or was recovered already",
                first.cluster_id, survivor.cluster_id
            )));
        }
        let same = survivors[..place].iter().find(|(_, other)| other.disk_id == survivor.disk_id);
        if let Some((other, _)) = same {
            return Err(RecoverError::Input(format!(
                "{other} and {name} are of the same disk ({}): name each survivor once, with its newest inspection",
                survivor.disk_id
            )));
        }
    }
    Ok(())
}

/// The members of the newest epoch that a survivor acts in, and those that a seal names, which may
/// be chosen already.
fn newest_members<'s>(all: &[&'s Inspection]) -> Result<Vec<&'s MembersAt>, RecoverError> {
    let epoch = all.iter().map(|survivor| survivor.epoch).max().unwrap_or_default();
    let of_epoch = || all.iter().filter(|survivor| survivor.epoch == epoch);
    let now = of_epoch().find_map(|survivor| survivor.configuration.as_ref());
    let now = now.ok_or_else(|| {
        let ids: Vec<String> = of_epoch().map(|survivor| survivor.replica.to_string()).collect();
        RecoverError::Refused(format!(
            "nobody knows the members of epoch {epoch}: replica {} acts in it, but its database lacks what came before its \
             log. Name more survivors, or put its database back",
            ids.join(", ")
        ))
    })?;
    let next = of_epoch().find_map(|survivor| survivor.next_configuration.as_ref());
    Ok([Some(now), next].into_iter().flatten().collect())
}

fn refuse_if_they_can_elect(all: &[&Inspection], members: &[&MembersAt]) -> Result<(), RecoverError> {
    if !members.iter().all(|members| can_elect_in(all, members)) {
        return Ok(());
    }
    let voters: Vec<String> = members[0].voters().map(|(id, _)| id.to_string()).collect();
    let present: Vec<String> = voting(all, members[0]).iter().map(|s| s.replica.to_string()).collect();
    Err(RecoverError::Refused(format!(
        "nothing has to be recovered: replicas {} are a majority of the voters {} of epoch {}. Start them: they elect a \
         primary, and nothing is lost",
        present.join(", "),
        voters.join(", "),
        members[0].epoch
    )))
}

fn voting<'s>(all: &[&'s Inspection], members: &MembersAt) -> Vec<&'s Inspection> {
    let voters: BTreeSet<(u32, &str)> = members.voters().collect();
    all.iter().copied().filter(|survivor| voters.contains(&(survivor.replica, &survivor.disk_id))).collect()
}

fn can_elect_in(all: &[&Inspection], members: &MembersAt) -> bool {
    let sequences = |(from, to): &(u64, u64)| (Sequence(*from), Sequence(*to));
    let survivors: Vec<Survivor> = voting(all, members)
        .into_iter()
        .map(|survivor| Survivor {
            replica: ReplicaId(survivor.replica as u8),
            accepted_view: View(survivor.accepted_view),
            first: Sequence(survivor.log.first),
            last: Sequence(survivor.log.last),
            committed: Sequence(survivor.committed),
            lost: survivor.log.lost.iter().map(sequences).collect(),
        })
        .collect();
    can_elect(&survivors, members.voters().count())
}

/// The survivor to keep, and the last entry that is kept.
fn choose<'s>(all: &[&'s Inspection], keep: Option<u32>) -> Result<(&'s Inspection, u64), RecoverError> {
    let best = best_rank(all);
    let in_doubt = all.iter().find(|survivor| may_know_better(survivor, best, all)).copied();
    let is_whole = |survivor: &&&Inspection| survivor.rank() == best && survivor.sound_through() == Some(best.2);
    let whole = all.iter().filter(is_whole).max_by_key(|s| (s.applied(), Reverse(s.replica))).copied();
    let whole = whole.filter(|_| in_doubt.is_none());
    let Some(id) = keep else {
        return match (whole, in_doubt) {
            (Some(survivor), _) => Ok((survivor, best.2)),
            (None, Some(knows)) => Err(RecoverError::Refused(words::in_doubt(all, best, knows))),
            (None, None) => Err(RecoverError::Refused(words::nobody_is_whole(all, best))),
        };
    };
    let Some(named) = all.iter().copied().find(|survivor| survivor.replica == id) else {
        let ids: Vec<String> = all.iter().map(|survivor| survivor.replica.to_string()).collect();
        return Err(RecoverError::Input(format!("--keep {id}: the inspections are of replicas {}", ids.join(", "))));
    };
    let through = named.sound_through().ok_or_else(|| RecoverError::Refused(words::has_no_database(named)))?;
    match (whole, more_than(named, through, all)) {
        (Some(_), _) if named.rank() == best && through == best.2 => Ok((named, through)),
        (Some(better), _) => Err(RecoverError::Refused(words::holds_more(better, best.2, named, through))),
        (None, Some((better, through_better))) => {
            Err(RecoverError::Refused(words::holds_more(better, through_better, named, through)))
        }
        (None, None) => Ok((named, through)),
    }
}

/// The log that phase 1 would adopt. Phase 1 can rely on a majority, and here there is none: a
/// survivor may know entries as chosen, from a copy, that the log of the newest view does not
/// reach. So only logs that reach all of these are compared.
fn best_rank(all: &[&Inspection]) -> (u64, u64, u64) {
    let known = all.iter().map(|survivor| survivor.committed).max().unwrap_or_default();
    let reaching = all.iter().filter(|survivor| survivor.log.last >= known);
    reaching.map(|survivor| survivor.rank()).max().unwrap_or_default()
}

/// Whether this survivor knows entries as chosen that the best log might contradict: they came with
/// a copy, whose view is at most the promised one, and the best log is of a lower view.
fn may_know_better(survivor: &Inspection, best: (u64, u64, u64), all: &[&Inspection]) -> bool {
    let (_, view, _) = best;
    let of_best = all.iter().filter(|other| other.rank() == best);
    let known_to_best = of_best.map(|other| other.committed).max().unwrap_or_default();
    survivor.committed > known_to_best && survivor.accepted_view < view && view < survivor.promised
}

/// A survivor that holds all that `named` holds through `through`, and more.
fn more_than<'s>(named: &Inspection, through: u64, all: &[&'s Inspection]) -> Option<(&'s Inspection, u64)> {
    let others = all.iter().filter_map(|survivor| Some((*survivor, survivor.sound_through()?)));
    let in_same_view =
        others.filter(|(other, _)| (other.epoch, other.accepted_view) == (named.epoch, named.accepted_view));
    in_same_view.max_by_key(|(_, sound)| *sound).filter(|(_, sound)| *sound > through)
}
