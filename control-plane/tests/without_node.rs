//! A machine without a usable Node.js builds the server without its page, and is told so in one line.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The build script, compiled by itself: it uses the standard library alone.
fn build_script(folder: &Path) -> PathBuf {
    let script = folder.join("build-script");
    let compiled = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "-o"])
        .arg(&script)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs"))
        .status()
        .expect("rustc runs");
    assert!(compiled.success());
    script
}

/// Runs it as cargo does, with `path` as the only place where programs are found. Returns its warnings.
fn build(script: &Path, path: &Path, out: &Path) -> Vec<String> {
    fs::create_dir_all(out.join("page")).unwrap();
    fs::write(out.join("page/index.html"), "of an earlier build").unwrap();
    let output = Command::new(script)
        .env_clear()
        .env("PATH", path)
        .env("OUT_DIR", out)
        .env("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "the build goes on: {output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().filter_map(|line| line.strip_prefix("cargo:warning=")).map(str::to_owned).collect()
}

#[test]
fn no_or_old_node_leaves_the_page_out_and_says_so_in_one_line() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("without-node");
    let _ = fs::remove_dir_all(&folder);
    let programs = folder.join("bin");
    fs::create_dir_all(&programs).unwrap();
    let script = build_script(&folder);
    let out = folder.join("out");

    let warnings = build(&script, &programs, &out);
    assert_eq!(warnings, ["the meeting page is left out: Node.js 20.19 or newer is not installed"]);
    assert_eq!(fs::read_dir(out.join("page")).unwrap().count(), 0, "an empty folder: no page");

    let node = programs.join("node");
    fs::write(&node, "#!/bin/sh\necho v18.20.4\n").unwrap();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o755)).unwrap();
    let warnings = build(&script, &programs, &out);
    assert_eq!(
        warnings,
        ["the meeting page is left out: Node.js 20.19 or newer is needed, this is v18.20.4"]
    );
    assert_eq!(fs::read_dir(out.join("page")).unwrap().count(), 0, "an empty folder: no page");
}
