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
        Case { yaml: "prot: 1\n", says: &["chappe.yaml", "prot", "line 1"] },
        Case { yaml: "bind: 1.2.3.4\nport: many\n", says: &["chappe.yaml", "line 2"] },
        Case { yaml: "rtc:\n  shards: 0\n", says: &["rtc.shards", "1 to 256"] },
        Case { yaml: "rtc:\n  advertise_ip: [0.0.0.0]\n", says: &["rtc.advertise_ip", "0.0.0.0"] },
        Case { yaml: "keys:\n  a: short\n", says: &["secret of a", "at least 32"] },
        Case { yaml: "dev: false\n", says: &["no API keys"] },
        Case { yaml: "admin: nowhere\n", says: &["admin", "IP:PORT"] },
    ];
    for Case { yaml, says } in cases {
        let error = checked(yaml, &RunArgs::default()).unwrap_err();
        for word in says {
            assert!(error.contains(word), "{yaml:?} says {error:?}, without {word:?}");
        }
    }
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
    assert!(check(&["https://a:7883"], Some("s")).unwrap_err().contains("--node-ca"));
    assert_eq!(check(&["http://a:7883"], Some("s")).unwrap().nodes.len(), 1);
}
