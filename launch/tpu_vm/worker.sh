#!/usr/bin/env bash
# What `tpu.sh` does on every worker of a TPU VM. It copies this file there and calls it.
#
#   worker.sh install SOURCE        a virtual environment with bert_jax[tpu] from a wheel or git+URL@COMMIT
#   worker.sh mount BUCKET DIR      the bucket at DIR, by Cloud Storage FUSE
#   worker.sh start [--stage FROM TO] -- ARGUMENT ...
#                                   `bert-jax ARGUMENT ...` in the background, restarted after a crash
#   worker.sh status                running, finished, stopped or failed
#   worker.sh logs                  the last 50 lines, then what follows
#   worker.sh watch                 'stop' when Google announces maintenance of this machine; 'start' does this
#   worker.sh stop                  SIGTERM, so that a checkpoint is written; waits up to 10 minutes
#
# Everything it keeps lies in ~/bert-jax: venv, log, status.

set -euo pipefail

root=$HOME/bert-jax
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The images of TPU VMs have Python 3.10; bert_jax needs 3.11 or newer, which uv brings.
python=3.12 uv='uv>=0.9,<0.14'
# All hosts get the newest packages that setup.cfg allows and PyPI had on this day, so they get the same.
day=2026-11-24

fail() {
  printf 'worker.sh on %s: %s\n' "$(hostname)" "$1" >&2
  exit 1
}

install() {
  local source=${1:?SOURCE is missing}
  [[ $source == git+* ]] || source=file://$here/$source
  python3 -m pip install --quiet --user "$uv"
  [[ -x $root/venv/bin/python ]] || python3 -m uv venv --quiet --python "$python" "$root/venv"
  python3 -m uv pip install --quiet --python "$root/venv/bin/python" \
    --exclude-newer "$day" --reinstall-package bert_jax "bert_jax[tpu,buckets] @ $source"
}

mount_bucket() {
  local bucket=${1:?BUCKET is missing} dir=${2:?DIR is missing} key=/usr/share/keyrings/cloud.google.asc
  if ! command -v gcsfuse >/dev/null; then
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update -qq
    # A fresh VM may still be updating itself.
    sudo apt-get install -qq -y -o DPkg::Lock::Timeout=300 gcsfuse
  fi
  if mountpoint -q "$dir"; then return; fi
  sudo mkdir -p "$dir"
  sudo chown "$USER" "$dir"
  # No host may work with an older listing than another, such as one without the newest checkpoint.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$bucket" "$dir"
}

# After a restart of the VM another process may have the number.
alive() { [[ $(ps -ww -o stat=,args= -p "$1") == [!Z]*supervise.sh* ]]; }

state() {
  local kept='' word='' number=''
  [[ ! -f $root/status ]] || kept=$(<"$root/status")
  read -r word number <<<"$kept" || true
  case $word,$number in
    ,*) echo "never started" ;;
    running,*) if alive "$number"; then echo running; else echo "failed (killed, or the VM was started anew)"; fi ;;
    exited,0) echo finished ;;
    exited,130) echo stopped ;;
    *) echo "failed (exit code $number)" ;;
  esac
}

start() {
  local command=() tries=0
  if [[ ${1:-} == --stage ]]; then
    command=("$here/stage.sh" "${2:?FROM is missing}" "${3:?TO is missing}" --)
    shift 3
  fi
  [[ ${1:-} == -- && $# -ge 2 ]] || fail "no arguments for bert-jax; write them after --"
  shift
  [[ $(state) != running ]] || fail "it runs already; 'stop' it first, or follow it with 'logs'"
  # Without a usable TPU, JAX would go on with the CPU.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu} PYTHONUNBUFFERED=1
  printf 'worker.sh: start at %s\n' "$(date -u +%FT%TZ)" >>"$root/log"
  rm -f "$root/status"
  # A session of its own: it outlives the connection that starts it.
  setsid "$here/supervise.sh" --status "$root/status" -- "${command[@]}" "$root/venv/bin/bert-jax" "$@" \
    </dev/null >>"$root/log" 2>&1 &
  until [[ -s $root/status ]]; do
    ((tries++ < 300)) || fail "it did not start; see $root/log"
    sleep 0.1
  done
  setsid "$here/worker.sh" watch </dev/null >>"$root/log" 2>&1 &
  state
}

# The metadata server says NONE and FALSE as long as nothing is planned.
watch() {
  local metadata=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance name said
  while [[ $(state) == running ]]; do
    for name in maintenance-event preempted; do
      said=$(curl -sf -m 5 -H 'Metadata-Flavor: Google' "$metadata/$name") || continue
      [[ $said != NONE && $said != FALSE ]] || continue
      printf 'worker.sh: %s is %s: the run stops with a checkpoint\n' "$name" "$said"
      stop
      return
    done
    sleep "${MAINTENANCE_SECS:-10}"
  done
}

stop() {
  local waited word='' number=''
  [[ $(state) == running ]] || { state && return; }
  read -r word number <"$root/status"
  kill -TERM "$number"
  for ((waited = 0; waited < 600; waited++)); do
    [[ $(state) == running ]] || { state && return; }
    sleep 1
  done
  fail "process $number still runs 10 minutes after SIGTERM; the log is $root/log"
}

mkdir -p "$root"
case ${1:-} in
  install | start | watch | stop) "$@" ;;
  mount) mount_bucket "${@:2}" ;;
  status) state ;;
  logs) exec tail -n 50 -F "$root/log" ;;
  --help | -h) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" ;;
  *) fail "${1:-(nothing)}: unknown command; see --help" ;;
esac
