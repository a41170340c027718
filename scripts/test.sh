#!/usr/bin/env bash
# All tests, fast ones first, and one line at the end: N passed, N failed, N skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh test || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
passed=0 failed=0 skipped=0
log=$(mktemp); trap 'rm -f "$log"' EXIT

step() { printf '\n== %s\n' "$1"; }

step "Rust: unit, property, integration and simulation tests"
cargo test --workspace --no-fail-fast 2>&1 | tee "$log" | grep -vE '^(test .* \.\.\. ok|running [0-9]+ tests?|)$'
status=${PIPESTATUS[0]}
while read -r p f i; do
  passed=$((passed + p)); failed=$((failed + f)); skipped=$((skipped + i))
done < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' "$log")
# A build that fails has no test to count.
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi

step "Browsers: Chromium and Firefox ESR on the meeting page"
target=$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
if cargo build --workspace --bins; then
  CHAPPE_BIN="$target/debug" e2e/run.sh 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  p=$(sed -nE 's/^[^a-z]*pass ([0-9]+)$/\1/p' "$log" | tail -1)
  f=$(sed -nE 's/^[^a-z]*fail ([0-9]+)$/\1/p' "$log" | tail -1)
  c=$(sed -nE 's/^[^a-z]*cancelled ([0-9]+)$/\1/p' "$log" | tail -1)
  s=$(sed -nE 's/^[^a-z]*skipped ([0-9]+)$/\1/p' "$log" | tail -1)
  passed=$((passed + ${p:-0})); failed=$((failed + ${f:-0} + ${c:-0})); skipped=$((skipped + ${s:-0}))
  if [ "$status" -ne 0 ] && [ "${f:-0}" -eq 0 ] && [ "${c:-0}" -eq 0 ]; then failed=$((failed + 1)); fi
else
  failed=$((failed + 1))
fi

printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ] && [ "$skipped" -eq 0 ]
