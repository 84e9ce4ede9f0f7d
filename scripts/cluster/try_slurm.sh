#!/usr/bin/env bash
# Tests launch_slurm.sh on a real SLURM: a one-machine cluster running two tasks on its CPU. Needs
# root; installs Debian's slurm-wlm and munge if missing. Everything else is in a temporary folder
# and is removed when this script ends.
#
#   sudo bash scripts/cluster/try_slurm.sh        [PYTHON=... with glinpaint_jax installed]
#
# 1. A short run finishes.
# 2. A long run is stopped by scancel --signal=TERM and saves.
# 3. Rerun, it resumes; a process is killed, and all restart.
# 4. Rerun with a time limit, it saves before the limit, is requeued and resumes.
set -euo pipefail
cd "$(dirname "$0")/../.."

export PYTHON=${PYTHON:-$PWD/.venv/bin/python}
NODE=localhost
CONTROLLER_PORT=${CONTROLLER_PORT:-16817} # and the one after it

[ "$(id -u)" -eq 0 ] || {
    echo "error: SLURM's daemons need root; run: sudo bash scripts/cluster/try_slurm.sh" >&2
    exit 1
}
"$PYTHON" -c 'import jax' || {
    echo "error: $PYTHON cannot import jax; bash scripts/demo.sh makes .venv, or set PYTHON=..." >&2
    exit 1
}
if ! command -v slurmctld munged > /dev/null; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends slurm-wlm munge
fi

folder=$(mktemp -d /tmp/try_slurm.XXXXXX)
export SLURM_CONF=$folder/slurm.conf
daemons=()
end() {
    scancel --quiet --user=root 2> /dev/null || true
    sleep 2
    for pid in "${daemons[@]}"; do kill "$pid" 2> /dev/null || true; done
    wait
    rm -rf "$folder"
}
trap end EXIT

mkdir -p "$folder"/{state,spool,log}
chmod 755 "$folder"
dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
chmod 600 "$folder/munge.key"
# One node with two CPUs, whatever the machine has. No cgroups, so that it works in containers.
cat > "$SLURM_CONF" <<CONF
ClusterName=try
SlurmctldHost=$NODE
SlurmUser=root
SlurmctldPort=$CONTROLLER_PORT
SlurmdPort=$((CONTROLLER_PORT + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=30
ReturnToService=2
NodeName=$NODE NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=$NODE Default=YES MaxTime=INFINITE State=UP
CONF
# Slurm accepts `disabled` since 23.02.
if [ "$(sbatch --version | cut -d' ' -f2 | cut -d. -f1)" -ge 23 ]; then
    echo "CgroupPlugin=disabled" > "$folder/cgroup.conf"
fi

munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/log/munged" --seed-file="$folder/seed" \
    &> /dev/null &
daemons+=($!)
sleep 1
slurmctld -D -i &> /dev/null &
daemons+=($!)
slurmd -D -N "$NODE" &> /dev/null &
daemons+=($!)

for ((i = 0; ; i++)); do
    [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ] && break
    [ "$i" -lt 30 ] || {
        echo "error: SLURM did not start; its logs:" >&2
        tail -n 20 "$folder"/log/* >&2
        exit 1
    }
    sleep 1
done
echo "== $(sbatch --version), $(sinfo --noheader --format='%D node, %c CPUs, %T')"

export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1
workdir=$folder/run
submit() {
    sbatch --parsable --nodes=1 --ntasks-per-node=2 --gpus-per-node=0 --cpus-per-task=1 \
        --output="$folder/$1.log" "${@:3}" scripts/cluster/launch_slurm.sh --config configs/demo.py \
        --workdir "$workdir" --config.num_steps="$2" --config.global_batch_size=4 \
        --config.model.width=4 --config.data.eval_images=4 --config.log_every=20 \
        --config.eval_every=100000 --config.checkpoint_every=100 \
        --config.optimizer.schedule=constant --config.phases.completion_end=200000 \
        --config.phases.discriminator_end=200000
}
newest() { find "$workdir/checkpoints" -maxdepth 1 -name '[0-9]*' -printf '%f\n' | grep -v tmp | sort -n | tail -n 1; }
saved_after() { [ "$(newest)" -gt "$1" ]; }
ended() { [ -z "$(squeue --noheader --job="$1" 2> /dev/null)" ]; }
said() { grep -q "$2" "$folder/$1.log" 2> /dev/null; }
wait_until() {
    for ((i = 0; i < 300; i++)); do
        if "$@"; then return; fi
        sleep 1
    done
    echo "error: timed out after 5 minutes waiting for: $*" >&2
    tail -n 30 "$folder"/*.log "$folder"/log/* >&2
    exit 1
}
show() {
    echo "-- its log:"
    grep -v '^    @' "$folder/$1.log" | cut -c 1-200
}

echo "== 1. a short run"
job=$(submit short 60)
wait_until ended "$job"
show short

echo "== 2. a long run, stopped by scancel --signal=TERM"
job=$(submit stopped 100000)
wait_until saved_after 100
scancel --signal=TERM "$job"
wait_until ended "$job"
show stopped

echo "== 3. rerun: it resumes; one process is killed and all restart"
step=$(newest)
job=$(submit killed 100000)
wait_until saved_after "$step"
kill -9 "$(scontrol listpids "$job.0" | awk '$4 == 1 {print $1; exit}')"
wait_until said killed "start 2"
step=$(newest)
wait_until saved_after "$step"
scancel --signal=TERM "$job"
wait_until ended "$job"
show killed

# SLURM checks its clock once a minute, so the signal may come a minute early.
echo "== 4. rerun with a time limit of 3 minutes and a signal 1 to 2 minutes before it"
step=$(newest)
job=$(submit limited 100000 --time=3 --signal=B:USR1@60)
wait_until said limited "requeueing job"
step=$(newest)
wait_until saved_after "$step"
scancel "$job"
wait_until ended "$job"
show limited
echo "== all four passed"
