//! Tests of the messages to the service manager: their order, and the watchdog.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::harness::{Cluster, Server, Setup, run, signal};
use crate::waiting::PATIENCE;

/// The service manager's side.
struct Manager {
    socket: UnixDatagram,
    /// Everything received.
    seen: Vec<String>,
}

impl Manager {
    fn of(socket: UnixDatagram) -> Manager {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Manager { socket, seen: Vec::new() }
    }

    /// Receives until a line meets the condition; returns that line.
    fn until(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length =
                self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}: {:?}", self.seen));
            let message = String::from_utf8(buffer[..length].to_vec()).expect("text");
            let lines: Vec<String> = message.lines().map(str::to_string).collect();
            self.seen.extend(lines.iter().cloned());
            if let Some(line) = lines.into_iter().find(|line| is_it(line)) {
                return line;
            }
        }
    }

    fn first(&self, line: &str) -> usize {
        self.seen.iter().position(|seen| seen.starts_with(line)).unwrap_or_else(|| panic!("no {line}: {:?}", self.seen))
    }
}

#[test]
fn the_service_manager_learns_of_the_start_the_readiness_and_the_end_in_this_order() {
    run(async {
        let mut server = Server::not_started(Setup::default());
        let path = server.config.with_extension("notify");
        let mut manager = Manager::of(UnixDatagram::bind(&path).expect("a socket"));
        let socket = path.display().to_string();
        server.surround(|setup| setup.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000"));
        server.start();
        manager.until("it is ready", |line| line == "READY=1");
        // From then on clients can connect.
        assert_eq!(server.get("/health/live").await.expect("an answer").0, 200);
        manager.until("its mode", |line| line == "STATUS=standalone");
        for _ in 0..5 {
            manager.until("the watchdog is fed", |line| line == "WATCHDOG=1");
        }
        assert!(server.stop().await.success());
        manager.until("it stops", |line| line == "STOPPING=1");
        let order = ["STATUS=starting", "READY=1", "STATUS=standalone", "STOPPING=1"].map(|line| manager.first(line));
        assert!(order.is_sorted(), "{:?}", manager.seen);
        assert!(manager.first("EXTEND_TIMEOUT_USEC=") < manager.first("READY=1"), "{:?}", manager.seen);
    });
}

#[test]
fn the_status_of_a_replica_follows_its_role() {
    run(async {
        let mut cluster = Cluster::not_started(Setup::toml("[server]\nno_primary_wait_ms = 300\n"));
        let name = format!("synodkv-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let mut manager = Manager::of(UnixDatagram::bind_addr(&address).expect("a socket"));
        let socket = format!("@{name}");
        cluster.servers[0].surround(|setup| setup.env("NOTIFY_SOCKET", &socket));
        cluster.servers[0].start();
        manager
            .until("it waits for the others", |line| line.starts_with("STATUS=replica 0 waits for the other replicas"));
        cluster.servers[1].start();
        cluster.servers[2].start();
        cluster.ready().await;
        manager
            .until("all are there", |line| line.contains(" in view ") && line.ends_with("3 of 3 replicas reachable"));
        // Without a majority it is neither restarted nor stopped: only its status changes.
        cluster.servers[1].kill().await;
        cluster.servers[2].kill().await;
        manager.until("it is alone", |line| line.contains("no primary, 1 of 3 replicas reachable"));
        assert!(manager.seen.iter().all(|line| line != "WATCHDOG=1"), "nobody asked for it: {:?}", manager.seen);
    });
}

#[test]
fn a_watchdog_of_another_process_is_not_fed_and_a_socket_that_is_gone_stops_nothing() {
    run(async {
        let mut server = Server::not_started(Setup::default());
        let path = server.config.with_extension("notify");
        let mut manager = Manager::of(UnixDatagram::bind(&path).expect("a socket"));
        let socket = path.display().to_string();
        server.surround(|setup| {
            setup.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "30000").env("WATCHDOG_PID", "1")
        });
        server.start();
        manager.until("its mode", |line| line == "STATUS=standalone");
        assert!(manager.seen.iter().all(|line| line != "WATCHDOG=1"), "{:?}", manager.seen);
        drop(manager);
        std::fs::remove_file(&path).expect("a socket");
        signal(server.id(), "HUP");
        server.live().await;
        assert!(server.stop().await.success());
        server.start();
        server.live().await;
        assert!(server.log_text().contains("cannot reach the service manager"), "{}", server.log_text());
        assert!(server.stop().await.success());
    });
}
