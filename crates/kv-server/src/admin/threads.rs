//! The path that shows the threads of this process, as the kernel sees them.

use std::path::Path;

use axum::Json;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Refusal;

/// A process has far fewer; the answer stays short whatever happens.
const MAX_THREADS: usize = 4096;

pub(super) async fn show() -> Result<Json<Value>, Refusal> {
    let listed = tokio::task::spawn_blocking(|| list(Path::new("/proc/self/task"))).await;
    let failed = |reason: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot list threads: {reason}"));
    match listed {
        Ok(Ok(threads)) => Ok(Json(json!({ "threads": threads }))),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(panic) => Err(failed(panic.to_string())),
    }
}

/// Those that have worked most come first. A thread that ends meanwhile is left out.
fn list(tasks: &Path) -> std::io::Result<Vec<Value>> {
    let mut threads: Vec<(u64, Value)> = Vec::new();
    for task in std::fs::read_dir(tasks)?.take(MAX_THREADS) {
        let task = task?;
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
        let Some(stat) = read("stat") else { continue };
        let Some((name, state)) = name_and_state(&stat) else { continue };
        // Nanoseconds on a processor, and in the queue for one. Not every kernel has it.
        let times = read("schedstat").unwrap_or_default();
        let mut times = times.split_whitespace().map(|time| time.parse::<u64>().ok());
        let (ran, waited) = (times.next().flatten(), times.next().flatten());
        let seconds = |ns: Option<u64>| ns.map(|ns| (ns / 1_000_000) as f64 / 1e3);
        threads.push((
            ran.unwrap_or(0),
            json!({
                "id": task.file_name().to_string_lossy().parse::<u64>().ok(),
                "name": name,
                "state": state,
                "cpu_seconds": seconds(ran),
                "cpu_wait_seconds": seconds(waited),
            }),
        ));
    }
    threads.sort_by_key(|(ran, _)| std::cmp::Reverse(*ran));
    Ok(threads.into_iter().map(|(_, thread)| thread).collect())
}

/// From `/proc/PID/task/ID/stat`. A name may hold spaces and parentheses.
fn name_and_state(stat: &str) -> Option<(&str, &'static str)> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let state = match rest.split_whitespace().next()? {
        "R" => "running",
        "S" => "sleeping",
        "D" => "waiting for a disk",
        "T" | "t" => "stopped",
        "Z" | "X" => "ended",
        _ => "other",
    };
    Some((name, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_shown_with_its_name_and_state() {
        let (begun, ended) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
        let thread = std::thread::Builder::new().name("a (b) c".into()).spawn(move || {
            begun.0.send(()).expect("the test waits");
            let _ = ended.1.recv();
        });
        begun.1.recv().expect("it runs");
        let threads = list(Path::new("/proc/self/task")).expect("Linux");
        let found = threads.iter().find(|thread| thread["name"] == "a (b) c").expect("it is listed");
        assert!(["sleeping", "running"].contains(&found["state"].as_str().expect("a state")), "{found}");
        drop(ended.0);
        thread.expect("started").join().expect("no panic");
    }

    #[test]
    fn a_line_that_is_none_is_passed_over() {
        assert_eq!(name_and_state("12 (x y) D 1 2"), Some(("x y", "waiting for a disk")));
        assert_eq!(name_and_state("12"), None);
        assert_eq!(name_and_state(""), None);
    }
}
