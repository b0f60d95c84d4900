//! The members as a command wants them, made of the members as they are.

use kv_server::membership::{MemberRole, MemberView, MembersView, WantedMember};

use crate::failure::Failure;

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

/// The members as they are; what a [`WantedMember`] leaves out stays so.
fn unchanged(present: &MembersView) -> Vec<WantedMember> {
    let stays =
        |m: &MemberView| WantedMember { id: m.id, role: m.role, disk: None, peer: None, thrift: None, admin: None };
    present.members.iter().map(stays).collect()
}

impl Plan {
    /// The members after the change; `None` if they are so already.
    pub fn apply(&self, present: &MembersView) -> Result<Option<Vec<WantedMember>>, Failure> {
        let mut wanted = unchanged(present);
        match self {
            Plan::Add { id, peer, thrift, admin } => {
                let same = |m: &MemberView| (&m.peer, &m.thrift, &m.admin) == (peer, thrift, admin);
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
                wanted.push(WantedMember { id: *id, role: MemberRole::Observer, disk: None, peer, thrift, admin });
            }
            Plan::Promote(ids) => let_vote(&mut wanted, ids, present)?,
            Plan::Demote(ids) => set_roles(&mut wanted, ids, MemberRole::Observer)?,
            Plan::Replace { id, with, keep } => {
                if id == with {
                    return Err(Failure::Usage(format!("replica {id} cannot replace itself")));
                }
                if present.get(*id).is_none()
                    && present.get(*with).is_some_and(|member| member.role != MemberRole::Observer)
                {
                    return Ok(None);
                }
                let_vote(&mut wanted, &[*with], present)?;
                set_roles(&mut wanted, &[*id], MemberRole::Observer)?;
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
                let is_recorded = !known.is_moving;
                if is_recorded
                    && !is_other(peer, &known.peer)
                    && !is_other(thrift, &known.thrift)
                    && !is_other(admin, &known.admin)
                {
                    return Ok(None);
                }
                return Ok(Some(wanted));
            }
        }
        Ok((wanted != unchanged(present)).then_some(wanted))
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

fn find(wanted: &mut [WantedMember], id: u8) -> Result<&mut WantedMember, Failure> {
    let ids: Vec<String> = wanted.iter().map(|member| member.id.to_string()).collect();
    wanted.iter_mut().find(|member| member.id == id).ok_or_else(|| {
        Failure::Failed(format!(
            "replica {id} is no member: the members are {}. Add it first with `synodkv member add`",
            ids.join(", ")
        ))
    })
}

fn set_roles(wanted: &mut [WantedMember], ids: &[u8], role: MemberRole) -> Result<(), Failure> {
    ids.iter().try_for_each(|id| {
        find(wanted, *id)?.role = role;
        Ok(())
    })
}

/// Each votes as what its disk is good for: with data, or as a witness.
fn let_vote(wanted: &mut [WantedMember], ids: &[u8], present: &MembersView) -> Result<(), Failure> {
    ids.iter().try_for_each(|id| {
        let is_witness = present.get(*id).is_some_and(|member| member.is_witness);
        find(wanted, *id)?.role = if is_witness { MemberRole::Witness } else { MemberRole::Voter };
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u8, role: MemberRole) -> MemberView {
        MemberView {
            id,
            role,
            disk: None,
            present_disk: None,
            is_witness: false,
            peer: format!("p{id}:1"),
            thrift: format!("t{id}:1"),
            admin: format!("a{id}:1"),
            is_moving: false,
            reachable: true,
            lag: Some(0),
            ready: true,
        }
    }

    fn present() -> MembersView {
        let members = vec![member(0, MemberRole::Voter), member(1, MemberRole::Voter), member(2, MemberRole::Observer)];
        MembersView { epoch: 4, since: 9, changing: false, primary: Some(0), members }
    }

    fn after(plan: &Plan) -> Option<Vec<(u8, MemberRole)>> {
        let wanted = plan.apply(&present()).expect("a valid plan");
        wanted.map(|wanted| wanted.iter().map(|member| (member.id, member.role)).collect())
    }

    #[test]
    fn each_plan_changes_what_it_names_and_nothing_else() {
        use MemberRole::{Observer, Voter};
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
    fn addresses_that_are_not_recorded_yet_are_recorded() {
        let mut present = present();
        let plan = Plan::Move { id: 2, peer: Some("p2:1".to_string()), thrift: None, admin: None };
        present.members[2].is_moving = true;
        let wanted = plan.apply(&present).expect("a valid plan").expect("a change");
        assert_eq!(wanted[2].peer.as_deref(), Some("p2:1"));
    }

    #[test]
    fn a_new_member_is_an_observer_and_its_id_must_be_free() {
        let add = |id| Plan::Add { id, peer: "x:1".into(), thrift: "x:2".into(), admin: "x:3".into() };
        let wanted = add(3).apply(&present()).expect("free").expect("a change");
        assert_eq!((wanted[3].id, wanted[3].role, wanted[3].peer.as_deref()), (3, MemberRole::Observer, Some("x:1")));
        assert!(matches!(add(1).apply(&present()), Err(Failure::Failed(text)) if text.contains("a member already")));
    }

    #[test]
    fn a_stranger_is_named_in_the_error() {
        let refused = Plan::Promote(vec![6]).apply(&present()).expect_err("no member");
        assert!(refused.to_string().contains("replica 6 is no member: the members are 0, 1, 2"), "{refused}");
        assert!(matches!(Plan::Replace { id: 1, with: 1, keep: false }.apply(&present()), Err(Failure::Usage(_))));
    }
}
