#!/usr/bin/env bash
# Trains on the nodes of a SLURM cluster.
#
#   sbatch [--nodes=4 ...] scripts/cluster/launch_slurm.sh --config configs/places.py --workdir /shared/runs/places
#
# Run it from the project's folder. Arguments after the script's name go to the training program;
# sbatch options before it override the #SBATCH lines below. Set those for your cluster:
#
#   --nodes, --gpus-per-node   config.global_batch_size (96 in places.py) must be a multiple of the
#                              total number of GPUs: 2 nodes x 8 GPUs take 6 images each.
#   --ntasks-per-node=1        One task per node drives all its GPUs. For one task per GPU use e.g.
#                              --ntasks-per-node=8 with --gpus-per-node=8 (not --gpus-per-task: each
#                              task picks its GPU by its local number), and fewer --cpus-per-task.
#   --cpus-per-task            Plan on about five cores per H200 to decode JPEGs, and
#                              pass as many workers: --config.data.num_workers=40 for 8 of them.
#   --time, --partition        As your cluster requires. A run may take longer than one job.
#
# The project's folder, its .venv (or PYTHON=...), the data and the workdir must have the same path
# on all nodes: every process writes its part of each checkpoint into the workdir.
#
# Stopping and restarting:
# - Two minutes before the time limit SLURM signals this script (--signal). Training saves and stops,
#   the job is requeued and later resumes.
# - scancel --signal=TERM JOB saves and stops; rerun the sbatch command to resume.
# - scancel JOB stops at once and loses everything since the newest checkpoint.
# - If a process dies, srun ends the others (--kill-on-bad-exit) and this script restarts all of
#   them, at most RESTARTS times. If a node dies, SLURM requeues the job (--requeue).
#SBATCH --job-name=glinpaint
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -euo pipefail

PYTHON=${PYTHON:-.venv/bin/python}
RESTARTS=${RESTARTS:-3}

if [[ -z "${SLURM_JOB_ID:-}" || "$*" != *--config* || "$*" != *--workdir* ]]; then
    echo "usage: sbatch scripts/cluster/launch_slurm.sh --config FILE --workdir SHARED_FOLDER ..." >&2
    exit 1
fi

# jax gives each SLURM task one GPU, the one with its local number. A single task takes all of them.
if [ "${SLURM_NTASKS_PER_NODE:-1}" -eq 1 ] && [ "${SLURM_GPUS_ON_NODE:-0}" -gt 0 ]; then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
    export JAX_LOCAL_DEVICE_IDS
fi

time_is_up=
# Given a job, not a step, scancel signals the processes of all its steps but not this script.
trap 'time_is_up=yes; scancel --signal=TERM "$SLURM_JOB_ID" || true' USR1

for ((restart = 0; restart <= RESTARTS; restart++)); do
    echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((restart + 1)): $*"
    srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        "$PYTHON" -m glinpaint_jax.main --distributed "$@" &
    # The trap interrupts `wait`; wait again until srun has ended.
    while wait $!; status=$?; kill -0 $! 2> /dev/null; do :; done
    if [ -n "$time_is_up" ]; then
        echo "the time limit is near; requeueing job $SLURM_JOB_ID"
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    [ "$status" -eq 0 ] && exit 0
    echo "the training program ended with status $status"
    sleep 5
    [ -z "$time_is_up" ] || exec scontrol requeue "$SLURM_JOB_ID" # signalled during sleep
done
echo "error: training failed $((RESTARTS + 1)) times; see the lines above" >&2
exit 1
