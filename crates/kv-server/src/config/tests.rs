use std::path::PathBuf;

use super::*;

struct Case {
    file: Option<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
    overrides: Overrides,
}

fn case(file: &'static str) -> Case {
    Case { file: Some(file), environment: Vec::new(), overrides: Overrides::default() }
}

fn no_file() -> Case {
    Case { file: None, environment: Vec::new(), overrides: Overrides::default() }
}

impl Case {
    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    fn flags(mut self, overrides: Overrides) -> Self {
        self.overrides = overrides;
        self
    }

    fn node_id(self, id: u32) -> Self {
        self.flags(Overrides { node_id: Some(id), ..Overrides::default() })
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = self.file.map(|text| {
            let path = folder.path().join("synodkv.toml");
            std::fs::write(&path, text).expect("a file in it");
            path
        });
        let pairs = self.environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Config::load(path.as_deref(), &Environment::from_pairs(pairs), &self.overrides)
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn fails_with(&self, parts: &[&str]) {
        let message = self.load().expect_err("an error").to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
        assert!(!message.contains('\n'), "one line: {message}");
    }
}

const THREE: &str = r#"
    [replication]
    replicas = [
        { id = 2, peer = "10.0.0.3:6000", thrift = "10.0.0.3:9090", admin = "10.0.0.3:9190" },
        { id = 0, peer = "10.0.0.1:6000", thrift = "10.0.0.1:9090", admin = "10.0.0.1:9190" },
        { id = 1, peer = "node-1:6000", thrift = "node-1:9090", admin = "node-1:9190" },
    ]
"#;

#[test]
fn without_anything_the_defaults_hold() {
    let config = no_file().config();
    assert_eq!(config.mode, Mode::Standalone);
    assert_eq!(config.server.thrift_addr.as_str(), "127.0.0.1:9090");
    assert_eq!(config.server.admin_addr.as_str(), "127.0.0.1:9190");
    assert_eq!(config.storage.data_dir, PathBuf::from("./data"));
    assert_eq!((config.server.request_timeout_ms, config.server.no_primary_wait_ms), (10_000, 5_000));
    assert_eq!(config.limits, Limits::default());
    assert!(!config.server.allow_fault_injection);
    assert_eq!(config.auth.max_staleness_ms, 5_000);
    assert_eq!(case("[auth]\nmax_staleness_ms = 250\n").config().auth.max_staleness_ms, 250);
}

#[test]
fn the_file_beats_the_default_the_environment_the_file_and_the_flag_the_environment() {
    let file = "[server]\nthrift_addr = \"127.0.0.1:1\"\n";
    assert_eq!(case(file).config().server.thrift_addr.port(), 1);
    let with_variable = || case(file).variable("SYNODKV_SERVER_THRIFT_ADDR", "127.0.0.1:2");
    assert_eq!(with_variable().config().server.thrift_addr.port(), 2);
    let flag = Overrides { thrift_addr: Some("127.0.0.1:3".to_string()), ..Overrides::default() };
    assert_eq!(with_variable().flags(flag).config().server.thrift_addr.port(), 3);
}

#[test]
fn any_key_can_come_from_the_environment() {
    let config = no_file()
        .variable("SYNODKV_MODE", "replicated")
        .variable("SYNODKV_LIMITS_MAX_KEY_BYTES", "77")
        .variable("SYNODKV_SERVER_ALLOW_FAULT_INJECTION", "true")
        .variable("SYNODKV_STORAGE_COLUMN_FAMILIES", "users, orders")
        .variable("SYNODKV_STORAGE_DATA_DIR", "12")
        .variable("SYNODKV_REPLICATION_HEARTBEAT_MS", "20")
        .variable("SYNODKV_LOG_LEVEL", "info,rsml=debug")
        .config();
    assert_eq!(config.mode, Mode::Replicated);
    assert_eq!(config.limits.max_key_bytes, 77);
    assert!(config.server.allow_fault_injection);
    assert_eq!(config.storage.column_families, ["users", "orders"]);
    assert_eq!(config.storage.data_dir, PathBuf::from("12"));
    assert_eq!(config.replication.heartbeat_ms, 20);
    assert_eq!(config.log.level, "info,rsml=debug");
}

#[test]
fn replicated_mode_true_means_three_replicas_in_this_process() {
    let config = no_file().variable("REPLICATED_MODE", "true").config();
    assert_eq!(config.mode, Mode::Replicated);
    assert_eq!(config.local_replica_ids(), [0, 1, 2]);
    let peers: Vec<&str> = config.replication.replicas.iter().map(|replica| replica.peer.as_str()).collect();
    assert_eq!(peers, ["127.0.0.1:6001", "127.0.0.1:6002", "127.0.0.1:6003"]);
    no_file().variable("REPLICATED_MODE", "perhaps").fails_with(&["REPLICATED_MODE", "perhaps", "true and false"]);
}

#[test]
fn thrift_port_changes_only_the_port_and_yields_to_the_full_address() {
    let file = "[server]\nthrift_addr = \"0.0.0.0:1\"\n";
    let config = case(file).variable("THRIFT_PORT", "7000").config();
    assert_eq!(config.server.thrift_addr.as_str(), "0.0.0.0:7000");
    let both = case(file).variable("THRIFT_PORT", "7000").variable("SYNODKV_SERVER_THRIFT_ADDR", "127.0.0.1:8");
    assert_eq!(both.config().server.thrift_addr.as_str(), "127.0.0.1:8");
    no_file().variable("THRIFT_PORT", "70000").fails_with(&["THRIFT_PORT", "70000", "65535"]);
}

#[test]
fn a_node_id_picks_one_replica_and_its_addresses() {
    let config = case(THREE).node_id(1).config();
    assert_eq!(config.mode, Mode::Replicated);
    assert_eq!(config.local_replica_ids(), [1]);
    assert_eq!(config.server.thrift_addr.as_str(), "node-1:9090");
    assert_eq!(config.server.admin_addr.as_str(), "node-1:9190");
    let ids: Vec<u32> = config.replication.replicas.iter().map(|replica| replica.id).collect();
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(config.replication.replica(2).unwrap().thrift.as_str(), "10.0.0.3:9090");
}

#[test]
fn a_list_of_processes_needs_a_node_id() {
    let refused = |case: Case| case.config().refuse_forgotten_node_id().expect_err("an error").to_string();
    for message in [refused(case(THREE)), refused(case(THREE).variable("SYNODKV_MODE", "replicated"))] {
        assert!(message.contains("--node-id") && message.contains("replication.node_id"), "{message}");
        assert!(message.contains("one of 0, 1, 2;"), "{message}");
    }
    let chosen = [
        case(THREE).node_id(1),
        case(THREE).variable("SYNODKV_REPLICATION_NODE_ID", "0"),
        case(THREE).variable("SYNODKV_MODE", "standalone"),
        no_file().variable("SYNODKV_MODE", "replicated"),
    ];
    for case in chosen {
        assert_eq!(case.config().refuse_forgotten_node_id(), Ok(()));
    }
}

#[test]
fn a_list_may_have_one_replica() {
    const ENTRY: &str = "[[replication.replicas]]\nid = 0\npeer = \"h:1\"\nthrift = \"h:2\"\nadmin = \"h:3\"\n";
    let config = case(ENTRY).node_id(0).config();
    assert_eq!((config.server.thrift_addr.port(), config.server.admin_addr.port()), (2, 3));
    assert_eq!(config.replication.local_ids(), [0]);
    let clash = "[[replication.replicas]]\nid = 0\npeer = \"h:1\"\nthrift = \"h:1\"\nadmin = \"h:3\"\n";
    case(clash).node_id(0).fails_with(&["thrift of id 0 = h:1", "taken by"]);
}

#[test]
fn a_list_without_addresses_of_its_own_means_all_replicas_in_this_process() {
    let entry = |id: u32, rest: &str| format!("[[replication.replicas]]\nid = {id}\npeer = \"a:{}\"\n{rest}", id + 1);
    let shared = "thrift = \"a:9090\"\nadmin = \"a:9190\"\n";
    for rest in ["", shared] {
        let text: &'static str = Box::leak((entry(0, rest) + &entry(1, rest)).into_boxed_str());
        let config = case(text).variable("SYNODKV_MODE", "replicated").config();
        assert_eq!(config.refuse_forgotten_node_id(), Ok(()));
        assert_eq!(config.local_replica_ids(), [0, 1]);
    }
}

#[test]
fn a_flag_beats_the_addresses_of_the_picked_replica() {
    let flags = Overrides { node_id: Some(1), thrift_addr: Some("0.0.0.0:9".to_string()), ..Overrides::default() };
    let config = case(THREE).flags(flags).config();
    assert_eq!(config.server.thrift_addr.as_str(), "0.0.0.0:9");
    assert_eq!(config.server.admin_addr.as_str(), "node-1:9190");
    // The other replicas still find it at the address in the list.
    assert_eq!(config.replication.replica(1).unwrap().thrift.as_str(), "node-1:9090");
}

#[test]
fn a_node_id_needs_a_list_that_has_it_and_replicated_mode() {
    no_file().node_id(1).fails_with(&["replication.node_id = 1", "flag --node-id", "[[replication.replicas]]"]);
    case(THREE).node_id(7).fails_with(&["replication.node_id = 7", "0, 1, 2"]);
    let flags = Overrides { node_id: Some(1), mode: Some("standalone".to_string()), ..Overrides::default() };
    case(THREE).flags(flags).fails_with(&["replication.node_id", "replicated", "flag --mode"]);
}

#[test]
fn an_unknown_key_is_named_with_those_that_exist() {
    case("[server]\nthrift_adr = \"x\"\n").fails_with(&["server.thrift_adr", "synodkv.toml", "`thrift_addr`"]);
    case("moed = \"standalone\"\n").fails_with(&["moed", "`mode`"]);
    let entry = "[[replication.replicas]]\nid = 0\npeer = \"a:1\"\nport = 3\n";
    case(entry).fails_with(&["`replication.replicas[0].port`", "in [[replication.replicas]]", "`peer`"]);
}

#[test]
fn variables_of_the_client_commands_are_left_alone() {
    let config =
        no_file().variable("SYNODKV_ADDR", "a:1,b:2").variable("SYNODKV_ADMIN", "a:1").variable("THRIFTY", "x");
    assert_eq!(config.config().warnings, Vec::<String>::new());
}

#[test]
fn variables_that_are_not_settings_are_ignored_with_one_warning() {
    let config = no_file().variable("SYNODKV_SEVER_THRIFT_ADDR", "1").variable("SYNODKV_HOME", "/x").config();
    assert_eq!(config.server, no_file().config().server);
    let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    for part in ["SYNODKV_HOME", "SYNODKV_SEVER_THRIFT_ADDR", "was SYNODKV_SERVER_THRIFT_ADDR meant?"] {
        assert!(warning.contains(part), "{warning}");
    }
}

#[test]
fn variables_that_kubernetes_injects_for_services_are_ignored() {
    let config = no_file()
        .variable("SYNODKV_PORT", "tcp://10.96.3.7:9090")
        .variable("SYNODKV_SERVICE_HOST", "10.96.3.7")
        .variable("SYNODKV_SERVICE_PORT", "9090")
        .variable("SYNODKV_SERVICE_PORT_THRIFT", "9090")
        .variable("SYNODKV_PORT_9090_TCP", "tcp://10.96.3.7:9090")
        .variable("SYNODKV_PORT_9090_TCP_PROTO", "tcp")
        .variable("SYNODKV_PORT_9090_TCP_PORT", "9090")
        .variable("SYNODKV_PORT_9090_TCP_ADDR", "10.96.3.7")
        .variable("SYNODKV_SERVER_PORT", "tcp://10.96.3.8:9090")
        .variable("SYNODKV_SERVER_SERVICE_HOST", "10.96.3.8")
        .variable("THRIFT_PORT", "tcp://10.96.3.9:9090")
        .config();
    assert_eq!(config, no_file().config());
}

#[test]
fn every_key_of_a_file_can_come_from_a_variable() {
    let keys = sources::known_keys();
    for key in ["mode", "server.max_connections", "storage.data_dir", "replication.node_id", "replication.tls.ca"] {
        assert!(keys.iter().any(|known| known == key), "{key} is not in {keys:?}");
    }
}

#[test]
fn a_bad_value_is_named_with_its_key_its_origin_and_what_is_allowed() {
    case("mode = \"cluster\"\n").fails_with(&["mode", "cluster", "synodkv.toml", "`standalone`", "`replicated`"]);
    case("[server]\nrequest_timeout_ms = \"soon\"\n").fails_with(&[
        "server.request_timeout_ms",
        "soon",
        "a whole number",
    ]);
    case("[server]\nrequest_timeout_ms = -1\n").fails_with(&["server.request_timeout_ms", "-1", "a whole number"]);
    case("[server]\nrequest_timeout_ms = 0\n").fails_with(&["server.request_timeout_ms = 0", "1 to", "synodkv.toml"]);
    no_file().variable("SYNODKV_SERVER_THRIFT_ADDR", "9090").fails_with(&[
        "server.thrift_addr",
        "9090",
        "SYNODKV_SERVER_THRIFT_ADDR",
    ]);
    no_file().flags(Overrides { thrift_addr: Some("localhost".to_string()), ..Overrides::default() }).fails_with(&[
        "server.thrift_addr",
        "`localhost`",
        "HOST:PORT",
        "flag --thrift-addr",
    ]);
    case("[server]\nthrift_addr = 9090\n").fails_with(&["server.thrift_addr = 9090", "synodkv.toml", "HOST:PORT"]);
    no_file().variable("SYNODKV_SERVER_ALLOW_FAULT_INJECTION", "maybe").fails_with(&["maybe", "true or false"]);
    no_file().variable("SYNODKV_LOG_LEVEL", "loud").fails_with(&["log.level = \"loud\"", "debug", "SYNODKV_LOG_LEVEL"]);
    case("[storage]\nreadable_window_ms = 999\n").fails_with(&["storage.readable_window_ms = 999", "1000 to 300000"]);
    case("[server]\nmax_pin_seconds = 59\n").fails_with(&["server.max_pin_seconds = 59", "60 to 604800"]);
    for bad in ["99", "3600001"] {
        let file = no_file().variable("SYNODKV_AUTH_MAX_STALENESS_MS", bad);
        file.fails_with(&[
            &format!("auth.max_staleness_ms = {bad}"),
            "100 to 3600000",
            "SYNODKV_AUTH_MAX_STALENESS_MS",
        ]);
    }
    case("[storage]\nengine = \"paper\"\n").fails_with(&["storage.engine", "paper", "`rocksdb`", "`memory`"]);
}

#[test]
fn rules_between_values_are_checked() {
    let timing = "[replication]\nelection_timeout_min_ms = 700\n";
    case(timing).fails_with(&["election_timeout_max_ms = 600", "greater than", "election_timeout_min_ms = 700"]);
    case("[replication]\nheartbeat_ms = 300\n").fails_with(&["election_timeout_min_ms = 300", "heartbeat_ms = 300"]);
    case("[replication]\nlease_ms = 300\n").fails_with(&[
        "lease_ms = 300",
        "less than",
        "election_timeout_min_ms = 300",
    ]);
    case("[replication]\nlease_ms = 50\n").fails_with(&["lease_ms = 50", "0 (no leases)", "heartbeat_ms = 50"]);
    case("[auth]\nmax_staleness_ms = 100\n[replication]\nheartbeat_ms = 51\n").fails_with(&[
        "max_staleness_ms = 100",
        "at least twice",
        "heartbeat_ms = 51",
    ]);
    case("[server]\nadmin_addr = \"127.0.0.1:9090\"\n").fails_with(&["server.admin_addr", "server.thrift_addr"]);
    case("[limits]\nmax_transaction_bytes = 20000000\n").fails_with(&["max_transaction_bytes", "max_message_bytes"]);
    case("[storage]\ncolumn_families = [\"default\"]\n").fails_with(&["column_families", "default", "always there"]);
    case("[storage]\ncolumn_families = [\"a\", \"a\"]\n").fails_with(&["column_families", "\"a\"", "twice"]);
    case("[storage]\ncolumn_families = [\"a b\"]\n").fails_with(&["column_families", "\"a b\"", "letters"]);
}

#[test]
fn limits_are_checked_against_each_other_and_defaults_give_way() {
    case("[limits]\nmax_value_bytes = 20000000\n").fails_with(&[
        "limits.max_value_bytes = 20000000",
        "limits.max_transaction_bytes = 10000000",
        "1 to 9990000",
    ]);
    let reply = "[limits]\nmax_value_bytes = 5000000\nmax_reply_bytes = 1000000\n";
    case(reply).fails_with(&["limits.max_value_bytes", "limits.max_reply_bytes = 1000000"]);
    case("[limits]\nmax_value_bytes = 5000000\n[server]\nmax_framed_reply_bytes = 1000000\n")
        .fails_with(&["limits.max_value_bytes", "server.max_framed_reply_bytes = 1000000"]);
    // The default is not an explicit setting.
    let small = case("[limits]\nmax_transaction_bytes = 50000\n").config().limits;
    assert_eq!((small.max_transaction_bytes, small.max_value_bytes, small.max_key_bytes), (50_000, 40_000, 10_000));
    let message = case("[server]\nmax_message_bytes = 1000000\n").config().limits;
    assert!(message.max_transaction_bytes < 1_000_000, "{message:?}");
}

#[test]
fn no_two_listeners_share_an_address() {
    let three = |change: &dyn Fn(&str) -> String| -> Case {
        let text: &'static str = Box::leak(change(THREE).into_boxed_str());
        case(text).node_id(1)
    };
    three(&|text| text.replace("10.0.0.3:9090", "10.0.0.1:9090"))
        .fails_with(&["thrift of id 2 = 10.0.0.1:9090", "taken by replication.replicas[].thrift of id 0"]);
    three(&|text| text.replace("node-1:9190", "node-1:6000"))
        .fails_with(&["admin of id 1 = node-1:6000", "peer of id 1"]);
    for (found, name) in [("node-1:6000", "peer"), ("10.0.0.1:9090", "thrift"), ("10.0.0.3:9190", "admin")] {
        let (_, port) = found.split_once(':').expect("an address");
        three(&|text| text.replace(found, &format!("0.0.0.0:{port}"))).fails_with(&[name, "0.0.0.0", "cannot connect"]);
    }
    // The setting for listening on all interfaces stands outside the list.
    let listen = Overrides { node_id: Some(1), thrift_addr: Some("0.0.0.0:9090".into()), ..Overrides::default() };
    let config = case(THREE).flags(listen).variable("SYNODKV_REPLICATION_LISTEN_ADDR", "0.0.0.0:7000").config();
    let replica = config.replication.replica(1).expect("it is listed");
    assert_eq!(
        (replica.peer.as_str(), config.replication.listens_at(replica).as_str()),
        ("node-1:6000", "0.0.0.0:7000")
    );
    let all =
        no_file().variable("SYNODKV_MODE", "replicated").variable("SYNODKV_REPLICATION_LISTEN_ADDR", "0.0.0.0:7000");
    all.fails_with(&["replication.listen_addr", "one replica per process"]);
    // All replicas in one process.
    no_file()
        .variable("SYNODKV_MODE", "replicated")
        .variable("THRIFT_PORT", "6002")
        .fails_with(&["server.thrift_addr"]);
}

#[test]
fn a_replica_list_is_checked() {
    let entry = |id: u32, peer: &str| format!("[[replication.replicas]]\nid = {id}\npeer = \"{peer}\"\n");
    let load = |entries: &[String]| {
        let text: &'static str = Box::leak(entries.concat().into_boxed_str());
        case(text).variable("SYNODKV_MODE", "replicated")
    };
    assert_eq!(load(&[entry(0, "a:1")]).config().local_replica_ids(), [0]);
    load(&[entry(0, "a:1"), entry(0, "a:2")]).fails_with(&["replicas[1].id = 0", "unique"]);
    load(&[entry(1, "a:1"), entry(2, "a:2")]).fails_with(&["replicas[1].id = 2", "0 to 1"]);
    load(&[entry(0, "a:1"), entry(1, "a:1")]).fails_with(&["replicas[1].peer = a:1", "same peer"]);
    let eight: Vec<String> = (0..8).map(|id| entry(id, &format!("a:{id}"))).collect();
    load(&eight).fails_with(&["8 entries", "1 to 7"]);
    load(&[entry(0, "a:1"), entry(1, "a:2")]).node_id(0).fails_with(&["replicas[0].thrift", "missing"]);
    load(&[entry(0, "a")]).fails_with(&["replication.replicas[0].peer", "`a`", "HOST:PORT"]);
}

#[test]
fn a_file_that_cannot_be_read_or_understood_is_named() {
    let missing =
        Config::load(Some(std::path::Path::new("no/such.toml")), &Environment::empty(), &Overrides::default());
    assert!(missing.unwrap_err().to_string().contains("no/such.toml"));
    let broken = case("[server\n").load().unwrap_err().to_string();
    assert!(broken.contains("synodkv.toml"), "{broken}");
    assert!(broken.contains("at line 1, column 8: ") && !broken.contains(['\n', '|']), "{broken}");
}

#[test]
fn an_invalid_list_or_first_port_is_refused_with_what_is_allowed() {
    case("[storage]\ncolumn_families = \"a\"\n")
        .fails_with(&["storage.column_families = \"a\"", "a list, in brackets"]);
    case("[replication]\nfirst_peer_addr = \"127.0.0.1:65534\"\n").fails_with(&["65533 or less", "synodkv.toml"]);
}

#[test]
fn addresses_are_checked_for_form() {
    for good in ["127.0.0.1:0", "localhost:9090", "node-1.example:65535", "[::1]:80"] {
        assert!(good.parse::<Address>().is_ok(), "{good}");
    }
    for bad in ["", "9090", "localhost", ":1", "a:", "a:70000", "a:+1", "a b:1", "127.0.0:1", "[::1:80", "[x]:1"] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}

const TLS: &str = "[replication.tls]\nca = \"ca.pem\"\ncertificate = \"replica.pem\"\nkey = \"replica.key\"\n";

#[test]
fn replicas_have_tls_when_there_is_a_section_for_it() {
    assert_eq!(no_file().config().replication.tls, None);
    let tls = case(TLS).config().replication.tls.expect("TLS");
    assert_eq!((tls.ca, tls.certificate), (PathBuf::from("ca.pem"), PathBuf::from("replica.pem")));
    assert!(tls.names.is_empty());
    let tls = case(TLS).variable("SYNODKV_REPLICATION_TLS_KEY", "7").config().replication.tls.expect("TLS");
    assert_eq!(tls.key, PathBuf::from("7"));
}

#[test]
fn tls_that_is_not_complete_is_refused() {
    case("[replication.tls]\nca = \"ca.pem\"\nkey = \"replica.key\"\n").fails_with(&[
        "`replication.tls.certificate` is missing",
        "synodkv.toml",
        "ca, certificate and key",
    ]);
    no_file()
        .variable("SYNODKV_REPLICATION_TLS_CA", "x")
        .fails_with(&["`replication.tls.certificate` is missing", "SYNODKV_REPLICATION_TLS_CA"]);
    case(TLS).variable("SYNODKV_REPLICATION_TLS_KEY", "").fails_with(&["replication.tls.key = \"\""]);
    case("[replication.tls]\ncert = \"x\"\n").fails_with(&["unknown key `replication.tls.cert`", "`certificate`"]);
}

#[test]
fn names_in_certificates_are_checked() {
    let with = |name: &str| {
        let text = format!(
            "{TLS}[[replication.replicas]]\nid = 0\npeer = \"a:1\"\n\
             [[replication.replicas]]\nid = 1\npeer = \"b:1\"\ntls_name = \"{name}\"\n"
        );
        case(text.leak())
    };
    let tls = with("b.example").config().replication.tls.expect("TLS");
    assert_eq!(tls.names, [(1, "b.example".to_string())].into());
    for name in ["", "a b", "10.0.0.1", ".b", "*.example"] {
        with(name).fails_with(&["replication.replicas[1].tls_name", "DNS name"]);
    }
    with("Replica-0").fails_with(&["replication.replicas[1].tls_name", "cannot have the same name"]);
}

#[test]
fn the_log_can_be_a_file_of_json() {
    let config = case("[log]\nfile = \"/var/log/synodkv.log\"\nformat = \"json\"\n").config();
    assert_eq!((config.log.file, config.log.format), (Some(PathBuf::from("/var/log/synodkv.log")), LogFormat::Json));
    let config = no_file().variable("SYNODKV_LOG_FILE", "17").variable("SYNODKV_LOG_FORMAT", "json").config();
    assert_eq!((config.log.file, config.log.format), (Some(PathBuf::from("17")), LogFormat::Json));
    let flags = Overrides { log_file: Some("a".into()), log_format: Some("text".to_string()), ..Overrides::default() };
    let config =
        no_file().variable("SYNODKV_LOG_FILE", "b").variable("SYNODKV_LOG_FORMAT", "json").flags(flags).config();
    assert_eq!((config.log.file, config.log.format), (Some(PathBuf::from("a")), LogFormat::Text));
    no_file().variable("SYNODKV_LOG_FORMAT", "xml").fails_with(&["log.format", "xml", "`text`, `json`"]);
    no_file().variable("SYNODKV_LOG_FILE", "").fails_with(&["log.file", "a path is needed"]);
}

#[test]
fn two_configurations_differ_in_keys_that_a_file_may_hold() {
    let before = case(THREE).node_id(1).config();
    assert_eq!(before.differing_keys(&before), [] as [&str; 0]);
    let mut after = before.clone();
    after.log.level = "debug".to_string();
    after.server.max_connections = 7;
    after.replication.replicas[0].thrift = "10.0.0.9:9090".parse().expect("an address");
    after.replication.lacks_node_id = true;
    assert_eq!(before.differing_keys(&after), ["log.level", "replication.replicas", "server.max_connections"]);
}

#[test]
fn an_added_section_is_a_difference() {
    let before = no_file().config();
    let mut after = before.clone();
    let names = [(1, "one".to_string())].into();
    after.replication.tls =
        Some(PeerTlsConfig { ca: "a".into(), certificate: "b".into(), key: "c".into(), crl: None, names });
    assert_eq!(before.differing_keys(&after), ["replication.tls"]);
    let mut renamed = after.clone();
    renamed.replication.tls.as_mut().expect("given").names.insert(2, "two".to_string());
    assert_eq!(after.differing_keys(&renamed), ["replication.replicas"]);
}
