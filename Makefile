# Entry points. `make run` and `make test` install what they need.
.PHONY: run test fmt lint sim e2e fuzz-smoke bench docs setup

run: ## Build and start the server with a meeting page; prints the address
	@scripts/setup.sh run
	cargo run --release --bin chappe

test: ## All tests, browsers included
	@scripts/test.sh

fmt: ## Format the code
	cargo fmt --all

lint: ## Formatting, clippy, the fuzz targets and the page's types
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	fuzz/check.sh
	cd web && { [ -d node_modules ] || npm ci --no-audit --no-fund; } && npx tsc --noEmit

sim: ## Simulations only, rooms with SEEDS=200 seeds each (long ones: 50); SIM_SEED=17 repeats one
	cargo test --workspace --test 'sim*'
	SIM_SEEDS=$(or $(SEEDS),200) cargo test --release --workspace --test sim room::

e2e: ## Browser tests only; FILES="tests/10-call.test.mjs" picks some
	cargo build --workspace --bins
	e2e/run.sh $(FILES)

fuzz-smoke: ## Every fuzz target for a short while; SECONDS_EACH=60 by default
	fuzz/smoke.sh $(or $(SECONDS_EACH),60)

bench: ## What a forwarded packet and a join cost, against the least that any SFU can do
	cargo bench --workspace --bench micro --bench crossing
	cargo build --release --workspace --bin chappe --bin chappe-loadtest
	cargo build --release --workspace --features chappe-benches/ciphers --bin floor --bin forwarding --bin turn --bin flood
	target/release/floor
	benches/joins.sh
	benches/joins.sh 80 400
	target/release/forwarding --table
	target/release/flood

docs: ## API documentation without warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
