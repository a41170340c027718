#!/usr/bin/env bash
# Instructions of a shard's turn per packet, by function: the same on a busy machine as on a quiet one.
# Usage: benches/callgrind.sh [arguments of the binary `turn`]
# Needs valgrind. The cipher's instructions are those of the CPU that valgrind shows: compare the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "callgrind.sh: valgrind is not installed" >&2; exit 2; }
target=${CARGO_TARGET_DIR:-target}
[ -x "$target/release/turn" ] || cargo build --release --workspace --bin turn
out=$(mktemp)
trap 'rm -f "$out" "$out.said"' EXIT
args=("$@")
[[ " $* " == *" --subscribers"* ]] || args+=(--subscribers 50)
[[ " $* " == *" --turns"* ]] || args+=(--turns 60)
valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*Rig*counted_turn*' \
  --callgrind-out-file="$out" "$target/release/turn" "${args[@]}" \
  >"$out.said" 2>/dev/null
packets=$(sed -n 's/^packets \([0-9]*\).*/\1/p' "$out.said")
callgrind_annotate --threshold=99 --show-percs=no "$out" 2>/dev/null | awk -v packets="$packets" -v top="${TOP:-40}" '
  /PROGRAM TOTALS/ { gsub(",", "", $1); total = $1 }
  /^ *[0-9,]+ +[^ ]*:/ {
    count = $1; gsub(",", "", count)
    sub(/^ *[0-9,]+ +/, ""); sub(/ \[.*/, ""); sub(/^[^ ]*:/, "")
    if ($0 ~ /aws_lc|aes_|gcm_|aesni|sha1_|sha256_/) cipher += count
    else { rest += count; if (shown++ < top) line[shown] = sprintf("%9.1f  %s", count / packets, substr($0, 1, 150)) }
  }
  END {
    printf "instructions a packet: %.1f, of them cipher %.1f, rest %.1f (%d packets)\n",
      total / packets, cipher / packets, (total - cipher) / packets, packets
    for (i = 1; i <= shown && i <= top; i++) print line[i]
  }'
