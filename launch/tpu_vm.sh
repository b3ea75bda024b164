#!/usr/bin/env bash
# Runs jaxvision on a Cloud TPU VM or pod slice, by gcloud. From the root of the checkout:
#
#     launch/tpu_vm.sh create  NAME --zone=us-west4-a --type=v5litepod-16 [--spot] [--version=v2-alpha-tpuv5-lite]
#     launch/tpu_vm.sh install NAME --zone=… [--bucket=BUCKET]        # the committed files, in a fresh environment, on every worker
#     launch/tpu_vm.sh run     NAME --zone=… -- --config=configs/vit.py:s16,imagenet2012 --workdir=/mnt/jaxvision/vit
#     launch/tpu_vm.sh fetch   NAME --zone=… --bucket=BUCKET --from=vit --to=runs/vit
#     launch/tpu_vm.sh delete  NAME --zone=…
#     launch/tpu_vm.sh train   NAME …                                 # create, install and run; after a preemption all of it again
#
# BUCKET is mounted on every worker as /mnt/jaxvision. A run's workdir lies there: all workers write to it, it outlives the machines, and the same
# command goes on from the last checkpoint. Without --bucket, --workdir is a folder of a single machine, and fetch copies --from out of worker 0.
# --dry-run prints the commands instead. --project and other settings are gcloud's own (gcloud config set project …).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' launch/tpu_vm.sh >&2
    exit 2
}

wrong() {
    echo "$*; launch/tpu_vm.sh --help shows the usage" >&2
    exit 2
}

[[ ${1-} != --help && ${1-} != -h && $# -gt 0 ]] || usage
action=$1
name=${2-}
[[ $action =~ ^(create|install|run|fetch|delete|train)$ ]] || wrong "unknown action '$action'"
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || wrong "the second argument is the TPU's name (small letters, digits, hyphens), not '$name'"
shift 2

zone='' type='' version='' bucket='' from='' to='' spot='' dry=''
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --bucket=*) bucket=${1#*=} bucket=${bucket#gs://} ;;
    --from=*) from=${1#*=} ;;
    --to=*) to=${1#*=} ;;
    --spot) spot=1 ;;
    --dry-run) dry=1 ;;
    --)
        shift
        arguments=("$@")
        break
        ;;
    *) wrong "unknown option '$1'" ;;
    esac
    shift
done
[ -n "$zone" ] || wrong "--zone is missing"

# Prints a command, quoted where it must be, and runs it unless --dry-run.
call() {
    local word line=''
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
        line+="$word "
    done
    if [ -n "$dry" ]; then
        echo "${line% }"
    else
        echo "+ ${line% }" >&2
        "$@"
    fi
}

tpu() {
    local verb=$1
    shift
    call gcloud compute tpus tpu-vm "$verb" "$name" --zone="$zone" "$@"
}

on_every_worker() { tpu ssh --worker=all --command="$1"; }

create() {
    [ -n "$type" ] || wrong "--type is missing, for example --type=v5litepod-16"
    if [ -z "$version" ]; then
        case $type in
        v5litepod-*) version=v2-alpha-tpuv5-lite ;;
        v5p-*) version=v2-alpha-tpuv5 ;;
        v6e-*) version=v2-alpha-tpuv6e ;;
        v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
        *) wrong "no runtime version is known for --type=$type: give --version" ;;
        esac
    fi
    tpu create --accelerator-type="$type" --version="$version" ${spot:+--spot}
}

install() {
    local archive unpack environment
    archive=$(mktemp --suffix=.tar.gz)
    unpack='mkdir -p jaxvision && tar -xzf jaxvision.tar.gz -C jaxvision'
    # uv brings a Python of its own, as the images' is older than 3.11
    environment='curl -LsSf https://astral.sh/uv/install.sh | sh && .local/bin/uv venv --clear --python 3.12 environment'
    environment+=' && .local/bin/uv pip install --python environment/bin/python -e "jaxvision[tpu]"'
    call git archive --format=tar.gz --output="$archive" HEAD &&
        call gcloud compute tpus tpu-vm scp "$archive" "$name:jaxvision.tar.gz" --zone="$zone" --worker=all &&
        rm -f "$archive" &&
        on_every_worker "$unpack && $environment" &&
        { [ -z "$bucket" ] || on_every_worker "$(mounting)"; }
}

# Installs gcsfuse where it is absent and mounts the bucket where it is not mounted.
mounting() {
    local key=/usr/share/keyrings/cloud.google.asc site=https://packages.cloud.google.com/apt
    cat <<REMOTE
set -e
if ! command -v gcsfuse >/dev/null; then
    curl -fsSL $site/doc/apt-key.gpg | sudo tee $key >/dev/null
    echo "deb [signed-by=$key] $site gcsfuse-\$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update -qq
    sudo apt-get install -y -qq gcsfuse
fi
if ! mountpoint -q /mnt/jaxvision; then
    sudo mkdir -p /mnt/jaxvision
    sudo chown "\$USER" /mnt/jaxvision
    gcsfuse --implicit-dirs $bucket /mnt/jaxvision
fi
REMOTE
}

run() {
    [ ${#arguments[@]} -gt 0 ] || wrong "the arguments of jaxvision.main are missing: … -- --config=… --workdir=…"
    # An earlier run that lost its connection still holds the chips: it is stopped first, and saves.
    on_every_worker "$(
        cat <<REMOTE
cd jaxvision
if [ -f run.pid ]; then
    kill "\$(cat run.pid)" 2>/dev/null
    for _ in \$(seq 120); do kill -0 "\$(cat run.pid)" 2>/dev/null || break; sleep 1; done
fi
echo \$\$ > run.pid
exec ../environment/bin/python -u -m jaxvision.main --distributed ${arguments[*]@Q}
REMOTE
    )"
}

fetch() {
    [[ -n $from && -n $to ]] || wrong "fetch needs --from=FOLDER and --to=FOLDER"
    mkdir -p "$to"
    if [ -n "$bucket" ]; then
        call gcloud storage rsync --recursive "gs://$bucket/$from" "$to"
    else
        call gcloud compute tpus tpu-vm scp --recurse "$name:$from/." "$to" --zone="$zone" --worker=0
    fi
}

delete() { tpu delete --quiet; }

state() { gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format='value(state)' 2>/dev/null || echo ABSENT; }

train() {
    [ -n "$bucket" ] || wrong "train needs --bucket: what a machine holds is lost when it is preempted"
    if [ -n "$dry" ]; then
        create
        install
        run
        return
    fi
    local status
    while :; do
        case $(state) in
        READY) ;;
        ABSENT)
            if ! create || ! install; then
                sleep 60
                continue
            fi
            ;;
        CREATING | STARTING | RESTARTING | REPAIRING | DELETING)
            sleep 30
            continue
            ;;
        *) # PREEMPTED, TERMINATED, STOPPED
            delete || sleep 60
            continue
            ;;
        esac
        status=0
        run || status=$?
        [ "$status" != 0 ] || return 0
        sleep 90 # a preemption is not in the state at once
        [ "$(state)" != READY ] || return "$status"
        echo "the machine is gone: another one is asked for" >&2
    done
}

"$action"
