#!/usr/bin/env bash
# The classic test of a graceful shutdown, in shell: one slow request, one SIGTERM, three questions.
#
#   scripts/shutdown-test.sh go              a server of this checkout, by its folder below servers/
#   scripts/shutdown-test.sh naive/go
#   scripts/shutdown-test.sh -- ./my-server  any command whose first line on standard output is like
#                                            {"event":"listening","port":8080}
#
# SLOW is the path to ask for (default /slow?delay=2). Ends with 0 when nothing was lost, with 1 when something
# was, with 2 when the test could not be made. It shows how such a test works and where it ends: it tries one
# moment of one run. `drainspec matrix` tries the others.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
slow=${SLOW:-/slow?delay=2}
export PORT="${PORT:-0}" ADMIN_PORT="${ADMIN_PORT:-0}"
pid='' watchdog='' tmp=$(mktemp -d)
trap 'stop_group "$pid"; stop_group "$watchdog"; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

# shellcheck disable=SC2317,SC2329 # the trap calls it
stop_group() {
    [[ -z $1 ]] || kill -KILL -- "-$1" 2>/dev/null || true
}

give_up() {
    printf 'shutdown-test: %s\n' "$1" >&2
    exit 2
}

# The lists `build` and `run` of a server.toml, as commands for this shell.
commands() {
    python3 - "$1" <<'PYTHON'
import shlex, sys, tomllib
spec = tomllib.load(open(sys.argv[1], "rb"))
builds = [shlex.join(command) + " >&2" for command in spec.get("build", [])]
print(" && ".join([*builds, "command=(" + shlex.join(spec["run"]) + ")"]))
PYTHON
}

if [[ ${1:-} == -- && $# -gt 1 ]]; then
    command=("${@:2}")
elif [[ $# == 1 && -f $root/servers/$1/server.toml ]]; then
    cd "$root/servers/$1"
    script=$(commands server.toml) || give_up "servers/$1/server.toml could not be read"
    eval "$script" || give_up "$1 could not be built"
else
    give_up "no such server: ${1:-(none)}; usage: scripts/shutdown-test.sh go | naive/go | … | -- COMMAND…"
fi

# Start it and wait for its first line.
mkfifo "$tmp/stdout" "$tmp/trace"
set -m # in a process group of its own
"${command[@]}" >"$tmp/stdout" &
pid=$!
set +m
exec 3<"$tmp/stdout"
IFS= read -r -t 30 line <&3 || give_up 'the server printed nothing'
port=$(sed -n 's/.*"event": *"listening".*"port": *\([0-9]*\).*/\1/p' <<<"$line")
[[ -n $port ]] || give_up "the first line is not \`listening\` with a port: $line"
cat <&3 >"$tmp/log" &
url=http://127.0.0.1:$port

# A slow request in the background. It has been sent when curl shows the empty line that ends its head; the
# moment after that is for the server to read it.
curl --silent --verbose --fail --max-time 60 --output /dev/null "$url$slow" 2>"$tmp/trace" &
request=$!
exec 4<"$tmp/trace"
sent=no
while [[ $sent == no ]] && IFS= read -r -t 10 line <&4; do
    [[ ! $line =~ ^'> '?[[:space:]]*$ ]] || sent=yes
done
[[ $sent == yes ]] || give_up "the request for $slow could not be sent"
cat <&4 >>"$tmp/log" &
sleep 0.2
kill -0 "$request" 2>/dev/null || give_up "the request for $slow ended before the signal: SLOW must name a slower path"

# The signal; then, as long as the request lasts, new connections until one is refused.
kill -TERM "$pid"
refused=no
while [[ $refused == no ]] && kill -0 "$request" 2>/dev/null; do
    status=0
    curl --silent --output /dev/null --max-time 5 "$url/" || status=$?
    [[ $status != 7 ]] || refused=yes # 7: could not connect
done
response=0
wait "$request" || response=$?

# The end, or its absence.
set -m
(sleep 30 && kill -KILL "$pid") 2>/dev/null &
watchdog=$!
set +m
disown "$watchdog"
exited=0
wait "$pid" 2>/dev/null || exited=$?

lost=0
if [[ $response == 0 ]]; then
    echo "request in flight   answered whole"
else
    echo "request in flight   LOST (curl: exit status $response)"
    lost=1
fi
echo "new connections     refused meanwhile: $refused"
case $exited in
0) echo "exit status         0" ;;
143) echo "exit status         ended by SIGTERM" ;;
137) echo "exit status         none: still running 30 s later, killed" && lost=1 ;;
*) echo "exit status         $exited: the server itself says that something went wrong" && lost=1 ;;
esac
exit "$lost"
