//! Writes a key and reads it back.
//!
//! ```sh
//! cargo run -p kv-client --example hello -- 127.0.0.1:9090
//! ```

use kv_client::{ClientError, Database, Options};

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9090".to_string());
    let db = Database::connect([address], Options::default()).await?;

    db.run(|tx| async move {
        tx.set("hello", "world");
        Ok::<_, ClientError>(())
    })
    .await?;

    let value = db.run(|tx| async move { tx.get("hello").await }).await?;
    match value {
        Some(value) => println!("hello {}", value.escape_ascii()),
        None => println!("another client has deleted it already"),
    }
    Ok(())
}
