#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice (a "pod"), with one process per host.
#
#   bash scripts/cluster/launch_tpu_pod.sh create            creates the slice
#   bash scripts/cluster/launch_tpu_pod.sh install           installs the committed project on all hosts
#   bash scripts/cluster/launch_tpu_pod.sh start --config configs/places.py --workdir /mnt/shared/places ...
#   bash scripts/cluster/launch_tpu_pod.sh logs              follows the first host's log
#   bash scripts/cluster/launch_tpu_pod.sh stop              saves and stops; `start` resumes
#   bash scripts/cluster/launch_tpu_pod.sh delete            deletes the slice and ends its costs
#
# Run it from the project's folder, logged in to gcloud. First set the variables below, here or in
# the environment. Arguments after `start` go to the training program.
#
# All hosts need the data and the workdir at the same path: each writes its part of a checkpoint
# there. A slice has no shared disk, so mount a Filestore (NFS) share on every host before `start`
# (the data may also be a bucket mounted with gcsfuse):
#   bash scripts/cluster/launch_tpu_pod.sh each 'sudo apt-get install -y nfs-common; sudo mkdir -p /mnt/shared;
#       sudo mount 10.0.0.2:/share /mnt/shared; sudo chmod 777 /mnt/shared'
# config.global_batch_size (96 in places.py) must be a multiple of the number of chips.
#
# If one host dies, the others stop within a minute. Every host restarts its process, at most
# RESTARTS times, and together they resume. SPOT=yes uses cheaper chips that Google may reclaim,
# losing everything since the newest checkpoint (lower --config.checkpoint_every); then run
# `delete`, `create`, `install`, mount, and `start` to resume.
#
# Not yet run on a TPU.
set -euo pipefail

TPU=${TPU:-glinpaint}
ZONE=${ZONE:-us-central2-b}
TYPE=${TYPE:-v4-32}                # v4-32 is 4 hosts of 4 chips
IMAGE=${IMAGE:-tpu-ubuntu2204-base} # the hosts' operating system
PYTHON=${PYTHON:-python3.11}       # on the hosts, 3.11 or newer; `install` installs it from Ubuntu if missing
SPOT=${SPOT:-}                     # yes for preemptible chips
RESTARTS=${RESTARTS:-3}

usage() {
    sed -n '4,9s/^# *//p' "$0" >&2
    exit 1
}

# Runs a command on all hosts.
each() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

[ $# -gt 0 ] || usage
action=$1
shift
case $action in
create)
    gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" --accelerator-type="$TYPE" \
        --version="$IMAGE" ${SPOT:+--spot}
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
        $PYTHON -m venv .venv && .venv/bin/python -m pip install --quiet --editable '.[tpu]'"
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
    gcloud compute tpus tpu-vm delete "$TPU" --zone="$ZONE"
    ;;
*)
    usage
    ;;
esac
