#!/usr/bin/env bash
# Fuzzes each target for so many seconds (first argument), or only those named behind it. What breaks a check stays in
# fuzz/artifacts; once mended, put it into fuzz/regressions/<target>/, which the tests run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(request reply downgrade keys config session)
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
# No address sanitizer: there is no unsafe code to watch, and without it everything is quicker.
cargo +nightly fuzz build --fuzz-dir fuzz -s none
for target in "${targets[@]}"; do
    echo "=== $target, $seconds s"
    mkdir -p "fuzz/found/$target" "fuzz/artifacts/$target"
    "fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release/$target" -max_total_time="$seconds" -max_len=4096 \
        -timeout=120 -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" \
        "fuzz/found/$target" "fuzz/corpus/$target" 2>&1 | tail -12
done
