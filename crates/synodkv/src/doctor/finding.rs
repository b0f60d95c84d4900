//! A finding of a check, and the report of all checks.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something fails now, or data or secrets are at risk.
    Error,
    /// Something will fail, or is slower or less safe than it should be.
    Warning,
    /// Good to know; nothing need be done.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Note => "note",
        })
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name for programs, in snake case.
    pub name: String,
    pub severity: Severity,
    /// The condition, with numbers.
    pub text: String,
    /// The next step of the operator.
    pub remedy: String,
}

/// A check that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Skipped {
    check: &'static str,
    reason: String,
}

/// The result of all checks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    checked: Vec<&'static str>,
    skipped: Vec<Skipped>,
    /// Figures for programs, whether or not they are a finding.
    measured: Map<String, Value>,
    findings: Vec<Finding>,
}

impl Report {
    /// A check that begins now.
    pub fn check(&mut self, check: &'static str) {
        if !self.checked.contains(&check) {
            self.checked.push(check);
        }
    }

    pub fn skip(&mut self, check: &'static str, reason: impl Into<String>) {
        self.checked.retain(|other| *other != check);
        self.skipped.push(Skipped { check, reason: reason.into() });
    }

    pub fn measured(&mut self, name: &str, value: impl Into<Value>) {
        self.measured.insert(name.to_string(), value.into());
    }

    pub fn error(&mut self, name: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, name, text, remedy);
    }

    pub fn warn(&mut self, name: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, name, text, remedy);
    }

    pub fn note(&mut self, name: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Note, name, text, remedy);
    }

    /// Adds a finding, unless the report has it already.
    pub fn add(
        &mut self,
        severity: Severity,
        name: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let finding = Finding { name: name.into(), severity, text: text.into(), remedy: remedy.into() };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Whether anything should be done.
    pub fn is_fine(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Note)
    }

    /// Puts the most serious findings first.
    pub fn sort(&mut self) {
        self.findings.sort_by_key(|finding| finding.severity);
    }

    #[cfg(test)]
    pub fn names(&self) -> Vec<&str> {
        self.findings.iter().map(|finding| finding.name.as_str()).collect()
    }

    /// The report for people.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for Finding { name, severity, text: found, remedy } in &self.findings {
            text += &format!("{severity} {name}: {found}\n  What to do: {remedy}\n\n");
        }
        for Skipped { check, reason } in &self.skipped {
            text += &format!("not checked: {check}: {reason}\n");
        }
        let count = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let verdict = if self.is_fine() { "fine".to_string() } else { format!("{errors} errors, {warnings} warnings") };
        text + &format!("{} checks: {verdict} ({})", self.checked.len(), self.checked.join(", "))
    }
}
