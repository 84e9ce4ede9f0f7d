#!/usr/bin/env bash
# Measures one GPU or TPU, trains on it, and writes a report: see docs/benchmarks.md.
#   bash scripts/benchmarks/accelerator.sh [--minutes 15] [--train DIR] [--output DIR] [--wheels DIR]
#   bash scripts/benchmarks/accelerator.sh --rehearse     # tries everything on a CPU, tiny
#
# Uses .venv if there is one, else python3, or $PYTHON. Linux only; needs no network.
set -uo pipefail
fail() { echo "error: $1" >&2; exit 2; }
minutes=15 train=photos output=runs/accelerator wheels='' rehearse='' pace=1
while [ $# -gt 0 ]; do
    case $1 in
        --rehearse) rehearse=--rehearse pace=10 ;;  # a CPU gets ten times as long
        --train) train=folder:$(realpath -e "${2:?}") || exit 2; shift ;;
        --wheels) wheels=$(realpath -e "${2:?}") || exit 2; shift ;;
        --minutes | --output) declare "${1#--}=${2:?}"; shift ;;
        *) fail "unknown option $1" ;;
    esac
    shift
done
mkdir -p "$output" && output=$(realpath "$output") && scratch=$(mktemp -d) || exit 2
[ -z "$(ls -A "$output")" ] || fail "--output $output is not empty; choose another folder"
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
cd "$(dirname "$0")/../.." || exit 2
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=$PWD:$scratch/packages JAX_COMPILATION_CACHE_DIR=$scratch/cache
[ -z "$wheels" ] || "$python" -m pip install -q --no-index --no-deps \
    --target "$scratch/packages" "$wheels"/*.whl || fail "pip could not install the wheels"
note='docs/benchmarks.md explains the parts.'
size=full side=256 width=64 batch=48 steps=1000000 save=500 workers=8
if [ -n "$rehearse" ]; then
    note='**A rehearsal on a CPU, with tiny sizes: the numbers mean nothing.**'
    size=small side=64 width=8 batch=4 steps=4 save=2 workers=2
    export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES='' JAX_DISABLE_MOST_OPTIMIZATIONS=1
fi
printf '# Accelerator report, %s\n\n%s\n' "$(date '+%F %H:%M')" "$note" >"$output/report.md"

# part NAME SECONDS ARGUMENTS...: runs python; its output is the report. Two minutes remain to save.
part() {
    local began=$SECONDS seconds=$(($2 * pace)) left=$((60 * (minutes - 2) * pace - SECONDS))
    [ "$seconds" -le "$left" ] || seconds=$((left > 1 ? left : 1))
    echo "$(date +%T) $1, at most $seconds seconds"
    printf '\n## %s\n\n```\n' "$1" >>"$output/report.md"
    timeout -k 60 "$seconds" "$python" -u "${@:3}" >>"$output/report.md" 2>>"$output/log.txt" &
    wait $!
    local status=$? how=finished
    kill -KILL -- -$! 2>/dev/null  # what it left running
    [ $status -eq 0 ] || how="failed ($(tail -n 1 "$output/log.txt"))"
    [ $status -ne 124 ] || how='stopped at its time limit'
    printf '```\n' >>"$output/report.md"
    printf '\n%s after %d seconds\n' "$how" $((SECONDS - began)) | tee -a "$output/report.md"
    return $status
}
measure() { part "$1" "$2" scripts/benchmarks/accelerator_parts.py "$1" "$scratch" $rehearse; }

measure device 30 || exit 1
measure convolutions 120  # This and the next two decide how to write the model.
measure jax_steps 85
measure torch_steps 65
part parity 100 scripts/benchmarks/parity.py --size $size
measure profile 45
cp "$scratch"/trace/plugins/profile/*/*.trace.json.gz "$output/trace.json.gz"
part input_pipeline 40 scripts/benchmarks/input_pipeline.py --workers $workers
part completion 40 scripts/benchmarks/completion.py --case regions 4000 6000
publish() {  # the newest pictures and generator
    JAX_PLATFORMS=cpu timeout 60 "$python" scripts/benchmarks/accelerator_parts.py export "$scratch"
    cp "$(ls -v "$scratch"/run/samples/*.png | tail -n 1)" "$output/samples.png"
    cp "$scratch/generator.safetensors" "$output"
}
while sleep 60; do publish; done >>"$output/log.txt" 2>&1 &
flags=(
    num_steps=$steps phases.completion_end=$steps phases.discriminator_end=$steps
    global_batch_size=$batch image_size=$side data.crop_size=$((2 * side)) model.width=$width
    mask.max_size=$((side / 2)) mask.max_delta=$((side / 3)) mask.margin=$((side / 16))
    data.source="$train" data.eval_source= data.eval_images=$batch data.num_workers=$workers
    eval_every=$save checkpoint_every=$save precision=bfloat16 optimizer.learning_rate=2e-3
)
part train 100000 -m glinpaint_jax.main --config configs/small_start.py \
    --workdir "$scratch/run" "${flags[@]/#/--config.}"
kill %%
grep -a '^step.*eval/' "$output/log.txt" | sed 's/^/    /' >>"$output/report.md"
{ echo; publish; } >>"$output/report.md" 2>>"$output/log.txt"
printf '\n![masked, completed, original](samples.png)\n' >>"$output/report.md"
