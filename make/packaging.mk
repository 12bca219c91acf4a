# What users touch: the release, the image, the rock, and the tests of them.

.PHONY: release
release: ## Static binaries for x86_64 and aarch64 with their bills of materials, into dist/
	@tools/release

.PHONY: reproduce
reproduce: ## Build the release twice, in two places, and compare the bytes
	@tools/reproduce

.PHONY: image
image: ## The image without rockcraft, from a release binary, into dist/image (as root, with Debian's buildah)
	@tools/image "$$(tools/release "$$(uname -m)")" "$$(tools/get pebble-1.32)" dist/image

.PHONY: rock
rock: ## Pack the rock from the last commit (needs rockcraft), into dist/
	@tools/rock

# What `make test-real` runs, by the beginning of the names: ignored tests that take over a minute.
REAL_TESTS = deploy::controllers:: scrape::idle::

.PHONY: test-real
test-real: tools ## Tests of about a minute and more: workloads under Kubernetes' controllers, idle timeouts beside Prometheus
	@tools/get kube-controller-manager kube-scheduler kubemark >/dev/null
	METRICS_PROXY_NO_SKIP=1 $(CARGO) test --locked --test it -- --ignored --nocapture --test-threads=1 $(REAL_TESTS)

.PHONY: spread-bin
spread-bin:
	@mkdir -p spread/.bin
	@# Static: the machines of spread may have an older libc than this one.
	@install -m 0755 "$$(tools/release "$$(uname -m)")" spread/.bin/metrics-proxy
	@for version in 1.19 1.26 1.32; do install -m 0755 "$$(tools/get pebble-$$version)" spread/.bin/pebble-$$version; done

.PHONY: spread
spread: spread-bin ## The tasks of spread/: by spread where it is on PATH (BACKEND=lxd or adhoc), else by its stand-in
	@if command -v spread >/dev/null; then spread "$${BACKEND:-lxd}"; else "$$(tools/get python)" tests/spread-runner; fi

.PHONY: deny
deny: ## Licences, sources and banned crates; ADVISORIES=1 asks for known vulnerabilities too (needs the network)
	@"$$(tools/get cargo-deny)" --log-level error check $${ADVISORIES:+advisories} licenses bans sources

.PHONY: licenses
licenses: ## The licences of everything in the binary
	@"$$(tools/get cargo-deny)" --log-level error list --layout license --format human
