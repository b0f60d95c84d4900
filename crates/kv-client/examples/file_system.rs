//! The metadata of a file system: directories, files, links between them, and a rename that is
//! atomic, also between directories and among competing clients.
//!
//! | key | value |
//! |---|---|
//! | `example/fs/next` | the number of the next inode |
//! | `example/fs/inode/NUMBER` | `directory` or `file` |
//! | `example/fs/entry/NUMBER/NAME` | in directory NUMBER, the inode that NAME leads to |
//!
//! ```sh
//! cargo run -p kv-client --example file_system -- 127.0.0.1:9090
//! ```

use kv_client::{ClientError, Database, Options, Range, Transaction};

const ROOT: u64 = 1;

#[derive(Debug, thiserror::Error)]
enum FsError {
    #[error("{0}: no such file or directory")]
    NotFound(String),
    #[error("{0}: exists already")]
    Exists(String),
    #[error("{0}: is no directory")]
    NoDirectory(String),
    #[error("{0}: is not empty")]
    NotEmpty(String),
    #[error("{0}: cannot move into itself")]
    IntoItself(String),
    #[error(transparent)]
    Client(#[from] ClientError),
}

type Fs<T> = Result<T, FsError>;

/// Numbers have a fixed length, so that keys sort by number.
fn inode_key(inode: u64) -> String {
    format!("example/fs/inode/{inode:016x}")
}

fn entries(directory: u64) -> String {
    format!("example/fs/entry/{directory:016x}/")
}

fn entry_key(directory: u64, name: &str) -> String {
    format!("{}{name}", entries(directory))
}

async fn number(tx: &Transaction, key: String) -> Result<Option<u64>, ClientError> {
    let value = tx.get(key).await?;
    Ok(value.map(|text| String::from_utf8_lossy(&text).parse().expect("only this program writes it")))
}

async fn is_directory(tx: &Transaction, inode: u64) -> Result<bool, ClientError> {
    Ok(tx.get(inode_key(inode)).await?.as_deref() == Some("directory".as_bytes()))
}

/// The inode at a path, one directory after the other.
async fn find(tx: &Transaction, path: &str) -> Fs<u64> {
    let mut inode = ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        inode = number(tx, entry_key(inode, name)).await?.ok_or_else(|| FsError::NotFound(path.to_string()))?;
    }
    Ok(inode)
}

/// The directory that holds a path's last name, and that name.
async fn place<'a>(tx: &Transaction, path: &'a str) -> Fs<(u64, &'a str)> {
    let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
    let directory = find(tx, parent).await?;
    match is_directory(tx, directory).await? {
        true => Ok((directory, name)),
        false => Err(FsError::NoDirectory(parent.to_string())),
    }
}

async fn create(tx: &Transaction, path: &str, kind: &str) -> Fs<u64> {
    let (directory, name) = place(tx, path).await?;
    let entry = entry_key(directory, name);
    if tx.get(entry.as_str()).await?.is_some() {
        return Err(FsError::Exists(path.to_string()));
    }
    let inode = number(tx, "example/fs/next".to_string()).await?.unwrap_or(ROOT + 1);
    tx.set("example/fs/next", (inode + 1).to_string());
    tx.set(inode_key(inode), kind);
    tx.set(entry, inode.to_string());
    Ok(inode)
}

/// Moves a file or a directory. Everything that it read is checked again by the commit: had another
/// client moved, removed or created one of these entries meanwhile, it would run again.
async fn rename(tx: &Transaction, from: &str, to: &str) -> Fs<()> {
    let (old_directory, old_name) = place(tx, from).await?;
    let inode = find(tx, from).await?;
    let (new_directory, new_name) = place(tx, to).await?;
    if format!("{}/", to.trim_end_matches('/')).starts_with(&format!("{}/", from.trim_end_matches('/'))) {
        return Err(FsError::IntoItself(from.to_string()));
    }
    let new_entry = entry_key(new_directory, new_name);
    if tx.get(new_entry.as_str()).await?.is_some() {
        return Err(FsError::Exists(to.to_string()));
    }
    tx.delete(entry_key(old_directory, old_name));
    tx.set(new_entry, inode.to_string());
    Ok(())
}

async fn list(tx: &Transaction, path: &str) -> Fs<Vec<String>> {
    let prefix = entries(find(tx, path).await?);
    let rows = tx.get_range(Range::prefix(prefix.as_str())).all().await?;
    Ok(rows.iter().map(|row| String::from_utf8_lossy(&row.key[prefix.len()..]).into_owned()).collect())
}

async fn remove(tx: &Transaction, path: &str) -> Fs<()> {
    let (directory, name) = place(tx, path).await?;
    let inode = find(tx, path).await?;
    // One row is enough to know; an empty range conflicts with whoever creates the first entry.
    if !tx.get_range(Range::prefix(entries(inode)).limit(1)).all().await?.is_empty() {
        return Err(FsError::NotEmpty(path.to_string()));
    }
    tx.delete(entry_key(directory, name));
    tx.delete(inode_key(inode));
    Ok(())
}

/// Every inode but the root has exactly one entry.
async fn check(db: &Database) -> Fs<usize> {
    db.run(|tx| async move {
        let inodes = tx.get_range(Range::prefix("example/fs/inode/")).all().await?;
        let entries = tx.get_range(Range::prefix("example/fs/entry/")).all().await?;
        let mut led_to: Vec<u64> =
            entries.iter().map(|row| String::from_utf8_lossy(&row.value).parse().expect("a number")).collect();
        led_to.sort();
        led_to.dedup();
        assert_eq!((led_to.len(), entries.len()), (inodes.len() - 1, inodes.len() - 1), "one entry each");
        Ok(entries.len())
    })
    .await
}

#[tokio::main]
async fn main() -> Fs<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9090".to_string());
    let db = Database::connect([address], Options::default()).await?;
    db.run(|tx| async move {
        tx.clear_prefix("example/fs/");
        tx.set(inode_key(ROOT), "directory");
        for directory in ["/inbox", "/done"] {
            create(&tx, directory, "directory").await?;
        }
        create(&tx, "/inbox/letter", "file").await?;
        Ok::<_, FsError>(())
    })
    .await?;

    // Ten clients want the same letter, each under a name of its own. One gets it.
    let movers = (0..10).map(|number| {
        let db = db.clone();
        tokio::spawn(async move {
            let to = format!("/done/letter of client {number}");
            db.run(|tx| {
                let to = to.clone();
                async move { rename(&tx, "/inbox/letter", &to).await }
            })
            .await
        })
    });
    let mut moved = 0;
    for mover in movers.collect::<Vec<_>>() {
        match mover.await.expect("a client does not panic") {
            Ok(()) => moved += 1,
            Err(FsError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    assert_eq!(moved, 1, "the letter is in one place");
    let done = db.run(|tx| async move { list(&tx, "/done").await }).await?;
    println!("/done holds {done:?}; {} entries in all", check(&db).await?);

    for (what, outcome) in [
        ("move /done into itself", db.run(|tx| async move { rename(&tx, "/done", "/done/here").await }).await),
        ("remove /done", db.run(|tx| async move { remove(&tx, "/done").await }).await),
        ("remove /inbox", db.run(|tx| async move { remove(&tx, "/inbox").await }).await),
    ] {
        match outcome {
            Ok(()) => println!("{what}: done"),
            Err(error) => println!("{what}: {error}"),
        }
    }
    check(&db).await?;
    Ok(())
}
