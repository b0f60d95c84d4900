//! `upgrade plan`: the order in which the replicas are restarted with a new release, and whether
//! now is a good time.
//!
//! A restart takes a replica away for a while. So it is a good time only if everybody is there and
//! well: then the others are a majority. The primary comes last, so that it moves once.

use serde_json::{Value, json};

use super::or_dash;
use crate::admin::{Gathered, Replica, Status};
use crate::output;

/// A process to restart, with the replicas in it.
struct Step<'a> {
    admin: &'a str,
    replicas: Vec<&'a Replica>,
}

pub struct Plan<'a> {
    status: &'a Status,
    steps: Vec<Step<'a>>,
    /// Why the upgrade should not begin, or continue, now.
    obstacles: Vec<String>,
}

impl<'a> Plan<'a> {
    pub fn of(gathered: &'a Gathered) -> Plan<'a> {
        let status = &gathered.best().status;
        let mut replicas: Vec<&Replica> = status.replicas.iter().collect();
        // Observers have no vote, so nobody misses them; the primary is last.
        replicas.sort_by_key(|replica| match replica.role.as_str() {
            "learner" => 0,
            _ if Some(replica.id) == status.primary => 2,
            _ => 1,
        });
        let mut steps: Vec<Step> = Vec::new();
        for replica in replicas {
            let admin = replica.admin.as_deref().unwrap_or_default();
            // A process is restarted once, for all of its replicas.
            match steps.iter_mut().find(|step| step.admin == admin && !admin.is_empty()) {
                Some(step) => step.replicas.push(replica),
                None => steps.push(Step { admin, replicas: vec![replica] }),
            }
        }
        Plan { status, steps, obstacles: obstacles(gathered) }
    }

    pub fn may_begin(&self) -> bool {
        self.obstacles.is_empty()
    }

    pub fn document(&self) -> Value {
        let steps = self.steps.iter().map(|step| {
            json!({
                "admin": step.admin,
                "replicas": step.replicas.iter().map(|replica| replica.id).collect::<Vec<_>>(),
                "primary": step.holds(self.status.primary),
            })
        });
        json!({
            "feature_level": self.status.feature_level,
            "may_begin": self.may_begin(),
            "obstacles": self.obstacles,
            "steps": steps.collect::<Vec<_>>(),
        })
    }

    pub fn show(&self) -> String {
        let mut rows = vec![["step", "replica", "role", "executes", "admin", "then"].map(str::to_string).to_vec()];
        for (place, step) in self.steps.iter().enumerate() {
            let each = |of: &dyn Fn(&Replica) -> String| {
                let mut all: Vec<String> = step.replicas.iter().map(|replica| of(replica)).collect();
                all.dedup();
                all.join(", ")
            };
            rows.push(vec![
                (place + 1).to_string(),
                each(&|replica| replica.id.to_string()),
                each(&|replica| replica.role.clone()),
                each(&|replica| super::executes(replica)),
                or_dash(Some(step.admin).filter(|admin| !admin.is_empty())),
                format!("synodkv upgrade wait {}", each(&|replica| format!("--node {}", replica.id)).replace(',', "")),
            ]);
        }
        let mut text = format!(
            "level    {} until `synodkv upgrade finalize`; until then the release before can be put back\n\n{}\n\n{}",
            or_dash(self.status.feature_level),
            output::table(&rows),
            self.advice()
        );
        for obstacle in &self.obstacles {
            text += &format!("\n\nNOT NOW: {obstacle}");
        }
        text
    }

    fn advice(&self) -> &'static str {
        match (self.status.mode.as_str(), self.steps.len()) {
            ("standalone", _) => "Install the release, and restart the server. Clients wait, or fail, meanwhile.",
            (_, 1) => {
                "Install the release, and restart the process. Clients wait, or fail, meanwhile: all replicas are in it."
            }
            (_, 2) => {
                "Install the release on each machine, and restart its server, in this order.\n\
                 Two replicas are a majority only together: clients wait during each restart."
            }
            _ => {
                "Install the release on each machine, and restart its server, in this order. Go on when the last command\n\
                 of the line has ended. Clients do not fail: a server that is stopped in good order (SIGTERM) transfers\n\
                 leadership first."
            }
        }
    }
}

