//! Two more machines: network namespaces that a test makes, each at the end of a wire of its own. Where the system lets nobody
//! make any, they are other addresses of the loopback, and the test says so.

use std::{
    fs,
    io::Write,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
};

use crate::harness::{alone, until};

/// Set for the test that runs inside of its own namespaces.
const INSIDE: &str = "CHAPPE_TEST_INSIDE";

/// Where an agent runs. Dropped, the namespace goes.
pub(crate) struct Machine {
    pub(crate) address: Ipv4Addr,
    holder: Option<Child>,
}

impl Machine {
    pub(crate) fn this() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, holder: None }
    }

    /// A namespace with a wire to this one, whose end there is 10.77.`number`.2 and here 10.77.`number`.1.
    fn new(number: u8) -> Self {
        let holder = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let pid = holder.id().to_string();
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        until("a namespace", || namespace(&pid).is_some_and(|it| Some(it) != namespace("self")));
        let address = Ipv4Addr::new(10, 77, number, 2);
        let machine = Self { address, holder: Some(holder) };
        let (near, far) = (format!("near{number}"), format!("far{number}"));
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &pid]);
        ip(&["address", "add", &format!("10.77.{number}.1/24"), "dev", &near]);
        ip(&["link", "set", &near, "up"]);
        for arguments in [
            &["address", "add", &format!("{address}/24"), "dev", &far][..],
            &["link", "set", &far, "up"],
            &["link", "set", "lo", "up"],
            // To the server, whichever wire its address belongs to.
            &["route", "add", "default", "via", &format!("10.77.{number}.1")],
        ] {
            let mut command = Command::new("ip");
            command.args(arguments);
            assert!(machine.run(command).status().unwrap().success(), "{arguments:?}");
        }
        machine
    }

    /// The command, on this machine.
    pub(crate) fn run(&self, command: Command) -> Command {
        let Some(holder) = &self.holder else { return command };
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--target={}", holder.id())).args(["--net", "--"]);
        inside.arg(command.get_program()).args(command.get_args());
        inside.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        inside
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}

/// Why a command does not succeed.
fn permitted(mut trial: Command) -> Result<(), String> {
    let output = trial.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// The address of this machine, and two others. Nothing when `test` has run in namespaces of its own by now: it is called again
/// there, and finds them.
pub(crate) fn two_machines(test: &str) -> Option<(Ipv4Addr, [Machine; 2])> {
    if std::env::var_os(INSIDE).is_some() {
        ip(&["link", "set", "lo", "up"]);
        return Some((Ipv4Addr::new(10, 77, 1, 1), [Machine::new(1), Machine::new(2)]));
    }
    let unshare = ["--user", "--map-root-user", "--net"];
    let mut trial = Command::new("unshare");
    trial.args(unshare).args(["ip", "link"]);
    if let Err(reason) = permitted(trial) {
        // Not by a macro: the harness would keep to itself what a test that passes prints.
        let _ = writeln!(
            std::io::stderr(),
            "{test}: no network namespaces here ({reason}): the two machines are addresses of the loopback"
        );
        let at = |last| Machine { address: Ipv4Addr::new(127, 0, 0, last), holder: None };
        return Some((Ipv4Addr::LOCALHOST, [at(2), at(3)]));
    }
    let _machine = alone();
    let run = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("1 passed"), "{said}");
    None
}
