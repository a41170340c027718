#!/usr/bin/env bash
# Whether the fuzz targets still compile, without the fuzzer's instrumentation. Its own directory keeps the dependencies:
# the first time takes some minutes, then only what has changed is checked.
set -euo pipefail
cd "$(dirname "$0")/.."
target="$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')"
host="$(rustc -vV | sed -n 's/^host: //p')"
# The workspace's versions, wherever it has some.
if [ ! -e fuzz/Cargo.lock ] || [ Cargo.lock -nt fuzz/Cargo.lock ]; then cp Cargo.lock fuzz/Cargo.lock; fi
# Naming the target keeps build scripts and procedural macros free of the flag.
RUSTFLAGS="--cfg fuzzing" CARGO_TARGET_DIR="$target/fuzz-check" \
  cargo check --quiet --manifest-path fuzz/Cargo.toml --target "$host" --bins
