//! Transfers money between accounts in many concurrent tasks. The total stays the same.
//!
//! ```sh
//! cargo run -p kv-client --example transfer -- 127.0.0.1:9090
//! ```

use kv_client::{Bytes, ClientError, Database, Options, Range, Transaction};

const ACCOUNTS: u64 = 10;
const OPENING_BALANCE: u64 = 100;
const TASKS: u64 = 8;
const TRANSFERS: u64 = 50;

/// Why a transfer can fail: an error of the client, or one of this program.
#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error("account {0} holds only {1}")]
    TooLittle(u64, u64),
    #[error("account {0} does not hold a number")]
    NotANumber(u64),
    #[error(transparent)]
    Client(#[from] ClientError),
}

fn key(account: u64) -> String {
    format!("example/accounts/{account:04}")
}

fn number(account: u64, value: Option<Bytes>) -> Result<u64, TransferError> {
    let bytes = value.as_deref().unwrap_or_default();
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| TransferError::NotANumber(account))?))
}

/// Transfers an amount as a part of a transaction that the caller commits. It may run several
/// times, so it only reads and writes through the transaction.
async fn transfer(tx: &Transaction, from: u64, to: u64, amount: u64) -> Result<(), TransferError> {
    let balance = number(from, tx.get(key(from)).await?)?;
    let Some(rest) = balance.checked_sub(amount) else {
        return Err(TransferError::TooLittle(from, balance));
    };
    tx.set(key(from), rest.to_le_bytes());
    // `add` changes the other account without reading it, so two transfers to it do not conflict.
    tx.add(key(to), amount.to_le_bytes());
    Ok(())
}

async fn open_accounts(db: &Database) -> Result<(), ClientError> {
    db.run(|tx| async move {
        tx.clear_prefix("example/accounts/");
        (0..ACCOUNTS).for_each(|account| tx.set(key(account), OPENING_BALANCE.to_le_bytes()));
        Ok(())
    })
    .await
}

#[tokio::main]
async fn main() -> Result<(), TransferError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9090".to_string());
    let db = Database::connect([address], Options::default()).await?;
    open_accounts(&db).await?;

    let tasks = (0..TASKS).map(|task| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut refused = 0;
            for round in 0..TRANSFERS {
                let (from, to) = ((task + round) % ACCOUNTS, (task * 3 + round * 7 + 1) % ACCOUNTS);
                if from == to {
                    continue;
                }
                match db.run(|tx| async move { transfer(&tx, from, to, 1 + round % 20).await }).await {
                    Ok(()) => {}
                    Err(TransferError::TooLittle(..)) => refused += 1,
                    Err(error) => return Err(error),
                }
            }
            Ok(refused)
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        let refused = task.await.expect("a task does not panic")?;
        println!("a task is done; {refused} of its transfers asked for too much");
    }

    let rows = db.run(|tx| async move { tx.get_range(Range::prefix("example/accounts/")).all().await }).await?;
    let balances = rows.into_iter().zip(0..).map(|(row, account)| number(account, Some(row.value)));
    let sum = balances.sum::<Result<u64, _>>()?;
    println!("all accounts together: {sum}");
    assert_eq!(sum, ACCOUNTS * OPENING_BALANCE);
    Ok(())
}
