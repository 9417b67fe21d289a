#!/usr/bin/env bash
# Pretraining on one node: one process, all its GPUs.
#
#   launch/gpu_node/pretrain.sh --config bert_large --data.dataset /data/wiki --workdir /data/run --mesh.fsdp 8
#
# Everything goes to `bert-jax pretrain`; by default all GPUs share the batch (--mesh.data -1). After a crash
# it is started again and goes on from its newest checkpoint. Ctrl-C or SIGTERM stops it with a checkpoint,
# and the same command goes on. To leave it running behind a closed terminal, with a log:
#
#   nohup setsid launch/gpu_node/pretrain.sh --config bert_large --workdir /data/run \
#       --data.dataset /data/wiki >>run.log 2>&1 &
#
# Environment:
#   BERT_JAX              the program; default .venv/bin/bert-jax of this clone, else bert-jax
#   CUDA_VISIBLE_DEVICES  the GPUs to use, e.g. 0,1,2,3; default all
#   MAX_RESTARTS          crashes in a row that are forgiven, default 5
#   XLA_PYTHON_CLIENT_MEM_FRACTION, XLA_FLAGS, JAX_PLATFORMS   are left as they are when they are set
#   DRY_RUN=1             print the environment and the command, run nothing

set -euo pipefail

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }
fail() {
  printf 'pretrain.sh: %s\n' "$1" >&2
  exit 2
}

[[ ${1:-} != --help && ${1:-} != -h ]] || { usage && exit 0; }
[[ " $*" == *' --workdir'* ]] || fail "no --workdir; see --help"
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${BERT_JAX:-$launch/../.venv/bin/bert-jax}
[[ -n ${BERT_JAX:-} || -x $program ]] || program=bert-jax
command -v "$program" >/dev/null || fail "$program: no such program; install with pip install -e '.[cuda]', or set BERT_JAX"

# Without a usable GPU, JAX would go on with the CPU.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} PYTHONUNBUFFERED=1
# Three quarters is JAX's default; the rest of a GPU that nothing else uses would lie idle.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
# Collectives beside computation; off by default in XLA, on in NVIDIA's JAX images.
export XLA_FLAGS=${XLA_FLAGS---xla_gpu_enable_latency_hiding_scheduler=true}

command=(
  "$launch/supervise.sh" --max-restarts "${MAX_RESTARTS:-5}" --
  "$program" pretrain "$@" --cluster.kind none
)
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%s=%q\n' JAX_PLATFORMS "$JAX_PLATFORMS" XLA_FLAGS "$XLA_FLAGS" \
    XLA_PYTHON_CLIENT_MEM_FRACTION "$XLA_PYTHON_CLIENT_MEM_FRACTION"
  printf '%q ' "${command[@]}" && printf '\n'
  exit 0
fi
exec "${command[@]}"
