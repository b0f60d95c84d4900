//! Reads a long range as a stream: page by page in constant memory, forward and backward.
//!
//! ```sh
//! cargo run -p kv-client --example stream -- 127.0.0.1:9090
//! ```

use futures_util::TryStreamExt;
use kv_client::{ClientError, Database, KeySelector, Options, Range};

const ROWS: usize = 20_000;
/// Number of rows per transaction; a transaction must not become too large.
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

    // Loop over the rows as they arrive.
    let tx = db.transaction();
    let mut rows = tx.get_range(Range::prefix("example/rows/"));
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next().await? {
        count += 1;
        bytes += row.key.len() + row.value.len();
    }
    println!("{count} rows, {bytes} bytes");
    assert_eq!(count, ROWS);

    // The result also is a `Stream`. Read in a snapshot, because no commit depends on these rows.
    let newest = tx.snapshot().get_range(Range::prefix("example/rows/").reverse().limit(3));
    newest
        .try_for_each(async |row| {
            println!("from the end: {}", row.key.escape_ascii());
            Ok(())
        })
        .await?;

    // Print every five-thousandth key, found by its position among the others.
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
