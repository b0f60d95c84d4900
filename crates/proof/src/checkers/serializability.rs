//! Strict serializability of transactions over lists: is there one order of all transactions that
//! explains every read and agrees with real time, and with commit versions where they are known?
//!
//! Source: Adya, *Weak Consistency* (1999), for the anomalies; Kingsbury and Alvaro, *Elle* (VLDB
//! 2020), for inferring them from lists: appended elements are unique, so that a list that was read
//! tells the order of all appends before it, and so who read from whom, who overwrote what, and who
//! missed what. Found, in this order:
//!
//! - *Internal*: a transaction does not see its own appends as it should.
//! - *G1a* (dirty read): an element of a transaction that certainly failed. *Invented element*: of
//!   none at all.
//! - *Duplicate element*: one append twice in a list. *Incompatible order*: two reads of a list of
//!   which neither is a beginning of the other (a long fork, a split brain).
//! - *G1b* (intermediate read): a list that ends in the middle of another transaction's appends to
//!   it.
//! - Cycles: *G0* of ww alone (dirty write), *G1c* of ww and wr (circular information), *G-single*
//!   with one rw (read skew, lost update, and with real time a stale read), *G2* with several
//!   (write skew, phantoms). "-realtime" and "-version" tell what else stands in the cycle; without
//!   that, not even plain serializability holds.
//!
//! Transactions with unknown outcomes count as committed if anybody saw an element of theirs; what
//! they read is not known, and they precede nobody in real time. An acknowledged append that no
//! read of its list shows must come after the longest one read. Without a cycle the history *is*
//! strictly serializable as far as reads show it: a history in which nobody reads proves nothing.
//! O((n + reads) log n) for a good history; a few breadth-first searches for a bad one.

use std::collections::BTreeMap;

use super::cycles::{Dependency, Edge, Graph};
use super::{Verdict, Violation};
use crate::history::{ListStep, ListTransaction, Operation, Outcome};

type History = [Operation<ListTransaction>];

/// Judges the history; a violation tells the whole cycle.
pub fn check(history: &History) -> Verdict {
    let writers = Writers::of(history)?;
    for (transaction, operation) in history.iter().enumerate().filter(|(_, o)| o.outcome == Outcome::Ok) {
        check_internal(history, transaction, operation)?;
    }
    let lists = Lists::of(history, &writers)?;
    let graph = dependencies(history, &writers, &lists)?;
    match find_cycle(&graph) {
        None => Ok(()),
        Some(cycle) => violation(name(&cycle), tell_cycle(history, &cycle)),
    }
}

fn violation(anomaly: &'static str, story: String) -> Verdict {
    Err(Violation::new("serializability", anomaly, story))
}

fn describe(history: &History, transaction: usize) -> String {
    let operation = &history[transaction];
    let steps: Vec<String> = operation
        .kind
        .steps
        .iter()
        .map(|step| match step {
            ListStep::Append { key, element } => format!("append {element} to {key}"),
            ListStep::Read { key, list } => format!("read {key}: {}", excerpt(list)),
        })
        .collect();
    let returned = match operation.outcome {
        Outcome::Unknown => "unknown".to_string(),
        _ => format!("{} us", operation.returned_us),
    };
    let version = operation.kind.version.map(|version| format!(", version {version}")).unwrap_or_default();
    let (client, called_us) = (operation.client.0, operation.called_us);
    format!("T{transaction} (client {client}, {called_us} us – {returned}{version}: {})", steps.join(", "))
}

/// The end of a list tells the most.
fn excerpt(list: &[u64]) -> String {
    match list.len() {
        0..=6 => format!("{list:?}"),
        count => format!("[{} more, {:?}]", count - 6, &list[count - 6..]),
    }
}

/// The writer of each element, and the element after it in the same transaction and list.
struct Writers {
    by_element: BTreeMap<(u64, u64), Writer>,
}

#[derive(Clone, Copy)]
struct Writer {
    transaction: usize,
    /// False for an element that the same transaction follows by another in this list.
    is_last: bool,
}

