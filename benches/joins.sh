#!/usr/bin/env bash
# CPU of a join with everything in one process: token, WebSocket, SDP, the room, the node's API, ICE and DTLS.
#
# Starts the server, and the load tester beside it (release builds of both): ROOMS rooms with one muted voice and nine sinks each, RATE joins
# a second. What the process does anyhow once all are in is taken off, half of it while they join. Nothing is forwarded.
# Takes port PORT (17880) and the two behind it.
#   benches/joins.sh [ROOMS [RATE]]
set -euo pipefail
cd "$(dirname "$0")/.."
rooms=${1:-40} rate=${2:-40}
joins=$((rooms * 10))
joining=$(((joins + rate - 1) / rate)) settled=3 watched=6
bin=${CARGO_TARGET_DIR:-target}/release
for name in chappe chappe-loadtest; do
  [ -x "$bin/$name" ] || { echo "$bin/$name is not there: cargo build --release --workspace --bins" >&2; exit 2; }
done
server='' tester=''
finish() {
  for process in $tester $server; do
    kill "$process" 2>/dev/null && wait "$process" || true
  done
}
trap finish EXIT

port=${PORT:-17880} admin=$((${PORT:-17880} + 1)) key=joins secret=$(head -c 24 /dev/urandom | base64)
CHAPPE_KEYS="$key:$secret" CHAPPE_BIND=127.0.0.1 CHAPPE_PORT=$port CHAPPE_ADMIN=127.0.0.1:$admin \
  CHAPPE_RTC_UDP_PORT=$((port + 2)) CHAPPE_RTC_TCP_PORT=0 CHAPPE_LOG=error "$bin/chappe" >/dev/null &
server=$!
until curl -sf "http://127.0.0.1:$admin/readyz" >/dev/null; do
  kill -0 $server 2>/dev/null || { echo "the server did not start" >&2; exit 1; }
  sleep 0.1
done

# Milliseconds on a core: of the process with the threads that have ended, and of its media threads.
cpu() {
  local ticks
  ticks=$(sed 's/.*) //' /proc/$server/stat | awk '{ print $12 + $13 }') || { echo "the server is gone" >&2; exit 1; }
  # shellcheck disable=SC2046 # one path each
  cat $(grep -l '^shard-' /proc/$server/task/*/comm | sed 's/comm$/schedstat/') |
    awk -v all="$ticks" -v hertz="$(getconf CLK_TCK)" '{ media += $1 } END { printf "%d %d\n", all * 1000 / hertz, media / 1e6 }'
}
begun=$(cpu)
LIVEKIT_API_KEY=$key LIVEKIT_API_SECRET=$secret "$bin/chappe-loadtest" run livestream --url "ws://127.0.0.1:$port" --quiet \
  --set rooms="$rooms" --set subscribers=9 --set join_rate="$rate" --set subscriber_mode=sink --set video=false --set audio=true \
  --set bandwidth_feedback=false --set muted=true --set warmup=${settled}s --set duration=$((watched + 2))s \
  --fail-if 'failed_joins > 0' --fail-if 'lost_clients > 0' >/dev/null &
tester=$!
sleep $((joining + settled))
joined=$(cpu)
sleep $watched
later=$(cpu)
wait $tester || { tester=''; echo "not everybody came in: these figures would be wrong" >&2; exit 1; }
tester=''
echo "$begun $joined $later" | awk -v joins=$joins -v rate="$rate" -v joining=$joining -v settled=$settled -v watched=$watched '
  function each(begun, joined, later) {
    steady = (later - joined) / watched
    return (joined - begun - steady * (joining / 2 + settled)) / joins
  }
  {
    media = each($2, $4, $6)
    all = each($1, $3, $5)
    printf "%d joins, %d a second: %.2f ms each, %.2f beside the media threads; with all of them in, %.0f ms a second\n", \
      joins, rate, all, all - media, steady
  }'
