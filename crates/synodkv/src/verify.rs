//! `verify`: checks that all replicas hold the same rows.
//!
//! It takes one read version, and every replica hashes its rows at that version, page by page.
//! Pages are compared as they arrive, so memory use is small. Because the version is fixed,
//! concurrent writes do not matter. If a page differs, smaller and smaller pages are compared until
//! the first differing row is found.

use std::process::ExitCode;
use std::time::Duration;

use kv_client::Version;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::admin::{AdminClient, Replica, Status};
use crate::cli::VerifyArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::text::{Notation, from_hex};

/// A timeout longer than a server waits for a version that it has not applied yet and takes for a
/// page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// A replica's answer about one page of rows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Page {
    count: u64,
    #[serde(deserialize_with = "text_or_number")]
    hash: String,
    /// The first key after the page, in hexadecimal; `None` at the end of the family.
    next: Option<String>,
}

/// A hash may come as text, because many JSON readers cannot hold 64-bit numbers.
fn text_or_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().map_or_else(|| value.to_string(), str::to_string))
}

/// A replica under comparison.
#[derive(Clone, Debug, Serialize)]
struct Subject {
    id: u32,
    rows: u64,
    /// The hash over all pages so far, shown in hexadecimal.
    #[serde(serialize_with = "as_hex")]
    hash: u64,
    /// Why it could not be read; it is left out of the comparison then.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// A problem that the cluster itself reports, such as a diverged database.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip)]
    admin: String,
}

fn as_hex<S: serde::Serializer>(hash: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{hash:016x}"))
}

/// The first row that differs between replicas.
#[derive(Clone, Debug, Serialize)]
struct Difference {
    column_family: String,
    key: String,
    /// The row on each replica.
    replicas: Vec<DifferingRow>,
}

#[derive(Clone, Debug, Serialize)]
struct DifferingRow {
    id: u32,
    has_key: bool,
    /// The hash of the row, if the replica has it. Different hashes mean different values.
    row_hash: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    agree: bool,
    version: u64,
    replicas: Vec<Subject>,
    difference: Option<Difference>,
}

pub async fn run(args: VerifyArgs) -> Result<ExitCode, Failure> {
    let client = args.target.connect().await?;
    let admin = AdminClient::new()?;
    let (answered, status): (String, Status) = admin.first(&args.admin, "/status").await?;
    // A witness knows no families.
    let status = if status.replicas.iter().any(is_witness) { of_one_with_data(&admin, status).await } else { status };
    let version = client.read_version().await?;
    let mut comparison = Comparison {
        admin,
        version,
        page: args.page,
        subjects: status
            .replicas
            .iter()
            .filter(|replica| !is_witness(replica))
            .map(|r| subject(r, &answered))
            .collect(),
        progress: output::progress("rows compared", None),
    };
    let mut families = status.column_families.clone();
    if families.is_empty() {
        families.push(kv_api::DEFAULT_COLUMN_FAMILY.to_string());
    }
    let mut difference = None;
    for family in &families {
        difference = comparison.compare_family(family, args.presentation.notation()).await;
        if difference.is_some() {
            break;
        }
    }
    comparison.progress.finish_and_clear();
    let complete = comparison.subjects.iter().all(|subject| subject.error.is_none() && subject.problem.is_none());
    let report = Report {
        agree: difference.is_none() && complete,
        version: version.0,
        replicas: comparison.subjects,
        difference,
    };
    match args.presentation.format {
        Format::Json => output::write_json(&report)?,
        Format::Text => output::write_line(&show(&report))?,
    }
    Ok(report.exit_code())
}

impl Report {
    /// A replica that could not be read may hold anything, but a difference that was found remains
    /// one.
    fn exit_code(&self) -> ExitCode {
        let is_incomplete = self.replicas.iter().any(|subject| subject.error.is_some());
        ExitCode::from(match (self.agree, &self.difference) {
            (true, _) => 0,
            (false, None) if is_incomplete => 3,
            (false, _) => 1,
        })
    }
}

/// A witness has no rows that could be compared.
fn is_witness(replica: &Replica) -> bool {
    replica.role == "witness"
}

/// The status as a replica with data says it, if one answers.
async fn of_one_with_data(admin: &AdminClient, known: Status) -> Status {
    let with_data = known.replicas.iter().filter(|replica| replica.reachable && !is_witness(replica));
    for address in with_data.filter_map(|replica| replica.admin.as_deref()) {
        if let Ok(status) = admin.get::<Status>(address, "/status", &[], PAGE_TIMEOUT).await {
            return status;
        }
    }
    known
}

fn subject(replica: &Replica, answered: &str) -> Subject {
    let admin = replica.admin.clone().unwrap_or_else(|| answered.to_string());
    Subject { id: replica.id, rows: 0, hash: 0, error: None, problem: replica.problem.clone(), admin }
}

struct Comparison {
    admin: AdminClient,
    version: Version,
    page: u64,
    subjects: Vec<Subject>,
    progress: indicatif::ProgressBar,
}

