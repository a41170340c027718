//! Fails on an import against the order of the design: sfu/src/lib.rs and ARCHITECTURE.md draw the arrows.

#[path = "layering/imports.rs"]
mod imports;

use std::{
    fs,
    path::{Path, PathBuf},
};

use imports::imports;

/// Which way the modules of a crate may look.
struct Layers {
    /// Name of the library, as its binary imports it.
    library: &'static str,
    /// From left to right. A module may import what stands in a list further right, never a sibling.
    order: &'static [&'static [&'static str]],
    /// Everybody may import these; they themselves look only at `leaves_see`.
    leaves: &'static [&'static str],
    leaves_see: &'static [&'static str],
    rules: &'static [Rule],
}

/// An exception that narrows the order.
enum Rule {
    /// This path is imported by these modules only, whatever the order says.
    OnlyFrom { path: &'static [&'static str], importers: &'static [&'static str] },
    /// Of `path`, this module sees one item only.
    OnlyItem { module: &'static str, path: &'static [&'static str], item: &'static str },
}

const MEDIA_NODE: Layers = Layers {
    library: "chappe_sfu",
    order: &[
        &["main"],
        &["control"],
        &["runtime"],
        &["shard"],
        &["peer"],
        &["ingress", "forward", "egress", "bwe", "transport"],
        // A relay carries cached packets as they are; a cache knows of no relay.
        &["relay"],
        &["cache"],
        // The routing tables of `room` know no packets, nor does `net`: none of these three sees another.
        &["wire", "room", "net"],
        &["rtp"],
    ],
    leaves: &["telemetry", "config", "prefetch"],
    leaves_see: &["rtp"],
    rules: &[
        Rule::OnlyFrom { path: &["crate", "net"], importers: &["runtime"] },
        Rule::OnlyFrom { path: &["chappe_proto"], importers: &["control"] },
    ],
};

const CONTROL_PLANE: Layers = Layers {
    library: "chappe",
    order: &[
        &["main"],
        // Wires everything together, as `main` asks.
        &["app"],
        // Telemetry reads what rooms and the embedded node count: only the wiring sees it, so it is no leaf here.
        &["server", "telemetry"],
        &["api", "signal"],
        &["room"],
        &["node", "store", "webhook"],
        &["auth"],
    ],
    leaves: &["config"],
    leaves_see: &["auth"],
    rules: &[
        Rule::OnlyFrom { path: &["crate", "signal", "sdp"], importers: &["signal"] },
        Rule::OnlyFrom {
            path: &["crate", "auth"],
            importers: &["main", "app", "server", "api", "signal", "room", "config"],
        },
        Rule::OnlyItem { module: "room", path: &["crate", "auth"], item: "Permissions" },
        // Everybody else knows media nodes by their API only. Configuration of both binaries is checked by the same code.
        Rule::OnlyFrom {
            path: &["chappe_sfu"],
            importers: &["main", "app", "telemetry", "node", "config"],
        },
    ],
};

impl Layers {
    /// Complaints about one file, given relative to `src`.
    fn check(&self, file: &Path, source: &str) -> Vec<String> {
        let module = top_module(file);
        if module == "lib" {
            return Vec::new();
        }
        let mut complaints = Vec::new();
        if !self.knows(&module) {
            complaints.push(format!(
                "{}: module `{module}` has no place in the order: give it one in sfu/tests/layering.rs",
                file.display()
            ));
        }
        for mut path in imports(file, source, &[self.library, "chappe_proto", "chappe_sfu"]) {
            // The binary sees its library from outside.
            if module == "main" && path[0] == self.library {
                path[0] = "crate".to_string();
            }
            if let Some(why) = self.forbids(&module, &path) {
                complaints.push(format!("{}: {} ({why})", file.display(), path.join("::")));
            }
        }
        complaints
    }

    fn knows(&self, module: &str) -> bool {
        self.leaves.contains(&module) || self.layer(module).is_some()
    }

    fn layer(&self, module: &str) -> Option<usize> {
        self.order.iter().position(|layer| layer.contains(&module))
    }

    fn forbids(&self, module: &str, path: &[String]) -> Option<String> {
        for rule in self.rules {
            match rule {
                Rule::OnlyFrom { path: only, importers } => {
                    let inside = only.get(1) == Some(&module);
                    if starts_with(path, only) && !inside && !importers.contains(&module) {
                        return Some(format!("only {importers:?} may import it"));
                    }
                }
                Rule::OnlyItem { module: narrow, path: only, item } => {
                    let allowed = path.get(only.len()).is_some_and(|name| name == item);
                    if module == *narrow && starts_with(path, only) && !allowed {
                        return Some(format!("`{module}` sees only `{item}` of it"));
                    }
                }
            }
        }
        if path[0] != "crate" {
            return None;
        }
        let target = path.get(1)?.as_str();
        if target == module || !self.knows(target) || self.leaves.contains(&target) {
            return None;
        }
        if self.leaves.contains(&module) {
            let sees = self.leaves_see.contains(&target);
            return (!sees).then(|| format!("`{module}` is a leaf"));
        }
        let (from, to) = (self.layer(module)?, self.layer(target)?);
        (to <= from).then(|| format!("`{target}` is not to the right of `{module}`"))
    }
}

fn starts_with(path: &[String], start: &[&str]) -> bool {
    path.len() >= start.len() && path.iter().zip(start).all(|(a, b)| a == b)
}

/// First folder, or the file itself.
fn top_module(file: &Path) -> String {
    let first = file.components().next().map(|part| part.as_os_str().to_string_lossy());
    first.unwrap_or_default().trim_end_matches(".rs").to_string()
}

