//! Builds the meeting page into the binary. Without a recent Node.js the server is built without it, and says so.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const MIN_NODE: (u32, u32) = (20, 19);

fn main() {
    // Asked when it runs: another checkout may share the target folder that this was compiled in.
    let web = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
        .join("../web");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("page");
    for watched in ["src", "public", "index.html", "package-lock.json", "vite.config.ts"] {
        println!("cargo:rerun-if-changed={}", web.join(watched).display());
    }
    // An empty folder is a server without page.
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).expect("OUT_DIR is writable");
    if let Err(reason) = build(&web, &out) {
        println!("cargo:warning=the meeting page is left out: {reason}");
    }
}

fn build(web: &Path, out: &Path) -> Result<(), String> {
    let version = run(Command::new("node").arg("--version"))
        .map_err(|_| "Node.js 20.19 or newer is not installed".to_owned())?;
    let mut parts = version.trim().trim_start_matches('v').split('.').map(str::parse::<u32>);
    let found = match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => return Err(format!("cannot read the version of Node.js: {version:?}")),
    };
    if found < MIN_NODE {
        return Err(format!("Node.js 20.19 or newer is needed, this is {}", version.trim()));
    }
    // Dependencies are installed once per lock file, beside the page's sources.
    let stamp = web.join("node_modules/.chappe-lock");
    let lock = fs::read(web.join("package-lock.json")).map_err(|error| error.to_string())?;
    if fs::read(&stamp).ok().as_ref() != Some(&lock) {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(web))?;
        fs::write(&stamp, &lock).map_err(|error| error.to_string())?;
    }
    run(Command::new("npx")
        .args(["vite", "build", "--logLevel", "error", "--outDir"])
        .arg(out)
        .current_dir(web))?;
    Ok(())
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
    Err(format!("{:?} failed: {last}", command.get_program()))
}
