#!/usr/bin/env bash
# "Copy this file" is true: each `lifecycle`, alone in an empty folder, is a program part that compiles. It needs the
# standard library and nothing else; in Rust also tokio, as the server has it.
# shellcheck disable=SC2329 # the functions are called by names that are put together
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# Without the folders where packages are installed (-S), whatever this machine has there.
alone_python() {
    cp "$root/servers/python/lifecycle.py" .
    python3 -I -S -B -c 'import sys; sys.path.insert(0, "."); import lifecycle; lifecycle.Lifecycle'
}

# The ending says what its package.json would: that it is a module.
alone_node() {
    cp "$root/servers/node/lifecycle.js" lifecycle.mjs
    node --input-type=module --eval 'const { Lifecycle } = await import(process.argv[1]); new Object(Lifecycle.prototype)' \
        "$PWD/lifecycle.mjs"
}

# A package main is not complete without the function of that name.
alone_go() {
    cp "$root/servers/go/lifecycle.go" .
    printf 'module alone\n\n' >go.mod
    grep '^go ' "$root/servers/go/go.mod" >>go.mod
    printf 'package main\n\nfunc main() {}\n' >main.go
    GOPROXY=off GOFLAGS=-mod=mod go vet .
}

# The versions are those of the server's lock, and so is the target folder: tokio is built already.
alone_rust() {
    mkdir src
    cp "$root/servers/rust/src/lifecycle.rs" src/lib.rs
    cp "$root/servers/rust/Cargo.lock" .
    printf '[package]\nname = "alone"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n[dependencies]\n' >Cargo.toml
    grep '^tokio = ' "$root/servers/rust/Cargo.toml" >>Cargo.toml
    cargo check --quiet --offline --target-dir "$root/servers/target/rust"
}

failed=0
for language in python node go rust; do
    mkdir "$tmp/$language"
    if (cd "$tmp/$language" && "alone_$language"); then
        echo "$language: lifecycle compiles alone"
    else
        echo "$language: lifecycle does not compile alone" >&2
        failed=1
    fi
done
exit "$failed"
