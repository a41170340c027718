#!/usr/bin/env bash
# Runs the browser tests in a network namespace of their own: one veth pair and one address carry server and
# browsers (Firefox pairs no loopback candidates), no root is needed, and all of it vanishes with the process.
#   e2e/run.sh [FILE ...]     all files of e2e/tests when none is named
set -euo pipefail
cd "$(dirname "$0")"
address=10.77.0.1
if [ "${1:-}" = --inside ]; then
  shift
  ip link set lo up
  ip link add chappe0 type veth peer name chappe1
  ip address add "$address/24" dev chappe0
  ip link set chappe0 up
  ip link set chappe1 up
  export CHAPPE_E2E_ADDRESS=$address
  if [ $# -eq 0 ]; then set -- tests/*.test.mjs; fi
  # One file after the other: two cores carry one meeting at a time.
  exec node --test --test-concurrency=1 --test-force-exit --test-reporter=spec "$@"
fi
if [ ! -e node_modules/.chappe-lock ] || ! cmp -s package-lock.json node_modules/.chappe-lock; then
  npm ci --no-audit --no-fund --ignore-scripts
  cp package-lock.json node_modules/.chappe-lock
fi
if ! unshare --user --map-root-user --net true 2>/dev/null; then
  echo "e2e: this system lets users make no network namespaces: sysctl kernel.unprivileged_userns_clone=1 (or run as root)" >&2
  exit 1
fi
exec unshare --user --map-root-user --net "$PWD/run.sh" --inside "$@"
