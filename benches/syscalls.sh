#!/usr/bin/env bash
# System calls of the media threads over ten seconds of steady load: benches/syscalls.sh [arguments of the binary forwarding].
# Needs strace and the right to attach it. futex and write (to an eventfd) are what waking another thread takes.
set -euo pipefail
cd "$(dirname "$0")/.."
FORWARDING=${FORWARDING:-${CARGO_TARGET_DIR:-target}/release/forwarding}
said=$(mktemp)
process=
trap 'rm -f "$said" "$said.json"; [ -z "$process" ] || kill "$process" 2>/dev/null || true' EXIT
"$FORWARDING" --duration 12 --json "$@" 2>"$said" >"$said.json" &
process=$!
until grep -q measuring "$said"; do
  kill -0 "$process" || { cat "$said"; exit 1; }
  sleep 0.2
done
threads=$(grep -l '^shard-' /proc/"$process"/task/*/comm | cut -d/ -f5 | sed 's/^/-p /')
# shellcheck disable=SC2086 # one argument each
timeout 10 strace -c $threads 2>&1 | grep -v attached || true
wait "$process" || true
process=
grep -o '"[a-z_]*allocations[a-z_]*":[^,]*' "$said.json"
cat "$said" >&2
