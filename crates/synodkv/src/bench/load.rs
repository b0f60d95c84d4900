//! Writes the records that a workload will request.

use std::process::ExitCode;

use kv_client::{AtomicCommit, Client, ClientError, Limits, Mutation};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::{FillArgs, Shape};
use super::random::noise;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Approximate bytes of one commit.
const COMMIT_BYTES: u64 = 256 << 10;
const COMMITS_UNDER_WAY: usize = 8;

/// Writes the records 0 to `count` - 1.
pub async fn load(client: &Client, limits: &Limits, shape: Shape, count: u64) -> Result<(), Failure> {
    let bar = output::progress("loading keys", Some(count));
    let value = noise(shape.value_size);
    let record_bytes = (shape.naming.key_size() + shape.value_size + 64) as u64;
    let rows = (COMMIT_BYTES.min(limits.max_transaction_bytes as u64) / record_bytes).max(1);
    let mut under_way: JoinSet<Result<(), ClientError>> = JoinSet::new();
    let mut from = 0;
    while from < count {
        let until = (from + rows).min(count);
        let mutations = (from..until).map(|number| Mutation::set(shape.naming.key(number), value.clone())).collect();
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

/// `bench load`.
pub async fn run(args: FillArgs) -> Result<ExitCode, Failure> {
    args.target.addresses()?;
    args.records.check(args.workload)?;
    let (shape, records) = (args.records.shape(args.workload), args.records.keys);
    shape.check_names(records)?;
    let (client, limits) = args.target.connect_with_limits().await?;
    shape.check_limits(&limits, 1)?;
    let begun = Instant::now();
    load(&client, &limits, shape, records).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = records as f64 / seconds.max(1e-3);
    let (key_size, value_size) = (shape.naming.key_size(), shape.value_size);
    match args.format {
        Format::Json => output::write_json(&json!({
            "records": records, "key_size": key_size, "value_size": value_size, "seconds": seconds, "throughput": rate
        }))?,
        Format::Text => output::write_line(&format!(
            "loaded {records} records with keys of {key_size} and values of {value_size} bytes in {seconds:.1} s \
             ({rate:.0}/s)"
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
