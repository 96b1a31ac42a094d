#!/usr/bin/env bash
# Everything that must hold, in one command; stops at the first step that fails and names it.
#
#   ./scripts/test.sh
#
# Installs what is missing (scripts/setup.sh), checks formats and lints, runs the tests of the harness and of
# each server, and plays the whole matrix and, by the date, one half of the faulty servers. Needs no terminal. The
# last line is `N passed, 0 failed`, in steps.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
exec </dev/null

passed=0
current=
skipped=() # what this machine has no way to do
trap finish EXIT

main() {
    printf 'Day %d of the year; DAY_OF_YEAR=%d plays the same parts again.\n' "$((10#$(day)))" "$((10#$(day)))"
    step 'set-up' scripts/setup.sh

    step 'scripts: shellcheck' .venv/bin/shellcheck --external-sources scripts/*.sh .ci/run \
        k8s/cluster/engine-init k8s/cluster/runc-without-sys-resource
    step 'scripts: ruff' python_lint --line-length=112 scripts lb-configs k8s
    step 'docs: links, names and lists' python3 scripts/check-docs.py
    step 'lb-configs: valid, and as said' .venv/bin/python scripts/check-lb-configs.py
    step 'k8s: valid, and as said' .venv/bin/python scripts/check-k8s.py
    step 'images: hadolint' .venv/bin/hadolint servers/*/Dockerfile
    step 'sabotages: each still applies' python3 scripts/sabotage.py --check
    step 'harness: rustfmt' cargo fmt --check

    # What is quick comes first: a fault in it is known within a minute.
    each_server pyproject.toml python_checks
    each_server package.json node_checks
    each_server go.mod go_checks

    step 'harness: clippy' cargo clippy --quiet --locked --all-targets -- -D warnings
    step 'harness: tests' harness_tests
    each_server Cargo.toml rust_checks
    step 'lifecycle: compiles alone' scripts/lifecycle-alone.sh

    step 'harness: release build' cargo build --quiet --release --locked
    step 'docs: what they say about adding is true' python3 scripts/follow-docs.py
    step 'shutdown test of a server that is in order' scripts/shutdown-test.sh go
    step 'shutdown test of a server that is not' fails scripts/shutdown-test.sh naive/go
    step 'matrix' cargo run --quiet --release --locked -- matrix --repeat 1 --allow-untold
    step 'matrix: adopted services' cargo run --quiet --release --locked -- \
        matrix --kind adopted --repeat 1 --allow-untold --out target/adopted-out
    step 'faulty servers: the half of today' faulty_half
    step 'rollouts on a real cluster' cluster_rollouts
}

# A dozen of the strangers. All of them, `cargo test --test strangers`, take ten minutes and more on a quiet machine.
harness_tests() {
    local kinds=ends-at-once,imitates-waitress,older-shares,longer-than-its-grace,no-descriptors,root-is-421,root-is-302
    STRANGERS="{$kinds,tls-says-400,shell-with-exec,slow-is-quick,workers-left-behind,upload}" cargo test --quiet --locked
}

# What a cluster is made of is built first, which takes a quarter of an hour and more where nothing of it is there. Where no
# cluster can be had, the last lines say so.
cluster_rollouts() {
    local loaded server image named=()
    if ! timeout 1500 k8s/cluster/cluster up || ! loaded=$(timeout 600 k8s/cluster/cluster images go python); then
        skipped+=('rollouts on a real cluster: there is none, see above')
        k8s/cluster/cluster down || true
        return 0
    fi
    while read -r server image; do
        named+=(--image "$server=$image")
    done < <(grep -E '^[a-z/]+ drainspec/' <<<"$loaded") # the other lines say how it went on
    k8s/cluster/cluster run target/release/drainspec matrix --topology 'kubernetes/{prestop-sleep,no-prestop}' \
        --server go --server python --scenario rolling-restart --context '' "${named[@]}" \
        --repeat 2 --jobs 1 --allow-untold --out target/cluster-out
    k8s/cluster/cluster down
}

# On two quiet cores the halves take two and four minutes: one on odd days of the year, the other on even ones.
faulty_half() {
    cargo run --quiet --release --locked -- matrix --kind faulty --only-known --allow-untold \
        --shard "$((10#$(day) % 2 + 1))/2" --out target/faulty-out
}