impl Writers {
    fn of(history: &History) -> Result<Writers, Violation> {
        let mut by_element: BTreeMap<(u64, u64), Writer> = BTreeMap::new();
        for (transaction, operation) in history.iter().enumerate() {
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            for step in &operation.kind.steps {
                let ListStep::Append { key, element } = step else { continue };
                let writer = Writer { transaction, is_last: true };
                if by_element.insert((*key, *element), writer).is_some() {
                    violation("malformed history", format!("{element} is appended to {key} twice"))?;
                }
                if let Some(before) = last.insert(*key, *element) {
                    by_element.insert((*key, before), Writer { transaction, is_last: false });
                }
            }
        }
        Ok(Writers { by_element })
    }

    fn get(&self, key: u64, element: u64) -> Option<Writer> {
        self.by_element.get(&(key, element)).copied()
    }
}

/// The reads of one transaction show its own appends at the end, in order, and nothing else changes
/// between them.
fn check_internal(history: &History, transaction: usize, operation: &Operation<ListTransaction>) -> Verdict {
    let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut appended: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for step in &operation.kind.steps {
        match step {
            ListStep::Append { key, element } => {
                appended.entry(*key).or_default().push(*element);
                if let Some(list) = expected.get_mut(key) {
                    list.push(*element);
                }
            }
            ListStep::Read { key, list } => {
                let own = appended.get(key).map_or(&[][..], Vec::as_slice);
                let fits = list.ends_with(own) && expected.get(key).is_none_or(|expected| expected == list);
                if !fits {
                    return violation("internal", describe(history, transaction));
                }
                expected.insert(*key, list.clone());
            }
        }
    }
    Ok(())
}

/// The state that a transaction read from others: its first read of each key, without its own
/// appends.
fn external_reads(operation: &Operation<ListTransaction>) -> BTreeMap<u64, &[u64]> {
    let mut appended: BTreeMap<u64, usize> = BTreeMap::new();
    let mut reads = BTreeMap::new();
    for step in &operation.kind.steps {
        match step {
            ListStep::Append { key, .. } => *appended.entry(*key).or_default() += 1,
            ListStep::Read { key, list } => {
                let own = appended.get(key).copied().unwrap_or_default();
                reads.entry(*key).or_insert(&list[..list.len() - own]);
            }
        }
    }
    reads
}

/// A transaction that saw `list` under `key`.
struct Reader<'a> {
    transaction: usize,
    key: u64,
    list: &'a [u64],
}

/// The order of each list, as the longest read tells it, and all reads.
struct Lists<'a> {
    longest: BTreeMap<u64, &'a [u64]>,
    readers: Vec<Reader<'a>>,
}

