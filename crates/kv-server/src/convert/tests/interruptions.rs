//! A conversion that ends after any of its steps leaves a directory that one kind of server opens,
//! with everything in it, and the same conversion again finishes it.

use super::*;
use crate::data_dir::DataDir;
use crate::mode::Mode;

/// Whether a standalone server and a replica, in this order, would open the directory.
fn opened_by(place: &Place) -> [bool; 2] {
    [(Mode::Standalone, &[][..]), (Mode::Replicated, &[0])]
        .map(|(mode, replicas)| DataDir::open(&place.root(), mode, replicas).is_ok())
}

/// Starts the server that opens the directory, and looks at what it serves. `writes`: a row that it
/// adds then.
async fn serve(place: &Place, writes: Option<&str>) -> Facts {
    let row = writes.map(|value| commit(vec![set(9_999, value)], ""));
    match opened_by(place) {
        [true, false] => {
            let server = place.start_standalone().await;
            if let Some(row) = row {
                server.database().write(LoggedWrite::commit(row)).await.expect("written");
            }
            let facts = Facts::of(server.database());
            Box::new(server).shutdown().await;
            facts
        }
        [false, true] => {
            let server = place.start_member().await;
            if let Some(row) = row {
                kv_api::KvDatabase::atomic_commit(&server.database(), row).await.expect("written");
            }
            let facts = Facts::of(&database(&server));
            Box::new(server).shutdown().await;
            facts
        }
        both => panic!("standalone and replicated: {both:?}"),
    }
}

async fn ends_after_any_step(conversion: fn(&Place) -> Conversion, prepare: impl AsyncFn(&Place) -> Facts) {
    let mut steps = 1;
    // Before which number of steps the directory is still the old one.
    let mut turned_at = None;
    loop {
        let place = Place::new();
        let facts = prepare(&place).await;
        let old = opened_by(&place);
        let count = planned(conversion(&place)).steps.len();
        if steps > count {
            break;
        }
        interrupt(conversion(&place), steps);
        let is_old = opened_by(&place) == old;
        assert!(is_old || opened_by(&place) == [old[1], old[0]], "after {steps} steps: {:?}", opened_by(&place));
        assert!(is_old || turned_at.is_none_or(|at| at <= steps), "it went back");
        if !is_old {
            turned_at = turned_at.or(Some(steps));
        }
        // The server that opens it goes on, and what it writes is not lost by the next attempt.
        assert_eq!(serve(&place, None).await, facts, "after {steps} steps");
        let written = serve(&place, Some("between")).await;
        convert(conversion(&place));
        assert_eq!(opened_by(&place), [old[1], old[0]]);
        assert_eq!(serve(&place, None).await, written, "after {steps} steps and the rest");
        assert!(planned(conversion(&place)).is_done());
        let top: Vec<_> =
            std::fs::read_dir(place.root()).expect("listed").map(|e| e.expect("listed").file_name()).collect();
        assert_eq!(top.len(), 3, "lock, identity and data: {top:?}");
        steps += 1;
    }
    assert!(turned_at.is_some_and(|at| at > 1 && at < steps - 1), "it turned after {turned_at:?} of {steps} steps");
}

#[tokio::test]
async fn a_conversion_to_replicated_may_end_after_any_step() {
    ends_after_any_step(Place::to_replicated, Place::fill).await;
}

#[tokio::test]
async fn a_conversion_to_standalone_may_end_after_any_step() {
    let prepare = async |place: &Place| {
        place.fill().await;
        convert(place.to_replicated());
        serve(place, Some("replicated")).await
    };
    ends_after_any_step(Place::to_standalone, prepare).await;
}

#[tokio::test]
async fn an_interrupted_conversion_may_be_given_up_for_another_one() {
    let place = Place::new();
    let facts = place.fill().await;
    interrupt(place.to_replicated(), 5);
    assert!(place.root().join("replica-0/db").exists());
    // It is a standalone directory still, so this is nothing but the end of the first one.
    convert(place.to_standalone());
    assert!(!place.root().join("replica-0").exists() && !place.root().join("convert.json").exists());
    assert_eq!(serve(&place, None).await, facts);
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let place = Place::new();
    place.fill().await;
    let before = place.names();
    for conversion in [place.to_replicated(), place.to_standalone(), place.split()] {
        drop(plan(conversion));
        assert_eq!(place.names(), before);
    }
    interrupt(place.to_replicated(), 5);
    let before = place.names();
    assert!(!planned(place.to_replicated()).is_done());
    assert_eq!(place.names(), before);
}
