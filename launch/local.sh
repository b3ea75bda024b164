#!/usr/bin/env bash
# Runs N processes of jaxvision.main on this machine, joined by jax.distributed:
#
#     launch/local.sh 2 --config=configs/vit.py:digits --workdir=runs/digits
#
# Lines are prefixed with the number of their process. SIGTERM and SIGINT go to all of them. When one fails the others are ended (killed after
# 15 s), and the exit code is that of the first failure. PYTHON names the interpreter (default: python). Needs bash 5.1.
set -uo pipefail

if [[ ! ${1-} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh N [arguments of python -m jaxvision.main]; N is the number of processes" >&2
    exit 2
fi
count=$1
shift

port=0
until [ "$port" != 0 ] && ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    port=$((20000 + RANDOM % 12000)) # below the ports that outgoing connections take
done

pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT
set -m # every process gets a group of its own, so that its children can be ended with it
pids=()
signal_all() { # to the processes alone: their own children are theirs to end
    local pid
    for pid in ${pids[@]+"${pids[@]}"}; do
        kill -s "$1" "$pid" 2>/dev/null
    done
}
kill_groups() {
    local pid
    for pid in "$@"; do
        kill -s KILL -- "-$pid" 2>/dev/null
    done
}
stopping=
trap 'stopping=1; signal_all TERM' TERM
trap 'stopping=1; signal_all INT' INT

printers=()
for ((i = 0; i < count; i++)); do
    mkfifo "$pipes/$i"
    sed -u "s/^/[$i] /" <"$pipes/$i" &
    printers+=($!)
    "${PYTHON:-python}" -m jaxvision.main "--coordinator=127.0.0.1:$port" "--process_index=$i" "--process_count=$count" "$@" \
        >"$pipes/$i" 2>&1 </dev/null &
    pids+=($!)
done

status=0
killer=
while [ ${#pids[@]} -gt 0 ]; do
    wait -n -p ended "${pids[@]}"
    code=$?
    [ -n "${ended-}" ] || continue # a signal came while waiting
    kill_groups "$ended"           # what it has left behind
    left=()
    for pid in "${pids[@]}"; do
        [ "$pid" = "$ended" ] || left+=("$pid")
    done
    pids=(${left[@]+"${left[@]}"})
    if [ "$code" != 0 ] && [ "$status" = 0 ]; then
        status=$code
        if [ -z "$stopping" ] && [ ${#pids[@]} -gt 0 ]; then
            signal_all TERM
            (sleep 15 && kill_groups "${pids[@]}") &
            killer=$!
        fi
    fi
done
[ -z "$killer" ] || kill -- "-$killer" 2>/dev/null
wait "${printers[@]}"
exit "$status"
