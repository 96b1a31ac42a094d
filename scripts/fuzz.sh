#!/usr/bin/env bash
# Fuzzes what reads other people's files, for a bounded time.
#
#   ./scripts/fuzz.sh [SECONDS FOR EACH TARGET, 60]
#
# Needs a nightly toolchain and cargo-fuzz: cargo install cargo-fuzz --locked
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../harness"

seconds=${1:-60}
[[ $seconds =~ ^[0-9]+$ ]] || { echo "fuzz.sh: '$seconds' is not a number of seconds" >&2; exit 2; }

# Real timelines to start from, where a run has left some.
corpus=fuzz/corpus/timeline
mkdir -p "$corpus"
find ../drainspec-out/timelines -name '*.ndjson' -size -16k -exec cp -t "$corpus" {} + 2>/dev/null || true

for target in timeline catalog; do
    echo "== $target, $seconds s"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10
done
