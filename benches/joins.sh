#!/usr/bin/env bash
# CPU of a join with everything in one process but the media threads: token, WebSocket, SDP, the room, the node's API. What a join
# costs a media thread is a column of `forwarding`.
#
# Starts the server and the load tester (release builds of both): ROOMS rooms with one voice and nine sinks each, RATE joins a second.
# What the process does anyhow, once all are in, is taken off: half of it while they join.
#   benches/joins.sh [ROOMS [RATE]]
set -euo pipefail
cd "$(dirname "$0")/.."
rooms=${1:-40} rate=${2:-40}
joins=$((rooms * 10)) bin=${CARGO_TARGET_DIR:-target}/release
for name in chappe chappe-loadtest; do
  [ -x "$bin/$name" ] || { echo "$bin/$name is not there: cargo build --release --workspace --bins" >&2; exit 2; }
done
joining=$((joins / rate)) settled=3 watched=6
report=$(mktemp)
# The load tester takes the server that lies beside it.
"$bin/chappe-loadtest" run livestream --start-server --json --set rooms="$rooms" --set subscribers=9 --set join_rate="$rate" \
  --set subscriber_mode=sink --set video=false --set audio=true --set bandwidth_feedback=false \
  --set warmup=${settled}s --set duration=$((watched + 2))s >"$report" 2>/dev/null &
tester=$!
trap 'kill $tester 2>/dev/null || true; rm -f "$report"' EXIT

server=
for _ in $(seq 100); do
  server=$(pgrep -P $tester -x chappe || true)
  [ -z "$server" ] || break
  sleep 0.1
done
[ -n "$server" ] || { echo "the server did not start" >&2; exit 1; }

# Nanoseconds on a core of all threads but those for media.
cpu() {
  local thread
  for thread in /proc/"$server"/task/*; do
    case $(<"$thread/comm") in shard-*) ;; *) cat "$thread/schedstat" ;; esac
  done 2>/dev/null | awk '{ all += $1 } END { printf "%.0f\n", all }'
}
sleep 0.3
begun=$(cpu)
sleep $((joining + settled))
joined=$(cpu)
sleep $watched
later=$(cpu)
wait $tester || { echo "the load tester failed: not everybody came in" >&2; exit 1; }
awk -v joins=$joins -v begun="$begun" -v joined="$joined" -v later="$later" -v joining=$joining -v settled=$settled -v watched=$watched 'BEGIN {
  steady = (later - joined) / watched
  own = joined - begun - steady * (joining / 2 + settled)
  printf "%d joins, %d a second: %.2f ms each beside the media threads; with all of them in, %.1f ms a second\n", \
    joins, joins / joining, own / joins / 1e6, steady / 1e6
}'