impl<'a> Lists<'a> {
    fn of(history: &'a History, writers: &Writers) -> Result<Lists<'a>, Violation> {
        let mut lists = Lists { longest: BTreeMap::new(), readers: Vec::new() };
        let mut longest_reader: BTreeMap<u64, usize> = BTreeMap::new();
        for (transaction, operation) in history.iter().enumerate().filter(|(_, o)| o.outcome == Outcome::Ok) {
            for (key, list) in external_reads(operation) {
                lists.readers.push(Reader { transaction, key, list });
                let longest = lists.longest.entry(key).or_insert(list);
                let other = *longest_reader.entry(key).or_insert(transaction);
                let (shorter, longer) = if list.len() < longest.len() { (list, *longest) } else { (*longest, list) };
                if !longer.starts_with(shorter) {
                    let story = format!("{} and {}", describe(history, other), describe(history, transaction));
                    violation("incompatible order", story)?;
                }
                if list.len() > longest.len() {
                    *longest = list;
                    longest_reader.insert(key, transaction);
                }
            }
        }
        for (key, list) in &lists.longest {
            check_elements(history, writers, *key, list, longest_reader[key])?;
        }
        for reader in &lists.readers {
            check_intermediate(history, writers, reader)?;
        }
        Ok(lists)
    }
}

fn check_elements(history: &History, writers: &Writers, key: u64, list: &[u64], reader: usize) -> Verdict {
    let mut seen = std::collections::BTreeSet::new();
    for element in list {
        let story = || format!("{element} in list {key} of {}", describe(history, reader));
        if !seen.insert(element) {
            return violation("duplicate element", story());
        }
        match writers.get(key, *element) {
            None => return violation("invented element", story()),
            Some(writer) if history[writer.transaction].outcome == Outcome::Fail => {
                return violation("G1a", format!("{}, of {}", story(), describe(history, writer.transaction)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_intermediate(history: &History, writers: &Writers, reader: &Reader<'_>) -> Verdict {
    let Some(writer) = reader.list.last().and_then(|element| writers.get(reader.key, *element)) else { return Ok(()) };
    if writer.is_last || writer.transaction == reader.transaction {
        return Ok(());
    }
    let story =
        format!("{} sees half of {}", describe(history, reader.transaction), describe(history, writer.transaction));
    violation("G1b", story)
}

fn dependencies(history: &History, writers: &Writers, lists: &Lists<'_>) -> Result<Graph, Violation> {
    let mut graph = Graph::new(history.len());
    // An acknowledged append that nobody saw comes after everything that was seen.
    let mut unseen: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let seen: BTreeMap<(u64, u64), ()> =
        lists.longest.iter().flat_map(|(key, list)| list.iter().map(|element| ((*key, *element), ()))).collect();
    for ((key, element), writer) in &writers.by_element {
        if history[writer.transaction].outcome == Outcome::Ok && !seen.contains_key(&(*key, *element)) {
            unseen.entry(*key).or_default().push(writer.transaction);
        }
    }
    let writer_of = |key: u64, element: u64| writers.get(key, element).map(|writer| writer.transaction);
    for (key, list) in &lists.longest {
        let order: Vec<usize> = list.iter().filter_map(|element| writer_of(*key, *element)).collect();
        for pair in order.windows(2) {
            graph.add(pair[0], pair[1], Dependency::WriteWrite, Some(*key));
        }
        for (last, after) in order
            .last()
            .into_iter()
            .flat_map(|last| unseen.get(key).into_iter().flatten().map(move |after| (*last, *after)))
        {
            graph.add(last, after, Dependency::WriteWrite, Some(*key));
        }
    }
    for Reader { transaction, key, list } in &lists.readers {
        if let Some(writer) = list.last().and_then(|element| writer_of(*key, *element)) {
            graph.add(writer, *transaction, Dependency::WriteRead, Some(*key));
        }
        match lists.longest[key].get(list.len()) {
            Some(next) => {
                if let Some(writer) = writer_of(*key, *next) {
                    graph.add(*transaction, writer, Dependency::ReadWrite, Some(*key));
                }
            }
            None => {
                for writer in unseen.get(key).into_iter().flatten() {
                    graph.add(*transaction, *writer, Dependency::ReadWrite, Some(*key));
                }
            }
        }
    }
    add_real_time(history, &mut graph);
    add_versions(history, &mut graph)?;
    Ok(graph)
}

/// A chain of moments stands for the quadratic number of pairs: each return leads to the next
/// moment, which leads to the calls after it.
fn add_real_time(history: &History, graph: &mut Graph) {
    // At equal times calls come before returns: what touches may overlap.
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (transaction, operation) in history.iter().enumerate() {
        match operation.outcome {
            Outcome::Ok => {
                events.push((operation.called_us, false, transaction));
                events.push((operation.returned_us, true, transaction));
            }
            Outcome::Unknown => events.push((operation.called_us, false, transaction)),
            Outcome::Fail => {}
        }
    }
    events.sort_unstable();
    let mut moment: Option<usize> = None;
    for (_, is_return, transaction) in events {
        if is_return {
            let next = graph.add_node();
            graph.add(transaction, next, Dependency::RealTime, None);
            if let Some(before) = moment.replace(next) {
                graph.add(before, next, Dependency::RealTime, None);
            }
        } else if let Some(before) = moment {
            graph.add(before, transaction, Dependency::RealTime, None);
        }
    }
}

/// Transactions that wrote take effect in the order of their commit versions.
fn add_versions(history: &History, graph: &mut Graph) -> Verdict {
    let is_write = |operation: &Operation<ListTransaction>| {
        operation.outcome == Outcome::Ok
            && operation.kind.steps.iter().any(|step| matches!(step, ListStep::Append { .. }))
    };
    let mut versions: Vec<(u64, usize)> = (0..history.len())
        .filter(|transaction| is_write(&history[*transaction]))
        .filter_map(|transaction| history[transaction].kind.version.map(|version| (version, transaction)))
        .collect();
    versions.sort_unstable();
    for pair in versions.windows(2) {
        let ((before, first), (after, second)) = (pair[0], pair[1]);
        if before == after {
            let story = format!("{} and {}", describe(history, first), describe(history, second));
            return violation("commit version given twice", story);
        }
        graph.add(first, second, Dependency::Version, None);
    }
    Ok(())
}

/// The worst cycle there is: one that shows the weaker property broken comes first.
fn find_cycle(graph: &Graph) -> Option<Vec<Edge>> {
    use Dependency::{ReadWrite, RealTime, Version, WriteRead, WriteWrite};
    let extras: [&[Dependency]; 3] = [&[], &[RealTime], &[RealTime, Version]];
    for extra in extras {
        for data in [&[WriteWrite][..], &[WriteWrite, WriteRead]] {
            let admits = |edge: &Edge| data.contains(&edge.dependency) || extra.contains(&edge.dependency);
            if let Some(nodes) = graph.components(&admits).first() {
                return graph.cycle_through(nodes, &admits);
            }
        }
        let is_missed = |edge: &Edge| edge.dependency == ReadWrite;
        let others =
            |edge: &Edge| matches!(edge.dependency, WriteWrite | WriteRead) || extra.contains(&edge.dependency);
        if let Some(cycle) = graph.cycle_with_one(&is_missed, &others) {
            return Some(cycle);
        }
        let any = |edge: &Edge| is_missed(edge) || others(edge);
        if let Some(nodes) = graph.components(&any).first() {
            return graph.cycle_through(nodes, &any);
        }
    }
    None
}

fn name(cycle: &[Edge]) -> &'static str {
    let count = |dependency: Dependency| cycle.iter().filter(|edge| edge.dependency == dependency).count();
    let class = match (count(Dependency::ReadWrite), count(Dependency::WriteRead)) {
        (0, 0) => 0,
        (0, _) => 1,
        (1, _) => 2,
        _ => 3,
    };
    let extra = match (count(Dependency::Version), count(Dependency::RealTime)) {
        (0, 0) => 0,
        (0, _) => 1,
        _ => 2,
    };
    const NAMES: [[&str; 3]; 4] = [
        ["G0", "G0-realtime", "G0-version"],
        ["G1c", "G1c-realtime", "G1c-version"],
        ["G-single", "G-single-realtime", "G-single-version"],
        ["G2", "G2-realtime", "G2-version"],
    ];
    NAMES[class][extra]
}

fn tell_cycle(history: &History, cycle: &[Edge]) -> String {
    let mut story = String::from("no order explains this:");
    // It may begin inside a chain of moments, which are nobody's transaction.
    let start = cycle.iter().position(|edge| edge.from < history.len()).unwrap_or_default();
    let mut seen = std::collections::BTreeSet::new();
    for edge in cycle[start..].iter().chain(&cycle[..start]) {
        if edge.from < history.len() && seen.insert(edge.from) {
            story.push_str(&format!("\n  {}", describe(history, edge.from)));
        }
        let reason = match edge.dependency {
            Dependency::WriteWrite => "appends before",
            Dependency::WriteRead => "was read by",
            Dependency::ReadWrite => "did not see",
            Dependency::RealTime => "was acknowledged before the call of",
            Dependency::Version => "has a lower commit version than",
        };
        // A path through several moments is reported once, at its end.
        if edge.to < history.len() {
            let key = edge.key.map(|key| format!(" (list {key})")).unwrap_or_default();
            story.push_str(&format!("\n    … {reason} T{}{key}", edge.to));
        }
    }
    story
}

#[cfg(test)]
mod tests;
