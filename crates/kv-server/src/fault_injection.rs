//! Faults on demand, for testing clients: an operation of this server fails with a chosen error
//! code.
//!
//! A fault acts before the operation is routed, in the server that was asked to inject it, and
//! nowhere else: no replica's decision ever depends on one. The server must have been started with
//! `[server] allow_fault_injection = true`.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use kv_api::{KvError, KvOperation, KvOutcome};

use crate::problems::Problem;
use crate::router::{RequestContext, RequestRouter};

/// The operations that a fault can target. `commit` means every write, whichever method requested
/// it.
pub const TARGETS: &[&str] = &["commit", "get", "range", "read_version"];

/// A tester's request to inject or clear a fault.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRequest {
    /// The `error_code` of the failing operations.
    pub code: String,
    /// 0 or less removes the faults of this code, or of every code if it is empty, `none` or `all`.
    pub probability: f64,
    /// How long the operation waits before it fails.
    pub delay: Duration,
    /// One of [`TARGETS`], or `None` for all of them.
    pub target: Option<String>,
}

/// The faults of one server.
#[derive(Debug, Default)]
pub struct FaultInjector {
    allowed: bool,
    /// Whether any fault is set; saves the common path the lock.
    active: AtomicBool,
    faults: RwLock<Vec<FaultRequest>>,
}

impl FaultInjector {
    /// An injector without faults. Unless `allowed`, it refuses all requests for faults.
    pub fn new(allowed: bool) -> Self {
        FaultInjector { allowed, ..FaultInjector::default() }
    }

    /// Adds, replaces (same code and target) or removes a fault.
    pub fn set(&self, mut request: FaultRequest) -> Result<(), KvError> {
        if !self.allowed {
            let reason = "fault injection is off: start the server with allow_fault_injection = true in [server]";
            return Err(KvError::Forbidden(reason.to_string()));
        }
        check(&mut request)?;
        let mut faults = self.faults.write().expect("no code panics while holding this lock");
        let clears = request.probability <= 0.0;
        let all_codes = clears && ALL_CODES.iter().any(|name| request.code.eq_ignore_ascii_case(name));
        let covers = |fault: &FaultRequest| {
            (all_codes || fault.code.eq_ignore_ascii_case(&request.code))
                && (request.target.is_none() || fault.target == request.target)
        };
        if clears && !all_codes && !faults.is_empty() && !faults.iter().any(covers) {
            return Err(nothing_to_clear(&request, &faults));
        }
        faults.retain(|fault| !covers(fault));
        if !clears {
            faults.push(request);
        }
        self.active.store(!faults.is_empty(), Ordering::Release);
        Ok(())
    }

    /// A problem for `/status` while faults are set, so that operators see why operations fail.
    pub fn problem(&self) -> Option<Problem> {
        let faults = self.faults.read().expect("no code panics while holding this lock");
        let text = format!("operations fail, because faults are injected: {}", show_all(&faults));
        let remedy = "call setFaultInjection with fault_type \"none\" and probability 0";
        (!faults.is_empty()).then(|| Problem::new("faults_injected", text, remedy))
    }

    /// Draws whether a fault strikes this operation, and which.
    fn strike(&self, target: &str) -> Option<FaultRequest> {
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        let faults = self.faults.read().expect("no code panics while holding this lock");
        let aims = |fault: &&FaultRequest| fault.target.as_deref().is_none_or(|t| t == target);
        faults.iter().filter(aims).find(|fault| random_fraction() < fault.probability).cloned()
    }
}

/// Codes that mean every code in a request to clear faults.
const ALL_CODES: &[&str] = &["", "none", "all"];

/// An error if faults are set, but none that the request would clear. A success would leave the
/// tester with faults.
fn nothing_to_clear(request: &FaultRequest, faults: &[FaultRequest]) -> KvError {
    KvError::InvalidOperation(format!(
        "no fault {} is set, so none was cleared: there are {}; fault_type = \"none\" clears all",
        show(request),
        show_all(faults)
    ))
}

fn show(fault: &FaultRequest) -> String {
    match &fault.target {
        Some(target) => format!("{} of {target}", fault.code),
        None => fault.code.clone(),
    }
}

