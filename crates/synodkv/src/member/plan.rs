//! The members as a command wants them, made of the members as they are.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Voter,
    Observer,
}

/// A member as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u8,
    pub role: Role,
    pub disk: Option<String>,
    pub present_disk: Option<String>,
    pub peer: String,
    pub thrift: String,
    pub admin: String,
    pub reachable: bool,
    pub lag: Option<u64>,
    pub ready: bool,
}

/// The members as the server shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub epoch: u64,
    pub since: u64,
    pub changing: bool,
    pub primary: Option<u8>,
    pub members: Vec<Member>,
}

/// A member as it should be; what is left out stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    pub id: u8,
    pub role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thrift: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Add { id: u8, peer: String, thrift: String, admin: String },
    Promote(Vec<u8>),
    Demote(Vec<u8>),
    Replace { id: u8, with: u8, keep: bool },
    Remove(Vec<u8>),
    Move { id: u8, peer: Option<String>, thrift: Option<String>, admin: Option<String> },
}

impl Members {
    pub fn get(&self, id: u8) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    fn as_wanted(&self) -> Vec<Wanted> {
        let stays = |m: &Member| Wanted { id: m.id, role: m.role, peer: None, thrift: None, admin: None };
        self.members.iter().map(stays).collect()
    }
}

impl Plan {
    /// The members after the change; `None` if they are so already.
    pub fn apply(&self, present: &Members) -> Result<Option<Vec<Wanted>>, Failure> {
        let mut wanted = present.as_wanted();
        match self {
            Plan::Add { id, peer, thrift, admin } => {
                let same = |m: &Member| (&m.peer, &m.thrift, &m.admin) == (peer, thrift, admin);
                match present.get(*id) {
                    Some(member) if same(member) => return Ok(None),
                    Some(member) => {
                        return Err(Failure::Failed(format!(
                            "replica {id} is a member already, at {}: choose another id, or see `member move`",
                            member.peer
                        )));
                    }
                    None => {}
                }
                let (peer, thrift, admin) = (Some(peer.clone()), Some(thrift.clone()), Some(admin.clone()));
                wanted.push(Wanted { id: *id, role: Role::Observer, peer, thrift, admin });
            }
            Plan::Promote(ids) => set_roles(&mut wanted, ids, Role::Voter)?,
            Plan::Demote(ids) => set_roles(&mut wanted, ids, Role::Observer)?,
            Plan::Replace { id, with, keep } => {
                if id == with {
                    return Err(Failure::Usage(format!("replica {id} cannot replace itself")));
                }
                if present.get(*id).is_none() && present.get(*with).is_some_and(|member| member.role == Role::Voter) {
                    return Ok(None);
                }
                set_roles(&mut wanted, &[*with], Role::Voter)?;
                set_roles(&mut wanted, &[*id], Role::Observer)?;
                if !keep {
                    wanted.retain(|member| member.id != *id);
                }
            }
            // Whoever is gone already need not be removed.
            Plan::Remove(ids) => wanted.retain(|member| !ids.contains(&member.id)),
            Plan::Move { id, peer, thrift, admin } => {
                let member = find(&mut wanted, *id)?;
                (member.peer, member.thrift, member.admin) = (peer.clone(), thrift.clone(), admin.clone());
                let known = present.get(*id).expect("it was found");
                let is_other = |given: &Option<String>, known: &str| given.as_ref().is_some_and(|given| given != known);
                if !is_other(peer, &known.peer) && !is_other(thrift, &known.thrift) && !is_other(admin, &known.admin) {
                    return Ok(None);
                }
                return Ok(Some(wanted));
            }
        }
        Ok((wanted != present.as_wanted()).then_some(wanted))
    }

    /// The members that vote after the change and do not before.
    pub fn new_voters(&self) -> &[u8] {
        match self {
            Plan::Promote(ids) => ids,
            Plan::Replace { with, .. } => std::slice::from_ref(with),
            Plan::Add { .. } | Plan::Demote(_) | Plan::Remove(_) | Plan::Move { .. } => &[],
        }
    }
}