# The day of the year. DAY_OF_YEAR=N plays again what that day has played.
day() {
    printf '%s\n' "${DAY_OF_YEAR:-$(date -u +%j)}"
}

go_checks() {
    step "$1: gofmt" is_formatted "$1"
    step "$1: vet" in_folder "$1" go vet ./...
    step "$1: staticcheck" in_folder "$1" "$PWD/target/tools/staticcheck" ./...
    if has "$1" '*_test.go'; then
        step "$1: tests" in_folder "$1" go test ./...
    fi
}

python_checks() {
    step "$1: ruff" python_lint "$1"
    if has "$1" 'test_*.py'; then
        # A server with packages installs them into its own environment, and is tested in it.
        local python=python3
        if [[ -f $1/install.py ]]; then
            step "$1: packages" in_folder "$1" python3 install.py
            python=build/venv/bin/python
        fi
        step "$1: tests" in_folder "$1" "$python" -B -m unittest discover -s tests
    fi
}

# The others have no linters: they are checked with those of the reference.
node_checks() {
    local bin="$PWD/servers/node/node_modules/.bin"
    if [[ -f $1/eslint.config.js ]]; then
        step "$1: lint" in_folder "$1" npm run --silent lint
        step "$1: tests" in_folder "$1" npm test --silent
    else
        step "$1: eslint" "$bin/eslint" --config servers/node/eslint.config.js "$1"
        step "$1: prettier" "$bin/prettier" --config servers/node/.prettierrc.json --check "$1"
    fi
}

# One target folder for all Rust servers: they share most of what they are built from.
rust_checks() {
    local target="$PWD/servers/target/rust"
    step "$1: rustfmt" in_folder "$1" cargo fmt --check
    step "$1: clippy" in_folder "$1" cargo clippy --quiet --locked --all-targets --target-dir "$target" -- -D warnings
    if has "$1/tests" '*.rs'; then
        step "$1: tests" in_folder "$1" cargo test --quiet --locked --target-dir "$target"
    fi
}

# each_server FILE CHECKS: calls CHECKS with each server's folder that has FILE. None at all is a mistake.
each_server() {
    local folder folders
    folders=$(servers_with "$1")
    if [[ -z $folders ]]; then
        current="servers with a $1"
        return 1
    fi
    for folder in $folders; do
        "$2" "$folder"
    done
}

# step NAME COMMAND…: runs the command plainly, so that `set -e` holds within it too.
step() {
    local began=$SECONDS
    current=$1
    shift
    printf '\n=== %s\n' "$current"
    "$@"
    printf -- '--- %s: passed, %d s\n' "$current" $((SECONDS - began))
    passed=$((passed + 1))
    current=
}

finish() {
    local status=$?
    # However it ends: nothing is left behind.
    [[ $current != 'rollouts on a real cluster' ]] || k8s/cluster/cluster down || true
    if ((${#skipped[@]} > 0)); then
        printf '\nskipped: %s' "${skipped[@]}"
        printf '\n'
    fi
    if [[ $status == 0 && -z $current ]]; then
        printf '\nall steps in %d s\n%d passed, 0 failed\n' "$SECONDS" "$passed"
    else
        printf '\nFAILED after %d s: %s (exit status %d)\n%d passed, 1 failed\n' \
            "$SECONDS" "${current:-scripts/test.sh itself}" "$status" "$passed"
    fi
}

has() {
    [[ -n $(find "$1" -name node_modules -prune -o -name "$2" -print -quit 2>/dev/null) ]]
}

python_lint() {
    .venv/bin/ruff format --no-cache --check "$@"
    .venv/bin/ruff check --no-cache "$@"
}

is_formatted() {
    local files
    files=$(gofmt -l "$1")
    printf '%s' "${files:+not formatted, run gofmt -w: $files$'\n'}"
    [[ -z $files ]]
}

# fails COMMAND…: passes where the command ends with 1, its word for "something was lost".
fails() {
    local status=0
    "$@" || status=$?
    [[ $status == 1 ]]
}

main
