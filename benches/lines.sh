#!/usr/bin/env bash
# Lines of memory that a subscriber's turn finds in no cache, by function: the same on a busy machine as on a quiet one.
# Usage: benches/lines.sh [arguments of the binary `turn`]
# Needs valgrind. The simulated cache of 512 KiB holds a turn's own code and data and not those of the 500 subscribers behind each other;
# what is asked for in advance counts as well.
set -euo pipefail
cd "$(dirname "$0")/.."
source benches/turn.sh
count_turns 500 30 "--cache-sim=yes --D1=32768,8,64 --LL=524288,16,64" "$@"
callgrind_annotate --threshold=100 --show-percs=no --show=DLmr,DLmw --sort=DLmr "$out" 2>/dev/null | awk -v sends="$sends" -v top="${TOP:-40}" '
  /PROGRAM TOTALS/ { gsub(",", ""); reads = $1; writes = $2 }
  /^ *[0-9,.]+ +[0-9,.]+ +[^ ]*:/ {
    read = $1; write = $2; gsub("[,.]", "", read); gsub("[,.]", "", write)
    sub(/^ *[0-9,.]+ +[0-9,.]+ +/, ""); sub(/ \[.*/, ""); sub(/^.*\/(sfu|benches|aws-lc)\//, "")
    line[++shown] = sprintf("%8.2f %8.2f  %s", read / sends, write / sends, substr($0, 1, 140))
  }
  END {
    printf "lines a send: %.1f, of them read %.1f, written %.1f (%d sends)\n    read  written\n",
      (reads + writes) / sends, reads / sends, writes / sends, sends
    for (i = 1; i <= shown && i <= top; i++) print line[i]
  }'
