//! Tests of members that are reached at other addresses than before.

use serde_json::Value;

use crate::harness::{Cluster, Server, assert_exit, run, text};
use crate::load::{Load, client_of};
use crate::members::of_one;
use crate::ports::free_address;
use crate::waiting::eventually;

/// The settings under which a replica is reached.
const NAMES: [&str; 3] = ["peer", "thrift", "admin"];

impl Server {
    /// The addresses of replica `id` in the configuration file of this server.
    fn written(&self, id: usize) -> [String; 3] {
        let file = std::fs::read_to_string(&self.config).expect("a configuration");
        let begin = file.find(&format!("[[replication.replicas]]\nid = {id}\n")).expect("its entry");
        NAMES.map(|name| {
            let after = file[begin..].split(&format!("{name} = \"")).nth(1).expect("an address");
            after.split('"').next().expect("a string").to_string()
        })
    }

    fn replace_in_file(&self, old: &[String], new: &[String]) {
        let mut file = std::fs::read_to_string(&self.config).expect("a configuration");
        for (old, new) in old.iter().zip(new) {
            file = file.replace(old, new);
        }
        std::fs::write(&self.config, file).expect("a configuration");
    }

    /// Gives this server, which is replica `id` and does not run, new addresses in its own file.
    pub fn take_new_addresses(&mut self, id: usize) {
        let old = self.written(id);
        let new = old.clone().map(|_| free_address());
        self.replace_in_file(&old, &new);
        assert_eq!(self.written(id), new);
        let [_, thrift, admin] = new;
        *self = Server::with_config(&self.config.clone(), &thrift, &admin, &self.data_dir.clone());
    }

    /// Waits until this server shows the addresses at which replica `id`, another server, is now, as
    /// those that the cluster has recorded.
    pub async fn knows_where_it_is(&self, other: &Server, id: usize) {
        let expected = other.written(id);
        eventually(&format!("{} knows where replica {id} is", self.config.display()), async || {
            let status = self.status().await?;
            let shown = self.cli(&["member", "list", "--format", "json"]);
            let members: Value = serde_json::from_slice(&shown.stdout).map_err(|_| text(&shown.stderr))?;
            let of =
                |list: &Value| list.as_array().and_then(|all| all.iter().find(|member| member["id"] == id)).cloned();
            let member = of(&members["members"]).ok_or("it lists no such member")?;
            let replica = of(&status["replicas"]).ok_or("its status has no such replica")?;
            let is_there = |shown: &Value| (0..3).all(|name| shown[NAMES[name]] == expected[name]);
            match is_there(&member) && is_there(&replica) && member["is_moving"] == false {
                true => Ok(()),
                false => Err(format!("{expected:?} is expected: {member}, {replica}")),
            }
        })
        .await;
    }
}

/// Three voters, whose addresses the cluster itself knows.
async fn of_three() -> Cluster {
    let mut cluster = of_one().await;
    cluster.join(1).await;
    cluster.join(2).await;
    assert_exit(&cluster.cli(&["member", "promote", "1", "2"]), 0);
    cluster.voters_are(&[0, 1, 2]).await;
    cluster
}

impl Cluster {
    /// Waits until each of three servers shows where each of them is now.
    async fn all_know_each_other(&self) {
        for server in &self.servers {
            for (id, other) in self.servers.iter().enumerate() {
                server.knows_where_it_is(other, id).await;
            }
        }
    }

    /// No file names an address at which another server is now.
    fn assert_files_are_outdated(&self) {
        for (id, other) in self.servers.iter().enumerate() {
            for address in other.written(id) {
                let naming = self.servers.iter().filter(|server| {
                    std::fs::read_to_string(&server.config).expect("a configuration").contains(&address)
                });
                assert_eq!(naming.count(), 1, "{address} stands in the file of replica {id} alone");
            }
        }
    }
}

#[test]
fn all_members_move_one_by_one_under_load_and_find_each_other_with_files_that_name_old_addresses() {
    run(async {
        let mut cluster = of_three().await;
        // The writers are given the one address that lasts longest.
        let load = Load::start(&cluster.servers[2]).await;
        load.goes_on().await;
        for id in 0..3 {
            assert!(cluster.servers[id].stop().await.success());
            load.goes_on().await;
            cluster.servers[id].take_new_addresses(id);
            cluster.restart(id).await;
            cluster.voters_are(&[0, 1, 2]).await;
            cluster.all_know_each_other().await;
            load.goes_on().await;
            // A client that is given the old address of a member that has not moved yet.
            if let Some(server) = cluster.servers.get(id + 1) {
                let other = Load::start(server).await;
                other.goes_on().await;
                other.end(&client_of(&cluster.servers[id]).await).await;
            }
        }
        cluster.assert_files_are_outdated();
        // All of them start again.
        for server in &mut cluster.servers {
            server.kill().await;
        }
        for id in 0..3 {
            cluster.restart(id).await;
        }
        cluster.voters_are(&[0, 1, 2]).await;
        cluster.all_know_each_other().await;
        load.goes_on().await;
        // One of them knows nothing but what its file says: it finds nobody, and says where it looks.
        let outdated = cluster.servers[1].written(0);
        cluster.servers[1].kill().await;
        std::fs::remove_dir_all(&cluster.servers[1].data_dir).expect("its data");
        cluster.restart(1).await;
        eventually("the empty replica names the address at which nobody is", async || {
            let problems = cluster.servers[1].status().await?["problems"].to_string();
            if problems.contains(&outdated[0]) { Ok(()) } else { Err(problems) }
        })
        .await;
        load.goes_on().await;
        // The present address of one other member is enough.
        assert!(cluster.servers[1].stop().await.success());
        let present = cluster.servers[0].written(0);
        cluster.servers[1].replace_in_file(&outdated, &present);
        cluster.restart(1).await;
        cluster.voters_are(&[0, 1, 2]).await;
        cluster.all_know_each_other().await;
        load.goes_on().await;
        load.end(&client_of(&cluster.servers[1]).await).await;
    });
}