fn find(wanted: &mut [Wanted], id: u8) -> Result<&mut Wanted, Failure> {
    let ids: Vec<String> = wanted.iter().map(|member| member.id.to_string()).collect();
    wanted.iter_mut().find(|member| member.id == id).ok_or_else(|| {
        Failure::Failed(format!(
            "replica {id} is no member: the members are {}. Add it first with `synodkv member add`",
            ids.join(", ")
        ))
    })
}

fn set_roles(wanted: &mut [Wanted], ids: &[u8], role: Role) -> Result<(), Failure> {
    ids.iter().try_for_each(|id| {
        find(wanted, *id)?.role = role;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u8, role: Role) -> Member {
        Member {
            id,
            role,
            disk: None,
            present_disk: None,
            peer: format!("p{id}:1"),
            thrift: format!("t{id}:1"),
            admin: format!("a{id}:1"),
            reachable: true,
            lag: Some(0),
            ready: true,
        }
    }

    fn present() -> Members {
        let members = vec![member(0, Role::Voter), member(1, Role::Voter), member(2, Role::Observer)];
        Members { epoch: 4, since: 9, changing: false, primary: Some(0), members }
    }

    fn after(plan: &Plan) -> Option<Vec<(u8, Role)>> {
        let wanted = plan.apply(&present()).expect("a valid plan");
        wanted.map(|wanted| wanted.iter().map(|member| (member.id, member.role)).collect())
    }

    #[test]
    fn each_plan_changes_what_it_names_and_nothing_else() {
        use Role::{Observer, Voter};
        assert_eq!(after(&Plan::Promote(vec![2])), Some(vec![(0, Voter), (1, Voter), (2, Voter)]));
        assert_eq!(after(&Plan::Demote(vec![1])), Some(vec![(0, Voter), (1, Observer), (2, Observer)]));
        assert_eq!(after(&Plan::Remove(vec![1, 2])), Some(vec![(0, Voter)]));
        let replace = |keep| Plan::Replace { id: 1, with: 2, keep };
        assert_eq!(after(&replace(false)), Some(vec![(0, Voter), (2, Voter)]));
        assert_eq!(after(&replace(true)), Some(vec![(0, Voter), (1, Observer), (2, Voter)]));
    }

    #[test]
    fn what_is_so_already_changes_nothing() {
        assert_eq!(after(&Plan::Promote(vec![0, 1])), None);
        assert_eq!(after(&Plan::Remove(vec![7])), None);
        let [peer, thrift, admin] = ["p2:1", "t2:1", "a2:1"].map(str::to_string);
        assert_eq!(after(&Plan::Add { id: 2, peer: peer.clone(), thrift, admin }), None);
        assert_eq!(after(&Plan::Move { id: 2, peer: Some(peer), thrift: None, admin: None }), None);
    }

    #[test]
    fn a_new_member_is_an_observer_and_its_id_must_be_free() {
        let add = |id| Plan::Add { id, peer: "x:1".into(), thrift: "x:2".into(), admin: "x:3".into() };
        let wanted = add(3).apply(&present()).expect("free").expect("a change");
        assert_eq!((wanted[3].id, wanted[3].role, wanted[3].peer.as_deref()), (3, Role::Observer, Some("x:1")));
        assert!(matches!(add(1).apply(&present()), Err(Failure::Failed(text)) if text.contains("a member already")));
    }

    #[test]
    fn a_stranger_is_named_in_the_error() {
        let refused = Plan::Promote(vec![6]).apply(&present()).expect_err("no member");
        assert!(refused.to_string().contains("replica 6 is no member: the members are 0, 1, 2"), "{refused}");
        assert!(matches!(Plan::Replace { id: 1, with: 1, keep: false }.apply(&present()), Err(Failure::Usage(_))));
    }
}
