//! How replicas, messages and entries are written down.

use bytes::Bytes;
use rsml::core::InstallStep;
use rsml::{Message, Persist, Value, View};

pub fn name(node: usize) -> char {
    (b'A' + node as u8) as char
}

/// `3C` is the third view that C may lead.
pub fn view(number: u64) -> String {
    match View(number).owner() {
        None => "0".into(),
        Some(owner) => format!("{}{}", number / 256, name(owner.0 as usize)),
    }
}

pub fn disk_name(disk: u128) -> char {
    name((disk - 0xD0) as usize)
}

pub fn entry_text(entry: &Bytes) -> String {
    value_text(&Value::from_bytes(entry.clone()))
}

pub fn value_text(value: &Value) -> String {
    if value.birth.is_some() {
        return "[birth]".into();
    }
    let mut requests = Vec::new();
    for batch in &value.batches {
        let disk: u128 = batch.disk_id.into();
        for (number, payload) in batch.clone().into_requests() {
            let text = payload.map_or("void".into(), |payload| String::from_utf8_lossy(&payload).into_owned());
            requests.push(format!("{}#{number} {text}", disk_name(disk)));
        }
    }
    let what = if requests.is_empty() { "no-op".into() } else { requests.join(", ") };
    format!("[{what} of {}]", view(value.proposed_view))
}

pub fn write_text(write: &Persist) -> String {
    let hard = &write.hard_state;
    let mut text = format!("promised {}, accepted {}", view(hard.promised.0), view(hard.accepted_view.0));
    if let Some(base) = write.base {
        text += &format!(", drops through {base}, database {}", hard.generation);
    }
    if write.truncate {
        text += &format!(", cuts at {}", write.from);
    }
    for (sequence, entry) in (write.from.0..).zip(&write.entries) {
        text += &format!(", {sequence} {}", entry_text(entry));
    }
    text
}

pub fn message_text(message: &Message, payload: &[Bytes]) -> String {
    let entries = |from: u64| -> String {
        (from..).zip(payload).map(|(sequence, entry)| format!(", {sequence} {}", entry_text(entry))).collect()
    };
    match message {
        Message::Hello(_) => "my disk is empty".into(),
        Message::Born(_) => "the cluster is born".into(),
        Message::PreVote(m) => format!("would you promise {}?", view(m.view)),
        Message::PreVoteReply(m) => {
            format!("{} (promised {})", if m.granted { "yes" } else { "no" }, view(m.promised))
        }
        Message::Prepare(m) if m.transfer > 0 => {
            format!("1a {}, told to by the primary of {}", view(m.view), view(m.transfer))
        }
        Message::Prepare(m) => format!("1a {}", view(m.view)),
        Message::Promise(m) => format!(
            "1b {}: accepted {}, length {}, committed {}{}",
            view(m.view),
            view(m.accepted_view),
            m.last,
            m.commit,
            m.lost.iter().map(|lost| format!(", lost {} to {}", lost.from, lost.to)).collect::<String>()
        ),
        Message::Fetch(m) => format!("fetch for {} from {}", view(m.view), m.from),
        Message::Fetched(m) => format!("fetched for {}{}", view(m.view), entries(m.from)),
        Message::Refuse(m) => format!("refused, promised {}", view(m.promised)),
        Message::Accept(m) => {
            let agreed = format!("L {}, after {} of {}", m.adopted, m.from - 1, view(m.agreed_view));
            let marks = format!("commit {}, token {}, probe {}", m.commit, m.read_round & 0xFFFF, m.probe);
            let lease =
                if m.lease_us > 0 { format!(", lease {} from {}", m.lease_us, m.lease_from_us) } else { String::new() };
            let answer = if m.answer { ", answer!" } else { "" };
            format!("2a {}: {agreed}, {marks}{lease}{answer}{}", view(m.view), entries(m.from))
        }
        Message::Accepted(m) => {
            let gap = if m.gap { ", gap" } else { "" };
            let lease = if m.lease_from_us > 0 { format!(", leased from {}", m.lease_from_us) } else { String::new() };
            format!(
                "2b {}: durable {} of {}, expects {} of {}, settled {}, committed {}, token {}, probe {}{gap}{lease}",
                view(m.view),
                m.durable_last,
                view(m.durable_view),
                m.expected,
                view(m.memory_view),
                m.acknowledged,
                m.commit,
                m.read_round & 0xFFFF,
                m.probe
            )
        }
        Message::Requests(m) => {
            let text = |n: u64, p: &Bytes| match m.voids.contains(&n) {
                true => format!(" #{n} void"),
                false => format!(" #{n} {}", String::from_utf8_lossy(p)),
            };
            let requests = (m.first..).zip(payload).map(|(n, p)| text(n, p));
            format!("requests{}", requests.collect::<String>())
        }
        Message::RequestsGap(m) => format!("requests are missing from #{}", m.expected),
        Message::ReadPoint(m) => format!("read point? round {}", m.round & 0xFFFF),
        Message::ReadPointReply(m) => {
            format!("read point {} of {}, round {}", m.sequence, view(m.view), m.round & 0xFFFF)
        }
        Message::Report(_) => "report".into(),
        Message::Transfer(m) => format!("stand now: {} hands over", view(m.view)),
        Message::Ended(m) => format!("epoch {} has begun, behind {} of {}", m.epoch, m.since, view(m.view)),
        Message::EndedRequest(_) => "is my epoch over?".into(),
        Message::CommittedRequest(m) => format!("chosen entries from {}?", m.from),
        Message::Committed(m) => format!("chosen by {}{}", view(m.view), entries(m.from)),
        Message::Resign(m) => format!("leads {} no more", view(m.view)),
        Message::Behind(m) => format!("get a snapshot: entries before {} are gone", m.first),
        Message::SnapshotRequest(m) => format!("snapshot from byte {}, through {} at least", m.offset, m.at_least),
        Message::SnapshotChunk(m) => {
            let bytes: usize = payload.iter().map(Bytes::len).sum();
            format!("snapshot through {} of {}: {bytes} bytes from {}", m.sequence, view(m.view), m.offset)
        }
    }
}

pub fn step_text(step: &InstallStep) -> String {
    match step {
        InstallStep::Begin { generation } => format!("begins database {generation}"),
        InstallStep::Write(bytes) => format!("writes {} bytes of it", bytes.len()),
        InstallStep::Finish => "finishes it".into(),
        InstallStep::Abort => "gives it up".into(),
    }
}
