# Sourced by callgrind.sh and lines.sh: runs the binary `turn` under callgrind, counting its turns alone.

# Usage: count_turns SUBSCRIBERS TURNS "FLAGS OF VALGRIND" [arguments of `turn`]; the first two are defaults. Sets `out` (what callgrind
# wrote), and `packets` and `sends` (what `turn` said). All of it is gone when the script ends.
count_turns() {
  command -v valgrind >/dev/null || { echo "$(basename "$0"): valgrind is not installed" >&2; exit 2; }
  local subscribers=$1 turns=$2 flags=$3 target=${CARGO_TARGET_DIR:-target} said
  shift 3
  local args=("$@")
  [[ " $* " == *" --subscribers"* ]] || args+=(--subscribers "$subscribers")
  [[ " $* " == *" --turns"* ]] || args+=(--turns "$turns")
  [ -x "$target/release/turn" ] || cargo build --release --workspace --bin turn
  out=$(mktemp)
  trap 'rm -f "$out"' EXIT
  # shellcheck disable=SC2086 # several flags
  said=$(valgrind --tool=callgrind $flags --collect-atstart=no --toggle-collect='*Rig*counted_turn*' \
    --callgrind-out-file="$out" "$target/release/turn" "${args[@]}" 2>/dev/null)
  read -r _ packets _ sends _ <<<"$said"
}
