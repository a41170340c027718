#!/usr/bin/env bash
# Builds every fuzz target and runs each for SECONDS: fuzz/smoke.sh 60. Works on stable Rust.
# A crash leaves its input in fuzz/artifacts/TARGET/ and ends the run with its exit code; to repeat it:
#   fuzz/target/HOST/debug/TARGET fuzz/artifacts/TARGET/crash-...
set -euo pipefail
cd "$(dirname "$0")"

seconds="${1:?usage: fuzz/smoke.sh SECONDS}"
host="$(rustc -vV | sed -n 's/^host: //p')"

# What cargo-fuzz passes, without the sanitizers that need a nightly compiler.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
# Naming the target keeps build scripts and procedural macros free of these flags.
CARGO_TARGET_DIR="$PWD/target" cargo build --quiet --target "$host" --bins

for source in fuzz_targets/*.rs; do
  name="$(basename "$source" .rs)"
  mkdir -p "corpus/$name" "artifacts/$name"
  log="artifacts/$name.log"
  seeds=()
  [ "$name" != sdp ] || seeds=(../control-plane/tests/fixtures/sdp)
  [ ! -d "known/$name" ] || seeds+=("known/$name")
  # 64 KiB is the largest input that a parser is given: one datagram, or one data packet.
  # Some targets write inputs to begin with, see fuzz_targets/shared/seeds.rs.
  if ! CHAPPE_FUZZ_SEEDS="corpus/$name" "target/$host/debug/$name" "corpus/$name" "${seeds[@]}" -max_total_time="$seconds" -max_len=65536 -timeout=5 \
    -rss_limit_mb=1024 -artifact_prefix="artifacts/$name/" -print_final_stats=1 >"$log" 2>&1; then
    tail -40 "$log"
    echo "fuzz $name: FAILED, its input is in fuzz/artifacts/$name/"
    exit 1
  fi
  runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  echo "fuzz $name: ${runs:-0} runs, no failure"
done
