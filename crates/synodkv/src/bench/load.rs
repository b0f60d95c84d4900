//! Writes the rows that a reading workload is going to read.

use kv_client::{AtomicCommit, Client, ClientError, Mutation};
use tokio::task::JoinSet;

use super::LoadArgs;
use super::keys::{KeySpace, noise};
use crate::failure::Failure;
use crate::output;

/// Bytes of one commit, about.
const COMMIT_BYTES: u64 = 256 << 10;
const COMMITS_UNDER_WAY: usize = 8;

pub async fn load(client: &Client, keys: &KeySpace, args: &LoadArgs) -> Result<(), Failure> {
    let bar = output::progress("loading keys", Some(args.keys));
    let value = noise(args.value_size as usize);
    let rows = (COMMIT_BYTES / u64::from(args.key_size + args.value_size + 64)).max(1);
    let mut under_way: JoinSet<Result<(), ClientError>> = JoinSet::new();
    let mut from = 0;
    while from < args.keys {
        let until = (from + rows).min(args.keys);
        let mutations = (from..until).map(|number| Mutation::set(keys.key(number), value.clone())).collect();
        if under_way.len() == COMMITS_UNDER_WAY {
            finished(under_way.join_next().await)?;
        }
        let client = client.clone();
        under_way.spawn(async move { client.commit(AtomicCommit::of(mutations)).await.map(|_| ()) });
        bar.inc(until - from);
        from = until;
    }
    while let Some(result) = under_way.join_next().await {
        finished(Some(result))?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn finished(result: Option<Result<Result<(), ClientError>, tokio::task::JoinError>>) -> Result<(), Failure> {
    match result {
        Some(Ok(Err(error))) => Err(error.into()),
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        Some(Ok(Ok(()))) | None => Ok(()),
    }
}
