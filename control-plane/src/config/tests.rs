use super::*;

const KEY: &str = "keys:\n  devkey: 0123456789abcdef0123456789abcdef\n";

fn checked(yaml: &str, args: &RunArgs) -> Result<Config, String> {
    RawConfig::parse(yaml, "chappe.yaml")
        .and_then(|raw| raw.check(args, None))
        .map_err(|error| error.to_string())
}

#[test]
fn nothing_given_is_development_with_the_documented_ports() {
    let config = checked("", &RunArgs::default()).unwrap();
    assert!(config.dev && config.keys.is_empty() && config.rtc.include_loopback);
    assert_eq!(config.listen.port(), 7880);
    assert_eq!((config.rtc.udp_port, config.rtc.tcp_port), (7882, Some(7881)));
    assert_eq!(config.tls, Tls::Off);
    // With 1.3 Chromium ends on AES-CM, which costs four to five times as much a packet.
    assert_eq!(config.rtc.dtls, DtlsVersions::V12);
}

#[test]
fn keys_turn_development_off_and_flags_win() {
    let args = RunArgs { port: Some(9000), rtc_tcp_port: Some(0), ..RunArgs::default() };
    let config = checked(&format!("port: 8000\n{KEY}"), &args).unwrap();
    assert!(!config.dev && !config.rtc.include_loopback);
    assert_eq!(config.listen.port(), 9000);
    assert_eq!(config.rtc.tcp_port, None);
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    struct Case {
        yaml: &'static str,
        says: &'static [&'static str],
    }
    let cases = [
        Case { yaml: "prot: 1\n", says: &["prot", "line 1"] },
        Case { yaml: "bind: 1.2.3.4\nport: many\n", says: &["line 2"] },
        Case { yaml: "rtc:\n  shards: 0\n", says: &["line 2: rtc.shards", "1 to 64", "got 0"] },
        Case {
            yaml: "rtc:\n  advertise_ip:\n  - 192.0.2.1\n  - 0.0.0.0\n",
            says: &["line 4: rtc.advertise_ip", "0.0.0.0"],
        },
        Case {
            yaml: "rtc:\n  udp_port: 65535\n  shards: 2\n",
            says: &["line 2: rtc.udp_port", "65536"],
        },
        Case {
            yaml: "rtc:\n  stun_server: stun.example.org\n",
            says: &["line 2: rtc.stun_server", "HOST:PORT"],
        },
        Case {
            yaml: "keys:\n  b: 0123456789abcdef0123456789abcdef\n  a: short\n",
            says: &["line 3: keys.a", "secret of a", "at least 32"],
        },
        Case { yaml: "tls:\n  cert: a.pem\n", says: &["line 2: tls.cert", "private key"] },
        Case { yaml: "admin: nowhere\n", says: &["line 1: admin", "IP:PORT"] },
        Case { yaml: "log: {filter: 'a=b=c'}\n", says: &["line 1: log.filter"] },
    ];
    for Case { yaml, says } in cases {
        let error = checked(yaml, &RunArgs::default()).unwrap_err();
        assert!(error.contains("chappe.yaml"), "{yaml:?} says {error:?}");
        for word in says {
            assert!(error.contains(word), "{yaml:?} says {error:?}, without {word:?}");
        }
        assert!(!error.contains("short"), "{error}");
    }
    assert!(checked("dev: false\n", &RunArgs::default()).unwrap_err().contains("no API keys"));
}

#[test]
fn errors_of_flags_name_flag_and_variable() {
    struct Case {
        args: RunArgs,
        says: &'static [&'static str],
    }
    let cases = [
        Case {
            args: RunArgs { keys: vec!["a:short".into()], ..RunArgs::default() },
            says: &["--key", "CHAPPE_KEYS", "at least 32"],
        },
        Case {
            args: RunArgs { keys: vec!["nothing".into()], ..RunArgs::default() },
            says: &["--key", "CHAPPE_KEYS", "KEY:SECRET"],
        },
        Case {
            args: RunArgs { rtc_shards: Some(65), ..RunArgs::default() },
            says: &["--rtc-shards", "CHAPPE_RTC_SHARDS", "1 to 64"],
        },
        Case {
            args: RunArgs { rtc_stun_server: Some("x".into()), ..RunArgs::default() },
            says: &["--rtc-stun-server", "CHAPPE_RTC_STUN_SERVER", "HOST:PORT"],
        },
        Case {
            args: RunArgs {
                rtc_advertise_ips: vec![IpAddr::from([224, 0, 0, 1])],
                ..RunArgs::default()
            },
            says: &["--rtc-advertise-ip", "CHAPPE_RTC_ADVERTISE_IP", "224.0.0.1"],
        },
        Case {
            args: RunArgs { tls_key: Some("k.pem".into()), ..RunArgs::default() },
            says: &["--tls-key", "CHAPPE_TLS_KEY", "certificate"],
        },
        Case {
            args: RunArgs { admin: Some("x".into()), ..RunArgs::default() },
            says: &["--admin", "CHAPPE_ADMIN", "IP:PORT"],
        },
    ];
    for Case { args, says } in cases {
        // What the file says is right, and must not be blamed.
        let file = format!("{KEY}admin: 'off'\nrtc: {{shards: 2, stun_server: 'a:1'}}\n");
        let error = checked(&file, &args).unwrap_err();
        assert!(says.iter().all(|word| error.contains(word)), "{error}");
        assert!(!error.contains("line") && !error.contains("short"), "{error}");
    }
}

