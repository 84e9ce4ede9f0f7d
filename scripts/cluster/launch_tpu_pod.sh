#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice (a "pod"), with one process per host.
#
#   bash scripts/cluster/launch_tpu_pod.sh ACTION
#
#   create         requests the slice and waits until it is ready
#   wait           keeps waiting, if `create` was interrupted
#   install        installs the committed project on all hosts
#   mount BUCKET   mounts the bucket of the data on all hosts, in /mnt/BUCKET, read-only
#   start --config places --workdir gs://BUCKET/runs/places \
#         --config.data.source='array_record:/mnt/BUCKET/places/*.array_record'
#   logs           follows the first host's log
#   stop           saves and stops; `start` resumes
#   each COMMAND   runs a command on all hosts
#   delete         deletes the slice, which ends its costs
#
# Run it from the project's folder, logged in to gcloud. First set the variables below, here or in
# the environment. Arguments after `start` go to the training program.
#
# The slice is a queued resource: Google grants it when chips are free, which may take hours.
#
# All hosts need the same data and workdir, but share no disk. Keep both in buckets in the slice's
# region. The hosts' service account (by default that of Compute Engine) needs
# roles/storage.objectUser on them. Store the data as shards (`prepare` in docs/data.md): a request
# for each photograph would be slow. Run `mount` again if a host has rebooted.
# config.global_batch_size (96 in places.py) must be a multiple of the number of chips.
#
# If one host dies, the others stop within a minute. Every host restarts its process, at most
# RESTARTS times, and together they resume. SPOT=yes uses cheaper chips that Google may reclaim,
# losing everything since the newest checkpoint (lower --config.checkpoint_every); then run
# `delete`, `create`, `install`, `mount` and `start` to resume.
#
# Not yet run on a TPU.
set -euo pipefail

TPU=${TPU:-glinpaint}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-16} # 4 hosts of 4 chips, as v6e-16, which needs a ZONE such as us-east5-b
case $TYPE in              # the hosts' operating system
v5litepod-*) IMAGE=${IMAGE:-v2-alpha-tpuv5-lite} ;;
v5p-*) IMAGE=${IMAGE:-v2-alpha-tpuv5} ;;
v6e-*) IMAGE=${IMAGE:-v2-alpha-tpuv6e} ;;
*) IMAGE=${IMAGE:-tpu-ubuntu2204-base} ;; # v4 and older
esac
PYTHON=${PYTHON:-python3.11} # on the hosts; `install` gets it from Ubuntu if missing
SPOT=${SPOT:-}               # yes for preemptible chips
RESTARTS=${RESTARTS:-3}

usage() {
    sed -n '4,16s/^# \{0,3\}//p' "$0" >&2
    exit 1
}

# Runs a command on all hosts.
each() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

wait_until_active() {
    local state previous=
    while state=$(gcloud compute tpus queued-resources describe "$TPU" --zone="$ZONE" \
        --format='value(state.state)'); do
        [ "$state" = "$previous" ] || echo "$(date +%T) $TPU: $state"
        previous=$state
        case $state in
        ACTIVE) return ;;
        FAILED | SUSPEND*)
            echo "error: Google does not grant $TPU; see: gcloud compute tpus queued-resources" \
                "describe $TPU --zone=$ZONE; then run \`delete\`" >&2
            exit 1
            ;;
        esac
        sleep 30
    done
    exit 1
}

[ $# -gt 0 ] || usage
action=$1
shift
case $action in
create)
    gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --zone="$ZONE" \
        --accelerator-type="$TYPE" --runtime-version="$IMAGE" ${SPOT:+--spot}
    wait_until_active
    ;;
wait)
    wait_until_active
    ;;
install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$TPU:glinpaint.tar.gz" --zone="$ZONE" --worker=all
    each "set -e
        command -v $PYTHON && $PYTHON -m venv --help > /dev/null ||
            { sudo apt-get update; sudo apt-get install -y $PYTHON $PYTHON-venv; }
        mkdir -p glinpaint && tar -xzf glinpaint.tar.gz -C glinpaint && cd glinpaint
        $PYTHON -m venv .venv && .venv/bin/python -m pip install --quiet --editable '.[tpu,gcs]'"
    ;;
mount)
    bucket=${1:-}
    bucket=${bucket#gs://}
    [[ $# -eq 1 && $bucket =~ ^[a-z0-9][a-z0-9._-]+$ ]] || usage
    packages=https://packages.cloud.google.com/apt # as gcsfuse's documentation installs it
    key=/usr/share/keyrings/cloud.google.asc
    each "set -e
        if ! command -v gcsfuse > /dev/null; then
            sudo curl -fsS -o $key $packages/doc/apt-key.gpg
            echo \"deb [signed-by=$key] $packages gcsfuse-\$(lsb_release -cs) main\" |
                sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
            sudo apt-get update
            sudo apt-get install -y gcsfuse
        fi
        if ! mountpoint -q /mnt/$bucket; then
            sudo install -d -o \$(id -u) /mnt/$bucket
            gcsfuse --implicit-dirs -o ro $bucket /mnt/$bucket
        fi"
    echo "mounted on all hosts: /mnt/$bucket"
    ;;
start)
    [[ "$*" == *--config* && "$*" == *--workdir* ]] || usage
    arguments=$(printf ' %q' "$@")
    # Status 0: finished, or stopped by `stop`. Otherwise all processes have failed: restart.
    loop="for ((i = 0; i <= $RESTARTS; i++)); do
            .venv/bin/python -m glinpaint_jax.main --distributed$arguments && break
            sleep 10
        done"
    # setsid: training outlives the connection, and `stop` can signal the whole process group.
    each "cd glinpaint || exit
        if kill -0 -- -\$(cat train.pid 2> /dev/null) 2> /dev/null; then
            echo 'error: already running; stop it first' >&2
            exit 1
        fi
        setsid bash -c $(printf '%q' "$loop") > train.log 2>&1 < /dev/null & echo \$! > train.pid"
    echo "started on all hosts; follow with: bash scripts/cluster/launch_tpu_pod.sh logs"
    ;;
logs)
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 \
        --command="tail -n 40 -F glinpaint/train.log"
    ;;
stop)
    # Also ends the restart loop. Training exits once it has saved; see `logs`.
    each "kill -TERM -- -\$(cat glinpaint/train.pid) || echo 'not running'"
    ;;
each)
    [ $# -eq 1 ] || usage
    each "$1"
    ;;
delete)
    # --force: with its slice
    gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force
    ;;
*)
    usage
    ;;
esac
