# What one does here; `make` alone lists it.
SHELL := /bin/bash
# Where rustup puts cargo; a bare shell does not look there.
export PATH := $(PATH):$(HOME)/.cargo/bin

FUZZ_SECONDS ?= 600
TORTURE_SECONDS ?= 600
SOAK_SECONDS ?= 1800
export TORTURE_SECONDS TORTURE_SEED TORTURE_FAULTS SOAK_SECONDS SOAK_SEED

.PHONY: help run test suite torture torture-cluster soak mutants fuzz check bench bench-quick bench-cluster bench-distance footprint hit-ratio deps image

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

run: ## a Redis, a sidecache before it, a short proof on the screen; stays until Ctrl-C (RUN_SECONDS=5, UPSTREAM=cluster or sentinel)
	@scripts/deps.sh run
	@cargo build --release --locked --bin sidecache
	@scripts/demo.sh

test: ## everything: format, lints, house rules, unit and integration tests against real servers
	@scripts/deps.sh
	@scripts/test.sh

suite: ## Redis's own test suite, directly and through a sidecache: what differs; some ten minutes
	@scripts/deps.sh
	@cargo build --release --locked --bin sidecache
	@python3 tests/suite/run.py

torture: ## every promise checked while everything goes wrong at random; ten minutes, or TORTURE_SECONDS=3600 (TORTURE_SEED=7)
	@scripts/deps.sh
	@cargo test --release --locked --test integration -- torture::long --ignored --nocapture

soak: ## what clients of real caches do, with faults, and nothing may be left of it; half an hour, or SOAK_SECONDS=7200 (SOAK_SEED=7)
	@scripts/deps.sh
	@cargo test --release --locked --test integration -- soak::long --ignored --nocapture

torture-cluster: ## the same for clusters and Sentinels: slots, masters and nodes come and go under load (TORTURE_SECONDS, TORTURE_SEED)
	@scripts/deps.sh
	@cargo test --release --locked --test integration -- torture::cluster::long --ignored --nocapture

mutants: ## each rule that the promises rest on is turned off, and a test must go red; some ten minutes
	@scripts/deps.sh
	@python3 scripts/mutants.py

fuzz: ## makes up input for each check of fuzz/ (FUZZ_SECONDS=600 each); needs a nightly compiler
	@scripts/fuzz.sh $(FUZZ_SECONDS)

check: ## the quick part of it: format, lints, house rules
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --quiet --test layout

bench: ## CPU, throughput and latency beside Redis itself, twemproxy, HAProxy and Envoy; some 25 minutes (BENCH=--publish: into docs/)
	@scripts/deps.sh bench
	@cargo build --release --locked --bin sidecache --example load
	@python3 benches/compare.py $(BENCH)

bench-quick: ## the same on a few workloads in about three minutes; its figures are rougher
	@scripts/deps.sh bench
	@cargo build --release --locked --bin sidecache --example load
	@python3 benches/compare.py --quick $(BENCH)

bench-cluster: ## CPU per command before a cluster of three masters, beside Envoy; some five minutes
	@scripts/deps.sh bench
	@cargo build --release --locked --bin sidecache
	@python3 benches/cluster.py $(BENCH)

bench-distance: ## what an application gains when upstream is 0.25, 1 and 5 ms away; some five minutes (BENCH=--publish: into docs/)
	@scripts/deps.sh bench
	@cargo build --release --locked --bin sidecache --example load
	@python3 benches/distance.py $(BENCH)

footprint: ## memory, start-up, stampedes, slowest look-ups, beside their budgets; some 15 minutes (BENCH=--quick: three)
	@scripts/deps.sh run
	@cargo build --release --locked --bin sidecache --example load
	@python3 benches/footprint.py $(BENCH)

hit-ratio: ## hits at a given memory, beside LRU and the best possible; some three minutes
	@cargo build --release --locked --bin sidecache
	@python3 benches/hit_ratio.py $(BENCH)

deps: ## installs what tests, demo and benchmarks need (Debian)
	@scripts/deps.sh
	@scripts/deps.sh bench

image: ## the container image, with docker, podman or buildah
	@scripts/image.sh
