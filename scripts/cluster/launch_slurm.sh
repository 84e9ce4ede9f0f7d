#!/usr/bin/env bash
# Trains on the nodes of a SLURM cluster.
#
#   sbatch [--nodes=4 ...] scripts/cluster/launch_slurm.sh --config configs/places.py --workdir /shared/runs/places
#
# Run it from the project's folder. What follows the script's name goes to the training program as
# it is; options before it replace the #SBATCH lines below. Change those to what your cluster has:
#
#   --nodes, --gpus-per-node   The batch (config.global_batch_size, 96 in places.py) must be a
#                              multiple of all GPUs together: 2 nodes x 8 GPUs take 6 images each.
#   --ntasks-per-node=1        One task a node drives all its GPUs: one input pipeline and one
#                              connection a node. One task a GPU works too (--ntasks-per-node=8
#                              with --gpus-per-node=8, then fewer --cpus-per-task).
#   --cpus-per-task            Decoding JPEGs wants some ten cores a GPU (config.data.num_workers).
#   --time, --partition        The cluster's rules. A run may be longer than a job, see below.
#
# The project's folder, its .venv (or PYTHON=...), the data and the workdir must be at the same
# place on all nodes: all processes write their part of a checkpoint into the one workdir.
#
# How it ends. Two minutes before the time limit SLURM wakes this script (--signal), which has the
# training save and stop, and puts the job back into the queue; it resumes there. By hand:
#   scancel --signal=TERM JOB   saves and stops; the same sbatch command resumes
#   scancel JOB                 stops; what came after the newest checkpoint is lost
# Where a process dies, srun ends the others (--kill-on-bad-exit; without it they notice within a
# minute), and this script starts all of them again, RESTARTS times at most. Where a node dies,
# SLURM requeues the job (--requeue). What is wrong with the command fails each time, then for good.
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

usage="sbatch scripts/cluster/launch_slurm.sh --config FILE --workdir SHARED_FOLDER [--config.field=value ...]"
if [[ "$*" != *--config* || "$*" != *--workdir* ]]; then
    echo "usage: $usage" >&2
    exit 1
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "error: this is not a SLURM job; start it by: $usage" >&2
    exit 1
fi

time_is_up=
# Without the step's name the signal reaches all processes of all steps, and not this script.
trap 'time_is_up=yes; scancel --signal=TERM "$SLURM_JOB_ID" || true' USR1

for ((restart = 0; restart <= RESTARTS; restart++)); do
    echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((restart + 1)): $*"
    srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        "$PYTHON" -m glinpaint_jax.main "$@" &
    status=0
    wait $! || status=$?
    # A trap ends `wait` before srun has ended.
    while kill -0 $! 2>/dev/null; do
        status=0
        wait $! || status=$?
    done
    if [ -n "$time_is_up" ]; then
        echo "the time limit is near; job $SLURM_JOB_ID goes back into the queue"
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    [ "$status" -eq 0 ] && exit 0
    echo "the training program ended with status $status"
    sleep 5
    [ -z "$time_is_up" ] || exec scontrol requeue "$SLURM_JOB_ID" # the notice came meanwhile
done
echo "error: $((RESTARTS + 1)) starts have failed; the lines above say why" >&2
exit 1
