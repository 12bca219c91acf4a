# The door to everything; `make help` lists it. What needs more than Rust, Go and a C compiler says so.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
CARGO ?= cargo

.PHONY: help
help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Run the main job here: a real Pebble, its layer, a secret, sample pods, no cluster (KUBECONFIG and LABELS: yours)
	@echo "Building metrics-proxy (a few minutes the first time) ..." >&2
	@$(CARGO) build --locked --bin metrics-proxy --example sample_pod --example demo
	@METRICS_PROXY_DEMO_PEBBLE="$$(tools/get pebble-1.26)" $(CARGO) run --quiet --locked --example demo

.PHONY: test
test: tools ## All tests, on real parts (the first time builds them: some 15 minutes)
	@echo "Building and running the tests ..." >&2
	$(CARGO) test --locked --workspace

.PHONY: tools
tools: ## Build the real parts that the tests use, into a cache outside the checkout
	@# Exit 3: this machine cannot have a part (Python, or something of Debian's); its tests say so and are skipped.
	@tools/get --all >/dev/null || [ $$? = 3 ]
	@tools/get prometheus-2.42 promtool-2.42 >/dev/null || [ $$? = 3 ]

.PHONY: soak
soak: tools ## What takes long by nature: 1,000 rotations, 10,000 pods, ten-minute counts, reproducible builds
	METRICS_PROXY_NO_SKIP=1 METRICS_PROXY_ROTATIONS=1000 $(CARGO) test --locked --test it -- --nocapture reconciler::rotations
	METRICS_PROXY_NO_SKIP=1 SCALE_IDLE_SECONDS=600 $(CARGO) test --locked --test it -- --ignored --nocapture --test-threads=1
	$(MAKE) reproduce

.PHONY: bench
bench: ## The exposition engine against copying memory and against other parsers, as ratios in one run
	$(CARGO) bench --locked --package exposition --bench exposition

.PHONY: fuzz
fuzz: ## Fuzz parse, merge and negotiate, FUZZ_SECONDS (60) each; needs a nightly toolchain (rustup toolchain install nightly)
	@corpus=$$(mktemp -d); trap 'rm -rf "$$corpus"' EXIT; \
	for target in parse merge negotiate; do \
		mkdir "$$corpus/$$target"; \
		RUSTUP_TOOLCHAIN=nightly "$$(tools/get cargo-fuzz)" fuzz run --fuzz-dir crates/exposition/fuzz "$$target" \
			"$$corpus/$$target" "crates/exposition/fuzz/corpus/$$target" -- -max_total_time=$${FUZZ_SECONDS:-60} -print_final_stats=1; \
	done

.PHONY: lint
lint: ## Formatting, clippy, docs and unused dependencies; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	"$$(tools/get cargo-machete)"

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: clean
clean: ## Remove what was built in the checkout (the cache of tools stays)
	$(CARGO) clean

-include make/*.mk
