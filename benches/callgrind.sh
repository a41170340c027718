#!/usr/bin/env bash
# Instructions of a shard's turn per packet, by function: the same on a busy machine as on a quiet one.
# Usage: benches/callgrind.sh [arguments of the binary `turn`]
# Needs valgrind. The cipher's instructions are those of the CPU that valgrind shows: compare the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
source benches/turn.sh
count_turns 50 60 "" "$@"
callgrind_annotate --threshold=100 --show-percs=no "$out" 2>/dev/null | awk -v packets="$packets" -v top="${TOP:-40}" '
  /PROGRAM TOTALS/ { gsub(",", "", $1); total = $1 }
  /^ *[0-9,]+ +[^ ]*:/ {
    count = $1; gsub(",", "", count)
    # By file too: some of its functions have names that say nothing.
    library = /aws_lc|aes_|gcm_|aesni|sha1_|sha256_/
    sub(/^ *[0-9,]+ +/, ""); sub(/ \[.*/, ""); sub(/^[^ ]*:/, "")
    if (library) cipher += count
    else { rest += count; if (shown++ < top) line[shown] = sprintf("%9.1f  %s", count / packets, substr($0, 1, 150)) }
  }
  END {
    printf "instructions a packet: %.1f, of them cipher %.1f, rest %.1f (%d packets)\n",
      total / packets, cipher / packets, (total - cipher) / packets, packets
    for (i = 1; i <= shown && i <= top; i++) print line[i]
  }'
