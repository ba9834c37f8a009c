#!/usr/bin/env bash
# All checks and tests, the quick ones first. With cargo-nextest where it is installed, else with cargo alone.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:$HOME/.cargo/bin"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

step() { printf '\n=== %s\n' "$*"; }

# A toolchain of rustup's minimal profile lacks these two; the tests are worth running all the same.
if cargo fmt --version >/dev/null 2>&1; then
    step "cargo fmt --check"
    cargo fmt --check
else
    step "no rustfmt here: the format is not checked"
fi
if cargo clippy --version >/dev/null 2>&1; then
    step "cargo clippy"
    cargo clippy --locked --quiet --all-targets -- -D warnings
    step "cargo clippy with the switches of the mutation check"
    cargo clippy --locked --quiet --lib --bins --features mutants -- -D warnings
else
    step "no clippy here: the lints are not checked"
fi

step "house rules"
cargo test --locked --quiet --test layout
step "examples in the documentation"
cargo test --locked --quiet --doc
step "what workers share, in every order that memory allows"
timeout --foreground 10m cargo run --locked --quiet --example loom

if cargo nextest --version >/dev/null 2>&1; then
    step "cargo nextest run"
    cargo nextest run --locked --no-fail-fast
else
    step "cargo test"
    # Nothing in the tests waits longer than its patience; should one hang all the same, the run ends.
    timeout --foreground 30m cargo test --locked --no-fail-fast --lib --bins --tests
fi