impl Step<'_> {
    fn holds(&self, id: Option<u32>) -> bool {
        self.replicas.iter().any(|replica| Some(replica.id) == id)
    }
}

fn obstacles(gathered: &Gathered) -> Vec<String> {
    let status = &gathered.best().status;
    let mut all = Vec::new();
    if status.primary.is_none() {
        all.push("there is no primary: writes wait already".to_string());
    }
    for replica in &status.replicas {
        if !replica.reachable {
            all.push(format!("replica {} cannot be reached: start it first", replica.id));
        } else if let Some(problem) = &replica.problem {
            all.push(format!("replica {}: {problem}", replica.id));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Answer;

    fn gathered(roles: [&str; 3], admins: [&str; 3], change: impl FnOnce(&mut Value)) -> Gathered {
        let replica = |id: usize| {
            json!({"id": id, "role": roles[id], "reachable": true, "feature_level": 1, "lowest_level": 1,
                   "highest_level": 2, "admin": admins[id]})
        };
        let primary = roles.iter().position(|role| *role == "primary");
        let mut document = json!({
            "mode": "replicated", "primary": primary, "view": 7, "feature_level": 1,
            "replicas": [replica(0), replica(1), replica(2)]
        });
        change(&mut document);
        let status = serde_json::from_value(document.clone()).expect("a status");
        Gathered { answers: vec![Answer { address: "a:1".into(), document, status }], unanswered: Vec::new() }
    }

    fn order(gathered: &Gathered) -> Vec<Vec<u32>> {
        let plan = Plan::of(gathered);
        plan.steps.iter().map(|step| step.replicas.iter().map(|replica| replica.id).collect()).collect()
    }

    #[test]
    fn observers_are_first_and_the_primary_is_last() {
        let cluster = gathered(["primary", "secondary", "learner"], ["a:1", "b:1", "c:1"], |_| {});
        assert_eq!(order(&cluster), [[2], [1], [0]]);
        let text = Plan::of(&cluster).show();
        let steps: Vec<&str> = text.lines().filter(|line| line.contains("upgrade wait --node")).collect();
        assert!(steps[0].starts_with('1') && steps[0].ends_with("--node 2"), "{text}");
        assert!(steps[2].starts_with('3') && steps[2].contains("primary"), "{text}");
        assert!(Plan::of(&cluster).may_begin(), "{text}");
    }

    #[test]
    fn replicas_of_one_process_are_one_step() {
        let cluster = gathered(["primary", "secondary", "secondary"], ["a:1", "a:1", "a:1"], |_| {});
        assert_eq!(order(&cluster), [[1, 2, 0]]);
        let text = Plan::of(&cluster).show();
        assert!(text.contains("synodkv upgrade wait --node 1 --node 2 --node 0"), "{text}");
        assert!(text.contains("all replicas are in it"), "{text}");
    }

    #[test]
    fn a_replica_that_is_away_or_ill_is_a_reason_to_wait() {
        let cluster = gathered(["primary", "secondary", "unknown"], ["a:1", "b:1", "c:1"], |document| {
            document["replicas"][2]["reachable"] = json!(false);
            document["replicas"][1]["problem"] = json!("its disk is full");
        });
        let plan = Plan::of(&cluster);
        assert!(!plan.may_begin());
        assert_eq!(plan.obstacles, ["replica 1: its disk is full", "replica 2 cannot be reached: start it first"]);
        assert_eq!(plan.document()["may_begin"], false);
        let nobody = gathered(["secondary", "secondary", "secondary"], ["a:1", "b:1", "c:1"], |_| {});
        assert!(Plan::of(&nobody).show().contains("NOT NOW: there is no primary"));
    }
}
