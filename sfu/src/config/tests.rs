use clap::{CommandFactory, Parser};

use super::*;

const SECRET: &str = "0123456789abcdef";

fn with_secret() -> Args {
    Args { secret: Some(SECRET.into()), ..Args::default() }
}

fn checked(yaml: &str, args: Args) -> Result<Config, ConfigError> {
    RawConfig::parse(yaml, "node.yaml").and_then(|raw| raw.check(args))
}

#[test]
fn defaults_need_only_a_secret() {
    let config = RawConfig::default().check(with_secret()).unwrap();
    assert_eq!((config.node.udp_port, config.node.tcp_port), (7_882, Some(7_881)));
    assert_eq!(config.api.listen.port(), 7_883);
    // With 1.3 Chromium ends on AES-CM, which costs four to five times as much a packet.
    assert_eq!(config.node.dtls, DtlsVersions::V12);
    assert_eq!(NodeConfig::default().dtls, DtlsVersions::V12);
    assert!(config.node.shards >= 1);
    let refused = RawConfig::default().check(Args::default()).unwrap_err().to_string();
    assert!(refused.contains("--secret"), "{refused}");
}

#[test]
fn flags_win_over_the_file() {
    let file = "rtc:\n  udp_port: 5000\n  shards: 3\n  placement: round-robin\n  dtls: auto\n";
    let args = Args { udp_port: Some(6_000), tcp_port: Some(0), ..with_secret() };
    let node = checked(file, args).unwrap().node;
    assert_eq!((node.udp_port, node.shards, node.tcp_port), (6_000, 3, None));
    assert_eq!((node.placement, node.dtls), (Placement::RoundRobin, DtlsVersions::Auto));
}

#[test]
fn wrong_values_name_file_line_key_and_what_was_expected() {
    struct Case {
        yaml: &'static str,
        says: &'static [&'static str],
    }
    let cases = [
        Case { yaml: "rtc:\n  shards: 0\n", says: &["line 2: rtc.shards", "1 to 64", "got 0"] },
        Case { yaml: "rtc:\n  shardz: 1\n", says: &["shardz", "line 2"] },
        Case {
            yaml: "rtc:\n  udp_port: 65535\n  shards: 2\n",
            says: &["line 2: rtc.udp_port", "65536"],
        },
        Case { yaml: "rtc:\n  udp_port: high\n", says: &["line 2"] },
        Case {
            yaml: "rtc:\n  advertise_ip:\n  - 192.0.2.1\n  - 0.0.0.0\n",
            says: &["line 4: rtc.advertise_ip", "reach", "0.0.0.0"],
        },
        Case {
            yaml: "rtc:\n  stun_server: stun.example.org\n",
            says: &["line 2: rtc.stun_server", "HOST:PORT"],
        },
        Case { yaml: "node:\n  tls_cert: a.pem\n", says: &["line 2: node.tls_cert", "together"] },
        Case {
            yaml: "rtc:\n  max_peers_per_shard: 0\n",
            says: &["line 2: rtc.max_peers_per_shard", "1 or more"],
        },
        Case { yaml: "admin:\n  listen: here\n", says: &["line 2: admin.listen", "IP:PORT"] },
        Case { yaml: "log: {filter: 'a=b=c'}\n", says: &["line 1: log.filter"] },
    ];
    for case in cases {
        let said = checked(case.yaml, with_secret()).unwrap_err().to_string();
        assert!(said.contains("node.yaml"), "{:?}: {said}", case.yaml);
        assert!(case.says.iter().all(|text| said.contains(text)), "{:?}: {said}", case.yaml);
    }
    let said = checked("\nnode:\n  secret: short\n", Args::default()).unwrap_err().to_string();
    assert!(said.contains("line 3: node.secret") && said.contains("16"), "{said}");
    assert!(!said.contains("short"), "{said}");
}

