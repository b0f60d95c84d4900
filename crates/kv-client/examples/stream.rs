//! Streams a long range: page by page, in constant memory, forward and backward.
//!
//! ```sh
//! cargo run -p kv-client --example stream -- 127.0.0.1:9090
//! ```

use futures_util::TryStreamExt;
use kv_client::{ClientError, Database, KeySelector, Options, Range};

const ROWS: usize = 20_000;
/// Rows of one transaction, which must not become too large.
const BATCH: usize = 2_000;

async fn fill(db: &Database) -> Result<(), ClientError> {
    for batch in (0..ROWS).step_by(BATCH) {
        db.run(|tx| async move {
            (batch..batch + BATCH).for_each(|row| tx.set(format!("example/rows/{row:06}"), vec![b'x'; 100]));
            Ok::<_, ClientError>(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9090".to_string());
    let db = Database::connect([address], Options::default()).await?;
    fill(&db).await?;

    // A loop over rows as they come.
    let tx = db.transaction();
    let mut rows = tx.get_range(Range::prefix("example/rows/"));
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next().await? {
        count += 1;
        bytes += row.key.len() + row.value.len();
    }
    println!("{count} rows, {bytes} bytes");
    assert_eq!(count, ROWS);

    // It is a `Stream`, too. A snapshot of the same version, because nothing depends on it.
    let newest = tx.snapshot().get_range(Range::prefix("example/rows/").reverse().limit(3));
    newest
        .try_for_each(async |row| {
            println!("from the end: {}", row.key.escape_ascii());
            Ok(())
        })
        .await?;

    // Every five-thousandth key, by its place among the others.
    let mut at = KeySelector::first_greater_or_equal("example/rows/");
    while let Some(key) = tx.snapshot().get_key(&at).await?.filter(|key| key.starts_with(b"example/rows/")) {
        println!("{}", key.escape_ascii());
        at = KeySelector::first_greater_or_equal(key).offset_by(5_000);
    }

    db.run(|tx| async move {
        tx.clear_prefix("example/rows/");
        Ok::<_, ClientError>(())
    })
    .await
}
