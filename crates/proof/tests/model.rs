//! Small bounds of the model check, visited whole; `scripts/model.sh` goes further.

use proof::model::{Bounds, Cluster, Disks};
use stateright::{Checker, Model};

const SMALL: Bounds = Bounds {
    replicas: 3,
    founders: 0,
    seals: 0,
    successors: 0,
    views: 2,
    entries: 0,
    reads: 0,
    restarts: 0,
    ticks: 0,
    probes: 1,
    clients_everywhere: false,
    pipeline: 1,
    disks: Disks::Groups,
};

/// Visits every state within the bounds; the names of what was seen to happen.
fn visit(bounds: Bounds) -> Vec<&'static str> {
    let checker = Cluster::new(bounds).checker().threads(2).spawn_bfs().join();
    let discoveries = checker.discoveries();
    for (property, path) in &discoveries {
        if let Some(story) = checker.model().story(path.last_state()) {
            let actions = path.clone().into_actions().into_iter().map(|action| checker.model().describe(action));
            panic!("{property}: {story}\n{}", actions.collect::<Vec<_>>().join("\n"));
        }
    }
    assert!(checker.unique_state_count() > 1_000, "a check that visits nothing proves nothing");
    discoveries.into_keys().collect()
}

#[test]
fn two_campaigns_and_their_first_entries_keep_every_property() {
    assert!(visit(SMALL).contains(&"the last view is led"));
}

#[test]
fn three_campaigns_over_disks_without_delay_keep_every_property() {
    visit(Bounds { views: 3, disks: Disks::Instant, ..SMALL });
}

#[test]
fn a_crash_at_any_moment_of_a_campaign_keeps_every_property() {
    visit(Bounds { views: 1, restarts: 1, disks: Disks::Instant, ..SMALL });
}

#[test]
fn a_read_at_any_moment_of_a_campaign_is_linearizable() {
    assert!(visit(Bounds { views: 1, reads: 1, ..SMALL }).contains(&"a read is answered"));
}

#[test]
fn a_value_of_a_client_is_delivered_everywhere_or_nowhere() {
    visit(Bounds { views: 1, entries: 1, disks: Disks::Instant, ..SMALL });
}

#[test]
fn an_epoch_that_ends_at_any_moment_keeps_every_property() {
    let seen = visit(Bounds { founders: 0b111, successors: 0b011, seals: 1, views: 1, disks: Disks::Instant, ..SMALL });
    assert!(seen.contains(&"an epoch begins with other voters"));
}

#[test]
fn a_seal_is_chosen_with_a_read_under_way_and_reads_stay_linearizable() {
    let bounds = Bounds { founders: 0b011, successors: 0b110, seals: 1, views: 2, reads: 1, ..SMALL };
    let seen = visit(Bounds { disks: Disks::Instant, ..bounds });
    assert!(seen.contains(&"an epoch begins with other voters") && seen.contains(&"a read is answered"));
}