#[test]
fn wrong_values_of_flags_name_flag_and_variable() {
    struct Case {
        args: Args,
        says: &'static [&'static str],
    }
    let cases = [
        Case {
            args: Args { secret: Some("short".into()), ..Args::default() },
            says: &["--secret", "CHAPPE_NODE_SECRET", "16"],
        },
        Case {
            args: Args { shards: Some(65), ..with_secret() },
            says: &["--shards", "CHAPPE_RTC_SHARDS", "1 to 64"],
        },
        Case {
            args: Args { stun_server: Some("host:0".into()), ..with_secret() },
            says: &["--stun-server", "CHAPPE_RTC_STUN_SERVER", "HOST:PORT"],
        },
        Case {
            args: Args { admin: Some("here".into()), ..with_secret() },
            says: &["--admin", "CHAPPE_ADMIN_LISTEN", "IP:PORT"],
        },
        Case {
            args: Args { tls_client_ca: Some("ca.pem".into()), ..with_secret() },
            says: &["--tls-client-ca", "CHAPPE_NODE_TLS_CLIENT_CA"],
        },
    ];
    for case in cases {
        // The file has the same keys, right: what the flag says is wrong.
        let file = "rtc: {shards: 2, stun_server: 'a:1'}\nadmin: {listen: '127.0.0.1:1'}\n";
        let said = checked(file, case.args).unwrap_err().to_string();
        assert!(case.says.iter().all(|text| said.contains(text)), "{said}");
        assert!(!said.contains("line"), "{said}");
    }
}

#[test]
fn every_key_has_a_flag_a_variable_and_a_group() {
    for argument in Args::command().get_arguments() {
        let id = argument.get_id().as_str();
        if ["help", "version"].contains(&id) {
            continue;
        }
        assert!(argument.get_long().is_some() && argument.get_env().is_some(), "{id}");
        assert!(id == "config" || argument.get_help_heading().is_some(), "{id}");
    }
    let line = [
        "chappe-sfu",
        "--secret",
        SECRET,
        "--shards",
        "3",
        "--pin-threads",
        "false",
        "--udp-port",
        "1000",
        "--tcp-port",
        "1001",
        "--ipv6",
        "false",
        "--receive-buffer",
        "5",
        "--send-buffer",
        "6",
        "--dtls",
        "1.3",
        "--placement",
        "round-robin",
        "--max-peers-per-shard",
        "7",
        "--advertise-ip",
        "192.0.2.1",
        "--stun-server",
        "[2001:db8::1]:3478",
        "--include-interface",
        "eth0,eth1",
        "--exclude-interface",
        "docker0",
        "--include-loopback",
        "--listen",
        "127.0.0.1:1002",
        "--admin",
        "off",
        "--log",
        "warn",
    ];
    let from_flags = Args::parse_from(line).load().unwrap();
    let file = "
        rtc: {shards: 3, pin_threads: false, udp_port: 1000, tcp_port: 1001, ipv6: false, dtls: '1.3',
              receive_buffer_bytes: 5, send_buffer_bytes: 6, placement: round-robin, max_peers_per_shard: 7,
              advertise_ip: [192.0.2.1], stun_server: '[2001:db8::1]:3478', include_interfaces: [eth0, eth1],
              exclude_interfaces: [docker0], include_loopback: true}
        node: {listen: '127.0.0.1:1002', secret: 0123456789abcdef}
        admin: {disabled: true}
        log: {filter: warn}";
    assert_eq!(from_flags, checked(file, Args::default()).unwrap());
}

#[test]
fn mutual_tls_does_without_a_secret() {
    let file = "node: { tls_cert: a.pem, tls_key: b.pem, tls_client_ca: c.pem }\n";
    let api = checked(file, Args::default()).unwrap().api;
    assert!(api.secret.is_none() && api.tls.is_some_and(|tls| tls.client_ca.is_some()));
    let file = "node: { tls_cert: a.pem, tls_key: b.pem }\n";
    assert!(checked(file, Args::default()).is_err());
}

#[test]
fn a_secret_that_others_can_read_on_the_way_is_seen() {
    struct Case {
        yaml: &'static str,
        in_clear: bool,
    }
    let tls = "tls_cert: a.pem, tls_key: b.pem";
    let cases = [
        Case { yaml: "", in_clear: true },
        Case { yaml: "listen: '192.0.2.1:7883'", in_clear: true },
        Case { yaml: "listen: '127.0.0.1:7883'", in_clear: false },
        Case { yaml: "listen: '[::1]:7883'", in_clear: false },
        Case { yaml: tls, in_clear: false },
    ];
    for case in cases {
        let config = checked(&format!("node: {{{}}}", case.yaml), with_secret()).unwrap();
        assert_eq!(config.api.secret_in_clear(), case.in_clear, "{}", case.yaml);
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = RawConfig::default().check(with_secret()).unwrap();
    assert!(!format!("{config:?}").contains(SECRET));
    let raw = RawConfig::parse(&format!("node: {{secret: {SECRET}}}"), "node.yaml").unwrap();
    assert!(!format!("{raw:?}").contains(SECRET));
}

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
    let args =
        Args::try_parse_from(["chappe-sfu", "--advertise-ip", "192.0.2.1,2001:db8::1"]).unwrap();
    assert_eq!(args.advertise_ips.len(), 2);
}