impl Comparison {
    async fn compare_family(&mut self, family: &str, notation: Notation) -> Option<Difference> {
        let mut begin = String::new();
        loop {
            let pages = self.ask_all(family, &begin, self.page).await;
            let Some((_, first)) = pages.first().cloned() else {
                // No replica could be read; the report says so for each.
                return None;
            };
            if pages.iter().any(|(_, page)| *page != first) {
                return Some(self.find_difference(family, begin, notation).await);
            }
            for (index, page) in &pages {
                let subject = &mut self.subjects[*index];
                subject.rows += page.count;
                subject.hash = xxh3_64(format!("{:016x} {family} {}", subject.hash, page.hash).as_bytes());
            }
            self.progress.inc(first.count);
            match first.next {
                Some(next) => begin = next,
                None => return None,
            }
        }
    }

    /// Asks all replicas that have answered so far, concurrently. A replica that fails is marked
    /// and left out from then on.
    async fn ask_all(&mut self, family: &str, begin: &str, limit: u64) -> Vec<(usize, Page)> {
        let mut tasks = tokio::task::JoinSet::new();
        let asked: Vec<usize> = (0..self.subjects.len()).filter(|i| self.subjects[*i].error.is_none()).collect();
        for index in asked {
            let subject = &self.subjects[index];
            let query = [
                ("version", self.version.0.to_string()),
                ("family", family.to_string()),
                ("begin", begin.to_string()),
                ("limit", limit.to_string()),
                ("replica", subject.id.to_string()),
            ];
            let (admin, address) = (self.admin.clone(), subject.admin.clone());
            tasks.spawn(async move {
                (index, admin.get_slowly::<Page>(&address, "/rows/hash", &query, PAGE_TIMEOUT).await)
            });
        }
        let answers = tasks.join_all().await;
        let mut pages = Vec::new();
        for (index, answer) in answers {
            match answer {
                Ok(page) => pages.push((index, page)),
                Err(reason) => {
                    let subject = &mut self.subjects[index];
                    subject.error = Some(format!("cannot read {}: {reason}", subject.admin));
                }
            }
        }
        pages.sort_by_key(|(index, _)| *index);
        pages
    }

    /// Finds the first difference from `begin` on: the smallest page that differs ends with the
    /// differing row.
    async fn find_difference(&mut self, family: &str, begin: String, notation: Notation) -> Difference {
        let differ = |pages: &[(usize, Page)]| pages.windows(2).any(|pair| pair[0].1 != pair[1].1);
        // If only the rows after the page differ, the difference is the first row after the page.
        let (mut same, mut different) = (0, self.page + 1);
        while different - same > 1 {
            let middle = same + (different - same) / 2;
            let pages = self.ask_all(family, &begin, middle).await;
            // `next` is outside the page: the rows in the page are equal if counts and hashes are.
            let inside: Vec<_> = pages.into_iter().map(|(i, page)| (i, Page { next: None, ..page })).collect();
            if differ(&inside) { different = middle } else { same = middle }
        }
        let (key, holders) = self.first_behind(family, begin, same).await;
        let rows = self.ask_all(family, &key, 1).await;
        let replicas = rows.into_iter().map(|(index, page)| {
            let has_key = page.count > 0 && holders.contains(&index);
            DifferingRow { id: self.subjects[index].id, has_key, row_hash: has_key.then_some(page.hash) }
        });
        let replicas = replicas.collect();
        let key = notation.show(&from_hex(&key).unwrap_or_default());
        Difference { column_family: family.to_string(), key, replicas }
    }

    /// The first key after `same` rows from `begin` on, and the replicas that have it.
    async fn first_behind(&mut self, family: &str, begin: String, same: u64) -> (String, Vec<usize>) {
        let before = self.ask_all(family, &begin, same).await;
        let key = before.iter().filter_map(|(_, page)| page.next.clone()).min().unwrap_or(begin);
        let has_it = |(index, page): &(usize, Page)| (page.next.as_ref() == Some(&key)).then_some(*index);
        let holders = before.iter().filter_map(has_it).collect();
        (key, holders)
    }
}

fn show(report: &Report) -> String {
    let mut rows = vec![["replica", "rows", "hash"].map(str::to_string).to_vec()];
    rows.extend(report.replicas.iter().map(|subject| match &subject.error {
        None => vec![subject.id.to_string(), subject.rows.to_string(), format!("{:016x}", subject.hash)],
        Some(reason) => vec![subject.id.to_string(), "-".to_string(), format!("not compared: {reason}")],
    }));
    let mut lines = vec![output::table(&rows), String::new()];
    let problems = report.replicas.iter().filter_map(|subject| Some((subject.id, subject.problem.as_ref()?)));
    lines.extend(problems.map(|(id, problem)| format!("PROBLEM: replica {id}: {problem}")));
    lines.push(match &report.difference {
        Some(difference) => {
            let each = difference.replicas.iter().map(|row| match &row.row_hash {
                Some(hash) => format!("replica {} has it (row hash {hash})", row.id),
                None => format!("replica {} does not have it", row.id),
            });
            format!(
                "DIFFERENT at version {}: the first row that differs is `{}` of column family {}: {}",
                report.version,
                difference.key,
                difference.column_family,
                each.collect::<Vec<_>>().join(", ")
            )
        }
        None if report.agree => format!("all replicas hold the same rows at version {}", report.version),
        None if report.replicas.iter().any(|subject| subject.error.is_some()) => {
            "INCOMPLETE: not every replica could be compared".to_string()
        }
        None => format!("the replicas hold the same rows at version {}, but one has a problem", report.version),
    });
    lines.join("\n")
}