#[test]
fn every_key_has_a_flag_a_variable_and_a_group() {
    use clap::{CommandFactory, Parser};
    let command = Cli::command();
    let control = command.find_subcommand("control").unwrap();
    for argument in command.get_arguments().chain(control.get_arguments()) {
        let id = argument.get_id().as_str();
        if ["help", "version"].contains(&id) {
            continue;
        }
        assert!(argument.get_long().is_some() && argument.get_env().is_some(), "{id}");
        assert!(id == "config" || argument.get_help_heading().is_some(), "{id}");
    }
    let line = "chappe control --bind 127.0.0.1 --port 1 --admin off --dev false \
        --key a:0123456789abcdef0123456789abcdef --tls-cert c.pem --tls-key k.pem \
        --rtc-udp-port 2 --rtc-tcp-port 3 --rtc-shards 4 --rtc-placement round-robin \
        --rtc-advertise-ip 192.0.2.1,2001:db8::1 --rtc-stun-server a:5 \
        --rtc-include-interface eth0,eth1 --rtc-exclude-interface docker0 \
        --rtc-include-loopback --rtc-dtls auto --room-auto-create false --room-empty-timeout 6 \
        --room-departure-timeout 7 --room-max-participants 8 --room-suppress-silence --drain-timeout 9 --log warn --log-json \
        --node https://a:7883 --node https://b:7883 --node-secret s --node-ca d.pem \
        --node-cert e.pem --node-key f.pem";
    let cli = Cli::parse_from(line.split_whitespace());
    let Some(Command::Control(nodes)) = &cli.command else { panic!("not the control form") };
    let from_flags = RawConfig::default().check(&cli.run, Some(nodes)).unwrap();
    let file = "
        {bind: 127.0.0.1, port: 1, admin: 'off', dev: false, drain_timeout_seconds: 9,
         keys: {a: 0123456789abcdef0123456789abcdef}, tls: {cert: c.pem, key: k.pem},
         rtc: {udp_port: 2, tcp_port: 3, shards: 4, placement: round-robin, stun_server: 'a:5',
               advertise_ip: [192.0.2.1, '2001:db8::1'], include_interfaces: [eth0, eth1],
               exclude_interfaces: [docker0], include_loopback: true, dtls: auto},
         room: {auto_create: false, empty_timeout_seconds: 6, departure_timeout_seconds: 7,
                max_participants: 8, suppress_silence: true},
         node: {urls: ['https://a:7883', 'https://b:7883'], secret: s, ca: d.pem, cert: e.pem,
                key: f.pem},
         log: {filter: warn, json: true}}";
    let from_file = RawConfig::parse(file, "chappe.yaml")
        .and_then(|raw| raw.check(&RunArgs::default(), Some(&NodeArgs::default())))
        .unwrap();
    assert_eq!(format!("{from_flags:?}"), format!("{from_file:?}"));
}

#[test]
fn flags_of_the_server_and_its_commands_do_not_collide() {
    use clap::{CommandFactory, Parser};
    Cli::command().debug_assert();
    let cli =
        Cli::parse_from(["chappe", "token", "--room", "r", "--identity", "ada", "--room-admin"]);
    let Some(Command::Token(token)) = cli.command else { panic!("not a token command") };
    assert!(token.room_admin && cli.run.admin.is_none());
}

#[test]
fn secrets_do_not_show() {
    let config = checked(KEY, &RunArgs::default()).unwrap();
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

#[test]
fn the_control_form_needs_nodes_and_their_secret() {
    let check = |nodes: &[&str], secret: Option<&str>| {
        let nodes = NodeArgs {
            nodes: nodes.iter().map(ToString::to_string).collect(),
            node_secret: secret.map(ToOwned::to_owned),
            ..NodeArgs::default()
        };
        RawConfig::default().check(&RunArgs::default(), Some(&nodes)).map_err(|e| e.to_string())
    };
    assert!(check(&[], Some("s")).unwrap_err().contains("--node"));
    assert!(check(&["http://a:7883"], None).unwrap_err().contains("secret"));
    assert!(check(&["a:7883"], Some("s")).unwrap_err().contains("http://HOST:PORT"));
    assert!(check(&["http://"], Some("s")).unwrap_err().contains("--node (CHAPPE_NODES)"));
    assert!(check(&["https://a:7883"], Some("s")).unwrap_err().contains("--node-ca"));
    let file = "node:\n  secret: s\n  urls:\n  - http://a:7883\n  - b:7883\n";
    let wrong = RawConfig::parse(file, "chappe.yaml")
        .and_then(|raw| raw.check(&RunArgs::default(), Some(&NodeArgs::default())))
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("chappe.yaml, line 5: node.urls"), "{wrong}");
    assert_eq!(check(&["http://a:7883"], Some("s")).unwrap().nodes.len(), 1);
}

#[test]
fn a_secret_that_others_can_read_on_the_way_is_seen() {
    struct Case {
        url: &'static str,
        secret: Option<&'static str>,
        in_clear: bool,
    }
    let cases = [
        Case { url: "http://media-1:7883", secret: Some("s"), in_clear: true },
        Case { url: "http://192.0.2.1:7883", secret: Some("s"), in_clear: true },
        Case { url: "http://[2001:db8::1]:7883", secret: Some("s"), in_clear: true },
        Case { url: "http://localhost:7883", secret: Some("s"), in_clear: false },
        Case { url: "http://127.8.0.1:7883", secret: Some("s"), in_clear: false },
        Case { url: "http://[::1]:7883", secret: Some("s"), in_clear: false },
        Case { url: "http://media-1:7883", secret: None, in_clear: false },
        Case { url: "https://media-1:7883", secret: Some("s"), in_clear: false },
    ];
    for case in cases {
        let node =
            RemoteNode { url: case.url.into(), secret: case.secret.map(Secret::new), tls: None };
        assert_eq!(node.secret_in_clear(), case.in_clear, "{}", case.url);
    }
}