fn is_test(file: &Path) -> bool {
    let in_folder = file.components().any(|part| part.as_os_str() == "tests");
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    in_folder || stem == "tests" || stem.ends_with("_tests")
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn check_crate(layers: &Layers, src: &Path) {
    let mut files = Vec::new();
    rust_files(src, &mut files);
    assert!(files.len() > 2, "found the sources in {}", src.display());
    files.sort();
    let complaints: Vec<_> = files
        .iter()
        .filter(|file| !is_test(file.strip_prefix(src).unwrap()))
        .flat_map(|file| {
            layers.check(file.strip_prefix(src).unwrap(), &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(complaints.is_empty(), "forbidden imports:\n{}", complaints.join("\n"));
}

/// The folder of this package; cargo sets it when it runs a test.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo").into()
}

#[test]
fn the_media_node_keeps_its_layers() {
    check_crate(&MEDIA_NODE, &package().join("src"));
}

#[test]
fn the_control_plane_keeps_its_layers() {
    check_crate(&CONTROL_PLANE, &package().join("../control-plane/src"));
}

#[test]
fn the_checker_sees_what_it_must() {
    struct Case {
        name: &'static str,
        layers: &'static Layers,
        file: &'static str,
        source: &'static str,
        /// Number of complaints.
        complaints: usize,
    }
    let node = &MEDIA_NODE;
    let control = &CONTROL_PLANE;
    let cases = [
        Case {
            name: "to the right",
            layers: node,
            file: "shard/mod.rs",
            source: "use crate::{peer::Peer, rtp::{Ssrc, Pt}};",
            complaints: 0,
        },
        Case {
            name: "to the left",
            layers: node,
            file: "wire/rtcp/nack.rs",
            source: "use crate::cache::PacketCache;",
            complaints: 1,
        },
        Case {
            name: "two in one tree",
            layers: node,
            file: "cache/mod.rs",
            source: "use crate::{rtp::{self, Ssrc}, egress::{A, b::C}, wire, shard::Shard as S};",
            complaints: 3,
        },
        Case {
            name: "a sibling",
            layers: node,
            file: "egress/pacer.rs",
            source: "fn f() { crate::forward::go::<u8>() }",
            complaints: 1,
        },
        Case {
            name: "by the back door",
            layers: node,
            file: "egress/pacer.rs",
            source: "use super::super::forward::Forwarder; use super::rtx;",
            complaints: 1,
        },
        Case {
            name: "packets in the routing tables",
            layers: node,
            file: "room/table.rs",
            source: "use crate::rtp::Ssrc; use crate::wire::RtpPacket;",
            complaints: 1,
        },
        Case {
            name: "sockets outside the runtime",
            layers: node,
            file: "control/mod.rs",
            source: "use crate::net::Udp; use crate::runtime::Runtime;",
            complaints: 1,
        },
        Case {
            name: "the contract outside control",
            layers: node,
            file: "shard/command.rs",
            source: "use chappe_proto::node::v1 as node;",
            complaints: 1,
        },
        Case {
            name: "a leaf that looks up",
            layers: node,
            file: "telemetry.rs",
            source: "use crate::rtp::Bitrate; use crate::shard::Counters;",
            complaints: 1,
        },
        Case {
            name: "a module nobody placed",
            layers: node,
            file: "helpers.rs",
            source: "",
            complaints: 1,
        },
        Case {
            name: "comments, texts and tests do not count",
            layers: node,
            file: "rtp/seq.rs",
            source: r##"
                // use crate::shard::Shard;
                /* crate::shard::Shard /* crate::peer::Peer */ */
                const A: &str = "crate::shard::Shard \" crate::peer::Peer";
                const B: &str = r#"crate::peer::Peer"#;
                fn f<'a>(c: char) -> bool { c == '"' || c == '\'' }
                #[cfg(test)]
                mod tests { use crate::shard::Shard; fn g() { { } } }
            "##,
            complaints: 0,
        },
        Case {
            name: "behind a test module",
            layers: node,
            file: "rtp/seq.rs",
            source: "#[cfg(test)] mod tests { fn g() {} } use crate::shard::Shard;",
            complaints: 1,
        },
        Case {
            name: "the binary",
            layers: node,
            file: "main.rs",
            source: "use chappe_sfu::control::serve; use chappe_sfu::net::Udp;",
            complaints: 1,
        },
        Case {
            name: "sdp outside signalling",
            layers: control,
            file: "api/whip.rs",
            source: "use crate::signal::sdp::Negotiator;",
            complaints: 1,
        },
        Case {
            name: "sdp inside signalling",
            layers: control,
            file: "signal/session/mod.rs",
            source: "use crate::signal::sdp::Negotiator; use super::sdp; use crate::room::Room;",
            complaints: 0,
        },
        Case {
            name: "a room that reads tokens",
            layers: control,
            file: "room/actor.rs",
            source: "use crate::auth::Permissions; use crate::auth::{Permissions, Keys};",
            complaints: 1,
        },
        Case {
            name: "a store that reads tokens",
            layers: control,
            file: "store/memory.rs",
            source: "use crate::auth::Permissions;",
            complaints: 1,
        },
        Case {
            name: "a room that signals",
            layers: control,
            file: "room/actor.rs",
            source: "use crate::{node::Node, signal::Session};",
            complaints: 1,
        },
        Case {
            name: "the node inside the room",
            layers: control,
            file: "room/actor.rs",
            source: "use chappe_sfu::shard::Shard;",
            complaints: 1,
        },
    ];
    for case in cases {
        let complaints = case.layers.check(Path::new(case.file), case.source);
        assert_eq!(complaints.len(), case.complaints, "{}: {complaints:?}", case.name);
    }
}
