#!/usr/bin/env bash
# Installs what building and testing need and the system's package manager has; names the rest in one line each.
#   scripts/setup.sh run     for `make run`
#   scripts/setup.sh test    for `make test`
set -euo pipefail
what=${1:-run}
# Where nft is, and not every user's PATH looks.
PATH=$PATH:/usr/sbin:/sbin
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }

need cc build-essential
need cmake cmake
if ! command -v cargo >/dev/null 2>&1; then
  echo "setup: a Rust toolchain is needed: install rustup (package rustup, then: rustup default stable)" >&2
  exit 1
fi
if [ "$what" = test ]; then
  need chromium chromium
  need firefox-esr firefox-esr
  need ip iproute2
  need unshare util-linux
  need nft nftables
  need ffmpeg ffmpeg
  need turnserver coturn
fi
if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  echo "setup: installing ${missing[*]}"
  if ! { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }; then
    echo "setup: could not install; please run: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
  # Tests start their own: the system needs no TURN server that everybody can reach.
  if [[ " ${missing[*]} " == *" coturn "* ]] && command -v systemctl >/dev/null 2>&1; then
    "${as_root[@]}" systemctl disable --now coturn >/dev/null 2>&1 || true
  fi
fi
node_version=$(node --version 2>/dev/null || echo none)
if ! node -e 'const [a,b]=process.versions.node.split(".").map(Number); process.exit(a>20||(a===20&&b>=19)?0:1)' 2>/dev/null; then
  echo "setup: Node.js 20.19 or newer builds the meeting page (found: $node_version)" >&2
  [ "$what" = run ] || exit 1
fi
