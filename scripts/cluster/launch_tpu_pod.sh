#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice (a "pod"): one process a host, all its chips.
#
#   bash scripts/cluster/launch_tpu_pod.sh create            makes the slice
#   bash scripts/cluster/launch_tpu_pod.sh install           copies the project to all hosts, installs it
#   bash scripts/cluster/launch_tpu_pod.sh start --config configs/places.py --workdir /mnt/shared/places ...
#   bash scripts/cluster/launch_tpu_pod.sh logs              follows the first host's lines
#   bash scripts/cluster/launch_tpu_pod.sh stop              saves and stops; `start` again resumes
#   bash scripts/cluster/launch_tpu_pod.sh delete            ends the slice, and what it costs
#
# Run it from the project's folder, with gcloud logged in. First set the variables below, here or in
# the environment. What follows `start` goes to the training program as it is.
#
# The hosts find each other by themselves; no address is needed. All of them must see the data and
# the workdir at the same place, for each writes its part of a checkpoint there. A slice has no
# shared disk of its own: before `start`, mount a Filestore (NFS) share on every host, or a bucket by
# gcsfuse for the data and a Filestore share for the workdir. For example
#   bash scripts/cluster/launch_tpu_pod.sh each 'sudo apt-get install -y nfs-common; sudo mkdir -p /mnt/shared;
#       sudo mount 10.0.0.2:/share /mnt/shared; sudo chmod 777 /mnt/shared'
# The batch (config.global_batch_size, 96 in places.py) must be a multiple of the chips.
#
# How it ends. `stop` signals all hosts: the training finishes its step, saves and exits. Where one
# host dies the others stop within a minute and say so; each host then starts its process again,
# RESTARTS times at most, and they resume together. SPOT=yes takes cheaper chips that Google may
# take back: what came after the newest checkpoint is then lost; `delete`, `create`, `install`,
# mount, `start` resume. Lower --config.checkpoint_every accordingly.
#
# Not yet run on a TPU.
set -euo pipefail

TPU=${TPU:-glinpaint}
ZONE=${ZONE:-us-central2-b}
TYPE=${TYPE:-v4-32}                # the slice; v4-32 is 4 hosts of 4 chips
IMAGE=${IMAGE:-tpu-ubuntu2204-base} # its Python must be 3.11 or newer: see PYTHON
PYTHON=${PYTHON:-python3.11}       # on the hosts; `install` takes it from Ubuntu where it is missing
SPOT=${SPOT:-}                     # yes for pre-emptible chips
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
    git archive --format=tar.gz --output="$archive" HEAD # what is committed
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
    # Status 0 is the end or a wish to stop; else the others have ended too, and all start again.
    loop="for ((i = 0; i <= $RESTARTS; i++)); do
            .venv/bin/python -m glinpaint_jax.main$arguments && break
            sleep 10
        done"
    # A session of its own outlives the connection, and is signalled as a whole.
    each "cd glinpaint || exit
        if kill -0 -- -\$(cat train.pid 2> /dev/null) 2> /dev/null; then
            echo 'error: it runs already; stop it first' >&2
            exit 1
        fi
        setsid bash -c $(printf '%q' "$loop") > train.log 2>&1 < /dev/null & echo \$! > train.pid"
    echo "started on all hosts; bash scripts/cluster/launch_tpu_pod.sh logs"
    ;;
logs)
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 \
        --command="tail -n 40 -F glinpaint/train.log"
    ;;
stop)
    # Also the loop around the program, which would start it again. The program itself ends when it
    # has saved, see `logs`.
    each "kill -TERM -- -\$(cat glinpaint/train.pid) || echo 'none runs here'"
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
