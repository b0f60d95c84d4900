//! The consequences of a recovery, in words for the operator.

use super::inspection::Inspection;
use super::plan::Plan;

fn range(from: u64, to: u64) -> String {
    if from == to { format!("entry {from}") } else { format!("entries {from} to {to}") }
}

fn ids(ids: impl IntoIterator<Item = u32>) -> String {
    ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}

fn replicas(numbers: &[u32]) -> String {
    let word = if numbers.len() == 1 { "replica" } else { "replicas" };
    format!("{word} {}", ids(numbers.iter().copied()))
}

/// Says which data are kept, and which may be lost or come back.
pub(super) fn consequences(plan: &Plan, chosen: &Inspection, all: &[&Inspection]) -> Vec<String> {
    let Plan { replica, keep_through, committed, applied, .. } = plan;
    let mut said = vec![format!(
        "kept: replica {replica} (disk {}), its log of view {} through entry {keep_through}; its database has applied {}",
        plan.disk_id,
        plan.accepted_view,
        if applied == keep_through { "all of it".to_string() } else { format!("{applied}, and gets the rest") },
    )];
    let is_whole = *keep_through == plan.log_last;
    if is_whole {
        said.push(format!(
            "certain: every write that {} acknowledged to a client of its own",
            replicas(&plan.survivors)
        ));
    }
    let lost = match plan.lost_voters.as_slice() {
        [] => "replicas that are lost".to_string(),
        lost => replicas(lost),
    };
    said.push(format!(
        "may be lost: entries from {} on. If {lost} made some durable that no survivor has, their clients may have got \
         acknowledgements for them. Nobody can know whether there were any, and how many",
        keep_through + 1
    ));
    if keep_through > committed {
        said.push(format!(
            "may come back: {}. The survivors do not know whether they were chosen, so they are kept: also writes whose \
             clients got COMMIT_UNKNOWN_RESULT, or no answer",
            range(committed + 1, *keep_through)
        ));
    }
    if !is_whole {
        said.push(lossy(plan, chosen));
    }
    if let Some(newer) = all.iter().filter(|other| other.rank() > chosen.rank()).max_by_key(|other| other.rank()) {
        said.push(format!(
            "may contradict acknowledged writes: replica {} has a log of view {}, which is newer than view {}. From entry {} \
             on the kept log may hold other entries than the ones that were chosen",
            newer.replica,
            newer.accepted_view,
            chosen.accepted_view,
            chosen.committed + 1
        ));
    }
    said.push(
        "clients: read versions from before the recovery get TRANSACTION_TOO_OLD; sessions of former replicas end; writes \
         with an idempotency id that is remembered are still executed once"
            .to_string(),
    );
    said
}

fn lossy(plan: &Plan, chosen: &Inspection) -> String {
    let Plan { keep_through, log_last, .. } = plan;
    let known = match chosen.committed {
        committed if committed > *keep_through => {
            format!(
                "{} are known as chosen, so acknowledged writes are lost for certain",
                range(keep_through + 1, committed)
            )
        }
        _ => "they may have been chosen".to_string(),
    };
    format!(
        "lost: {} of the log. The first of them is damaged on this disk, and nothing behind it can be applied; {known}",
        range(keep_through + 1, *log_last)
    )
}

/// The refusal if no survivor has all entries of the log to keep.
pub(super) fn nobody_is_whole(all: &[&Inspection], best: (u64, u64, u64)) -> String {
    let (epoch, view, last) = best;
    format!(
        "entries are lost that may have been acknowledged: the log to keep is that of epoch {epoch}, view {view}, through \
         entry {last}, and no survivor has all of it. Bring back a disk that has them, or choose what to lose:{}",
        choices(all)
    )
}

/// The refusal if a survivor may know that the best log was overruled.
pub(super) fn in_doubt(all: &[&Inspection], best: (u64, u64, u64), knows: &Inspection) -> String {
    let (_, view, last) = best;
    format!(
        "the log of view {view} through entry {last} is the newest one, but replica {} knows entries through {} as chosen, \
         perhaps in a later view, up to {}: then some entries of the newest log were never chosen. Bring back another disk, \
         or choose what to lose:{}",
        knows.replica,
        knows.committed,
        knows.promised,
        choices(all)
    )
}

/// For each survivor one line that says how much it would keep.
fn choices(all: &[&Inspection]) -> String {
    let each = all.iter().map(|survivor| match survivor.sound_through() {
        None => format!("replica {}: unusable, {}", survivor.replica, why_apart(survivor)),
        Some(through) => {
            let behind = match through < survivor.log.last {
                true => format!(", and {} are lost or behind a lost one", range(through + 1, survivor.log.last)),
                false => String::new(),
            };
            let Inspection { replica, accepted_view, committed, .. } = survivor;
            format!(
                "--keep {replica}: keeps view {accepted_view} through entry {through} (known as chosen: through \
                 {committed}){behind}"
            )
        }
    });
    each.map(|line| format!("\n  {line}")).collect()
}

fn why_apart(survivor: &Inspection) -> String {
    let (first, last, applied) = (survivor.log.first, survivor.log.last, survivor.applied());
    let problem = survivor.database_problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    format!("its log holds {first} to {last}, and its database ends at {applied}{problem}")
}

/// The refusal to keep a replica whose log and database are apart.
pub(super) fn has_no_database(survivor: &Inspection) -> String {
    format!("--keep {}: {}; keep another survivor", survivor.replica, why_apart(survivor))
}

/// The refusal to keep a replica if another one holds more.
pub(super) fn holds_more(better: &Inspection, through_better: u64, named: &Inspection, through: u64) -> String {
    let Inspection { replica, accepted_view, .. } = better;
    let more = match *accepted_view == named.accepted_view && better.epoch == named.epoch {
        true => format!("{} as well", range(through + 1, through_better)),
        false => format!(
            "the log of view {accepted_view} through entry {through_better}, which is newer than that of view {} through \
             entry {through}",
            named.accepted_view
        ),
    };
    format!(
        "--keep {} would lose more than it must: replica {replica} holds {more}. Leave --keep out, or name {replica}",
        named.replica
    )
}
