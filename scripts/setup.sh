#!/usr/bin/env bash
# Makes this machine ready: looks which tools are there, installs what is missing or too old, fetches packages.
#
#   ./scripts/setup.sh
#
# Debian (apt, as root or with sudo) and macOS (Homebrew). May be run again at any time: what is in order is
# left alone. On any other system it says what is missing, and fetches the packages once all is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
exec </dev/null # whatever would ask a question goes on without an answer

# Where a version is also written elsewhere (Cargo.toml, servers/*), that place is the one that is enforced.
readonly PYTHON=3.11 NODE=20 GO=1.24 RUST=1.90
readonly NGINX=1.22 HAPROXY=2.6
readonly STATICCHECK=v0.8.2 KUSTOMIZE=v5.8.1
readonly TOOLS=target/tools

unmet=() # what this script could not do, in words for people

main() {
    say 'Tools'
    need_c_compiler
    need_curl
    need_python
    need_node
    need_go
    need_rust
    need_nginx
    need_haproxy
    if ((${#unmet[@]} > 0)); then
        printf '\n%s\n' 'Not ready. What is left to do by hand, then run this script again:' >&2
        printf '\n%s\n' "${unmet[@]}" >&2
        exit 1
    fi
    say 'Packages'
    fetch_packages
    say 'Ready.'
}

# --- tools -----------------------------------------------------------------------------------------------------

need_c_compiler() {
    if command -v cc >/dev/null; then
        ok 'C linker' "$(command -v cc)"
    else
        provide 'a C linker, which cargo needs to link' gcc libc6-dev --brew '' \
            'Command line tools: xcode-select --install'
        recheck cc
    fi
}

need_curl() {
    if command -v curl >/dev/null; then
        ok curl "$(curl --version | awk 'NR == 1 { print $2 }')"
    else
        provide 'curl, the client of scripts/shutdown-test.sh' curl ca-certificates --brew curl ''
        recheck curl
    fi
}

need_python() {
    local version
    version=$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null || true)
    # ensurepip is what Debian splits off into python3-venv.
    if at_least "$version" "$PYTHON" && python3 -c 'import ensurepip, venv' 2>/dev/null; then
        ok python3 "$version"
    else
        provide "python3 >= $PYTHON with venv (${version:-none} here), for servers/python" \
            "python3>=$PYTHON" python3-venv --brew python3 \
            "Python $PYTHON or later: Debian 12 and later have it; else https://www.python.org/downloads/"
        recheck python3
    fi
}

need_node() {
    local version
    version=$(node --version 2>/dev/null | sed 's/^v//' || true)
    if at_least "$version" "$NODE" && command -v npm >/dev/null; then
        ok node "$version, npm $(npm --version)"
    else
        provide "node >= $NODE with npm (${version:-none} here), for servers/node" \
            "nodejs>=$NODE" npm --brew node \
            "Node.js $NODE or later with npm. Debian 13 has it; on Debian 12 from NodeSource:
    curl -fsSL https://deb.nodesource.com/setup_22.x | sudo -E bash - && sudo apt-get install -y nodejs"
        recheck node npm
    fi
}

need_go() {
    local version
    # Asked inside the module: from 1.21 on, go fetches the release that go.mod names from the module proxy.
    version=$(in_folder servers/go go env GOVERSION 2>/dev/null | sed 's/^go//' || true)
    if at_least "$version" "$GO"; then
        ok go "$version"
    else
        provide "go >= $GO (${version:-none} here), for servers/go" "golang-go>=1.21" --brew go \
            "Go $GO or later, or 1.21 or later, which then fetches the newer one by itself (GOTOOLCHAIN=auto).
Debian 13 has it; on Debian 12 from its backports:
    echo 'deb http://deb.debian.org/debian bookworm-backports main' | sudo tee /etc/apt/sources.list.d/backports.list
    sudo apt-get update && sudo apt-get install -y -t bookworm-backports golang-go
Anywhere: https://go.dev/dl/"
        recheck go
    fi
}

need_rust() {
    local version
    version=$(cargo --version 2>/dev/null | awk '{ print $2 }' || true)
    if at_least "$version" "$RUST" && cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1; then
        ok rust "$version, with clippy and rustfmt"
    elif command -v rustup >/dev/null; then
        say "Updating Rust by rustup: cargo >= $RUST (${version:-none} here) with clippy and rustfmt, for the harness and servers/rust"
        rustup toolchain install stable --profile minimal --component clippy --component rustfmt
        rustup default stable
    else
        provide "Rust >= $RUST with clippy and rustfmt (${version:-none} here), for the harness and servers/rust" \
            "cargo>=$RUST" "rust-clippy>=$RUST" "rustfmt>=$RUST" --brew rust \
            "Rust $RUST or later with clippy and rustfmt, by rustup:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt
    . \"\$HOME/.cargo/env\"
Debian 13 also has it in its backports:
    echo 'deb http://deb.debian.org/debian trixie-backports main' | sudo tee /etc/apt/sources.list.d/backports.list
    sudo apt-get update && sudo apt-get install -y -t trixie-backports cargo rust-clippy rustfmt"
        recheck cargo
    fi
}

need_nginx() {
    local version
    version=$(nginx -v 2>&1 | sed -n 's,^nginx version: nginx/,,p' || true)
    if at_least "$version" "$NGINX"; then
        ok nginx "$version"
    else
        provide "nginx >= $NGINX (${version:-none} here), for lb-configs; it runs only while something is tested" \
            "nginx-light>=$NGINX" --brew nginx \
            "nginx $NGINX or later: Debian 12 and later have it; else https://nginx.org/en/linux_packages.html"
        recheck nginx
        leave_stopped nginx "$version"
    fi
}

need_haproxy() {
    local version
    version=$(haproxy -v 2>/dev/null | sed -n 's,^HAProxy version \([0-9.]*\).*,\1,p' || true)
    if at_least "$version" "$HAPROXY"; then
        ok haproxy "$version"
    else
        provide "haproxy >= $HAPROXY (${version:-none} here), for lb-configs; it runs only while something is tested" \
            "haproxy>=$HAPROXY" --brew haproxy \
            "HAProxy $HAPROXY or later: Debian 12 and later have it; else https://haproxy.debian.net/"
        recheck haproxy
        leave_stopped haproxy "$version"
    fi
}

# leave_stopped SERVICE VERSION-BEFORE: Debian starts a service when it installs it, and again when the machine
# starts. Nobody asked for one here; but one that was there before is somebody's.
leave_stopped() {
    if [[ -n $2 ]] || ! command -v apt-get >/dev/null; then
        return
    elif [[ -d /run/systemd/system ]]; then
        as_root systemctl disable --quiet --now "$1"
    elif command -v service >/dev/null; then
        as_root service "$1" stop >/dev/null 2>&1 || true # it may not have been started
    fi
}

# provide WHY APT-PACKAGE[>=VERSION]… --brew FORMULA BY-HAND: says why, then installs; where the package manager
# cannot, what to do by hand is kept for the end. A package that apt has only in an older version is not
# installed at all: it would be in the way of the right one.
provide() {
    local why=$1 packages=() formula by_hand package version
    shift
    while [[ $1 != --brew ]]; do
        packages+=("$1")
        shift
    done
    formula=$2 by_hand=$3
    printf '  missing   %s\n' "$why"
    if command -v apt-get >/dev/null && as_root true; then
        refresh_apt
        local names=()
        for package in "${packages[@]}"; do
            version=
            [[ $package != *'>='* ]] || version=${package#*>=}
            package=${package%%>=*}
            if ! apt_has "$package" "$version"; then
                printf '  by hand   apt has no %s%s\n' "$package" "${version:+ >= $version}"
                unmet+=("$by_hand")
                return
            fi
            names+=("$package")
        done
        printf '  install   apt-get install %s\n' "${names[*]}"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${names[@]}"
    elif command -v brew >/dev/null && [[ -n $formula ]]; then
        printf '  install   brew install %s\n' "$formula"
        brew install "$formula" || brew upgrade "$formula"
    else
        unmet+=("${by_hand:-$why}")
    fi
}

# Whether apt offers a package, in this version or a later one.
apt_has() {
    local candidate
    candidate=$(apt-cache policy "$1" | awk '$1 == "Candidate:" { print $2 }')
    candidate=${candidate#*:} # without the epoch
    [[ -n $candidate && $candidate != '(none)' ]] && { [[ -z $2 ]] || at_least "$candidate" "$2"; }
}

refresh_apt() {
    if [[ -z ${apt_is_fresh:-} ]]; then
        printf '  install   apt-get update\n'
        as_root apt-get update -q
        apt_is_fresh=yes
    fi
}

as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@" # may ask for a password, where there is a terminal
    else
        return 1
    fi
}

# After an installation: what was to be installed must be found now.
recheck() {
    local tool
    for tool in "$@"; do
        if ((${#unmet[@]} == 0)) && ! command -v "$tool" >/dev/null; then
            unmet+=("$tool was installed but is not in PATH ($PATH)")
        fi
    done
}

# at_least HAVE WANT, compared number by number: 1.9 is less than 1.10.
at_least() {
    [[ -n $1 ]] && awk -v have="$1" -v want="$2" 'BEGIN {
        split(have, h, /[^0-9]+/); n = split(want, w, /[^0-9]+/)
        for (i = 1; i <= n; i++) if (h[i] + 0 != w[i] + 0) exit !(h[i] + 0 > w[i] + 0)
    }'
}

# --- packages --------------------------------------------------------------------------------------------------

fetch_packages() {
    local folder
    fetch 'cargo, for the harness' cargo fetch --quiet --locked
    while read -r folder; do
        fetch "cargo, for $folder" in_folder "$folder" cargo fetch --quiet --locked
    done < <(servers_with Cargo.toml)
    while read -r folder; do
        fetch "go, for $folder" in_folder "$folder" go mod download
    done < <(servers_with go.mod)
    fetch "staticcheck $STATICCHECK, the linter of the Go servers" \
        go_tool staticcheck "$STATICCHECK" honnef.co/go/tools/cmd/staticcheck
    fetch "kustomize $KUSTOMIZE, which builds k8s" manifest_builder
    while read -r folder; do
        fetch "npm, for $folder" npm_packages "$folder"
    done < <(servers_with package-lock.json)
    fetch 'pip, into .venv: what checks the Python servers, these scripts, lb-configs, k8s and Dockerfiles' python_linters
}

# go_tool NAME VERSION PACKAGE: as target/tools/NAME.
go_tool() {
    local built="$TOOLS/$1-$2"
    if [[ ! -x $built ]]; then
        GOBIN="$PWD/$TOOLS/new" go install "$3@$2"
        mv "$TOOLS/new/$1" "$built"
    fi
    ln -sf "${built##*/}" "$TOOLS/$1"
}

# One that is in PATH already will do, if it is of the version that kubectl has, too: 5.
manifest_builder() {
    local there
    there=$(command -v kustomize || true)
    if [[ -n $there ]] && at_least "$(kustomize version | sed 's/^v//')" 5; then
        mkdir -p "$TOOLS"
        ln -sf "$there" "$TOOLS/kustomize"
    else
        go_tool kustomize "$KUSTOMIZE" sigs.k8s.io/kustomize/kustomize/v5
    fi
}

# npm ci removes and fetches everything: only where the lock file is newer than what npm installed last.
npm_packages() {
    [[ $1/node_modules/.package-lock.json -nt $1/package-lock.json ]] && return
    in_folder "$1" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
}

python_linters() {
    local wanted installed=.venv/requirements.sum
    wanted=$(cat servers/python/requirements-dev.txt scripts/requirements-dev.txt | cksum)
    [[ -x .venv/bin/python && -f $installed && $(<"$installed") == "$wanted" ]] && return
    python3 -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        -r servers/python/requirements-dev.txt -r scripts/requirements-dev.txt
    printf '%s\n' "$wanted" >"$installed"
}

fetch() {
    printf '  fetch     %s\n' "$1"
    shift
    "$@" </dev/null # and not the list that the caller is reading
}

# --- words -----------------------------------------------------------------------------------------------------

say() {
    printf '%s\n' "$1"
}

ok() {
    printf '  ok        %-8s  %s\n' "$1" "$2"
}

main