fn show_all(faults: &[FaultRequest]) -> String {
    faults.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn check(request: &mut FaultRequest) -> Result<(), KvError> {
    let invalid = |message: String| Err(KvError::InvalidOperation(message));
    if request.code.is_empty() && request.probability > 0.0 {
        return invalid(
            "fault_type cannot be empty: it is the error_code that the operation will fail with".to_string(),
        );
    }
    if request.probability.is_nan() || request.probability > 1.0 {
        return invalid(format!("probability = {}; allowed: 0 (clears the fault) to 1", request.probability));
    }
    if let Some(target) = request.target.take().filter(|target| !target.is_empty()) {
        let lower = target.to_ascii_lowercase();
        let known = match lower.as_str() {
            // The names of the methods are allowed, too.
            "atomiccommit" | "atomic_commit" => "commit",
            "getrange" | "get_range" => "range",
            "getreadversion" | "get_read_version" => "read_version",
            other => other,
        };
        if !TARGETS.contains(&known) {
            return invalid(format!("target_operation = \"{target}\"; allowed: {}", TARGETS.join(", ")));
        }
        request.target = Some(known.to_string());
    }
    Ok(())
}

/// Uniformly distributed in 0..1. The standard library's hash keys are random enough for this
/// purpose.
fn random_fraction() -> f64 {
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}

fn target_of(operation: &KvOperation) -> &'static str {
    match operation {
        KvOperation::ReadVersion => "read_version",
        KvOperation::Get { .. } => "get",
        KvOperation::GetRange { .. } => "range",
        KvOperation::ReadChanges(_) => "changes",
        KvOperation::AtomicCommit(_)
        | KvOperation::ChangeFamily(_)
        | KvOperation::ChangeAccess(_)
        | KvOperation::ClockTick => "commit",
    }
}

/// A router that injects faults in front of another router.
pub struct FaultyRouter {
    inner: Arc<dyn RequestRouter>,
    injector: Arc<FaultInjector>,
}

impl FaultyRouter {
    /// Injects the faults of `injector` in front of `inner`.
    pub fn new(inner: Arc<dyn RequestRouter>, injector: Arc<FaultInjector>) -> Self {
        FaultyRouter { inner, injector }
    }
}

#[async_trait]
impl RequestRouter for FaultyRouter {
    async fn route(&self, operation: KvOperation, context: &RequestContext) -> Result<KvOutcome, KvError> {
        if let Some(fault) = self.injector.strike(target_of(&operation)) {
            tokio::time::timeout_at(context.deadline, tokio::time::sleep(fault.delay)).await.ok();
            return Err(KvError::Injected { code: fault.code });
        }
        self.inner.route(operation, context).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str, probability: f64, target: Option<&str>) -> FaultRequest {
        let target = target.map(str::to_string);
        FaultRequest { code: code.to_string(), probability, delay: Duration::ZERO, target }
    }

    #[test]
    fn active_faults_are_a_problem_that_status_names() {
        let injector = FaultInjector::new(true);
        assert_eq!(injector.problem(), None);
        injector.set(fault("TIMEOUT", 0.5, Some("get"))).expect("it is allowed");
        let problem = injector.problem().expect("there is a fault");
        assert!(problem.text.ends_with("TIMEOUT of get"), "{}", problem.text);
        injector.set(fault("none", 0.0, None)).expect("it is allowed");
        assert_eq!(injector.problem(), None);
    }

    #[test]
    fn faults_are_refused_unless_allowed() {
        let injector = FaultInjector::new(false);
        assert!(matches!(injector.set(fault("TIMEOUT", 1.0, None)), Err(KvError::Forbidden(_))));
        assert_eq!(injector.strike("commit"), None);
    }

    #[test]
    fn a_fault_strikes_its_target_until_it_is_cleared() {
        let injector = FaultInjector::new(true);
        injector.set(fault("CONFLICT", 1.0, Some("COMMIT"))).unwrap();
        assert_eq!(injector.strike("get"), None);
        assert_eq!(injector.strike("commit").unwrap().code, "CONFLICT");
        injector.set(fault("CONFLICT", 0.0, None)).unwrap();
        assert_eq!(injector.strike("commit"), None);
    }

    #[test]
    fn a_probability_of_a_half_strikes_about_every_other_time() {
        let injector = FaultInjector::new(true);
        injector.set(fault("X", 0.5, None)).unwrap();
        let struck = (0..2000).filter(|_| injector.strike("get").is_some()).count();
        assert!((700..1300).contains(&struck), "{struck} of 2000");
    }

    #[test]
    fn an_unknown_target_and_an_impossible_probability_are_refused() {
        let injector = FaultInjector::new(true);
        let target = injector.set(fault("X", 1.0, Some("scan"))).unwrap_err().to_string();
        assert!(target.contains("scan") && target.contains("commit, get, range, read_version"), "{target}");
        assert!(injector.set(fault("X", 1.5, None)).is_err());
    }
}
