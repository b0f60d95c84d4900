//! Golden transcripts: replicas are driven by hand through a scene, and every message, write and
//! delivery is compared with the text kept in `golden`. `RSML_BLESS=1 cargo test -p rsml --test
//! transcripts` rewrites the texts; read the difference before you keep it.

mod catch_up;
mod copies;
mod damage;
mod elections;
mod executor;

mod reads;
mod replication;
mod requests;
mod stage;
mod text;
mod transfers;

use rsml::core::CoreOptions;
use stage::Stage;

fn compare(scene: &str, stage: &Stage) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/transcripts/golden/{scene}.txt"));
    let text = stage.text();
    if std::env::var_os("RSML_BLESS").is_some() {
        std::fs::write(&path, text).expect("the transcript can be written");
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = golden.lines().zip(text.lines()).enumerate();
    if let Some((line, (expected, found))) = lines.find(|(_, (expected, found))| expected != found) {
        panic!("{scene}.txt line {}:\n  expected: {expected}\n  found:    {found}", line + 1);
    }
    assert_eq!(golden.lines().count(), text.lines().count(), "{scene}.txt has another length");
}

fn usual(_: &mut CoreOptions) {}

/// One entry per message.
fn tiny_messages(options: &mut CoreOptions) {
    options.max_message_bytes = 1;
    options.window_bytes = 1;
}

const ELECTION_US: u64 = 700_000;

/// `candidate` hears from no other replica any more, and `voter` has not heard from a primary
/// lately either.
fn stand(stage: &mut Stage, candidate: usize, voters: &[usize]) {
    for voter in voters {
        stage.wait(*voter, ELECTION_US);
    }
    stage.tick(candidate, ELECTION_US);
}
