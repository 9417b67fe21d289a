#!/usr/bin/env bash
# Pretraining on Cloud TPU VMs, one slice or several, through queued resources.
#
#   launch/tpu_vm/tpu.sh up --name bert --zone us-west4-a --accelerator v5litepod-16 --spot \
#       --source git+https://github.com/ORG/bert_jax@COMMIT --bucket BUCKET \
#       --stage /mnt/BUCKET/wiki /var/tmp/wiki -- \
#       pretrain --config bert_large --data.dataset /var/tmp/wiki --output /mnt/BUCKET/run
#
# Commands. Each needs --name and --zone, and --slices where it is not 1:
#   up       asks for the slices, waits for them, installs bert_jax on every worker, and starts
#            `bert-jax ...` there, detached. Typed again, it goes on: it asks anew for slices that
#            were lost, and the run continues from its newest checkpoint
#   status   state of the slices, and of the run on every worker
#   logs     shows the log of the first worker, and follows it
#   stop     SIGTERM to every worker, so that a checkpoint is written
#   delete   gives the slices back; what lies on their disks is lost
#
# Options:
#   --accelerator TYPE    v4-N, v5litepod-N, v5p-N or v6e-N     --slices N (default 1)
#   --project PROJECT     default: gcloud's own
#   --spot                capacity that may be taken away at any time; default on demand
#   --create-flag FLAG    one more flag for `gcloud ... queued-resources create`, repeatable:
#                         --reserved, --service-account=..., --network=..., --valid-until-duration=6h
#   --source SOURCE       a wheel on this machine, or git+URL@COMMIT
#   --bucket BUCKET       mounted on every worker at /mnt/BUCKET; else mount shared storage yourself
#   --stage FROM TO       a dataset to copy to every worker's own disk before the start
#   --internal-ip         connect to the VMs by their internal addresses
#   --dry-run             print the commands, run nothing
#
# gcloud connects to several workers at a time only with its key in an agent:
#   ssh-add ~/.ssh/google_compute_engine

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
remote=bert-jax # below the home directory of every worker

fail() {
  printf 'tpu.sh: %s\n' "$1" >&2
  exit 2
}
say() { printf 'tpu.sh: %s\n' "$1" >&2; }

# --- what was given

name='' zone='' project='' accelerator='' slices=1 source='' bucket='' internal='' dry=''
stage=() create_flags=() arguments=()
action=${1:---help}
[[ $action != --help && $action != -h ]] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 0; }
[[ $action =~ ^(up|status|logs|stop|delete)$ ]] || fail "'$action' is no command; see --help"
shift
while (($#)); do
  case $1 in
    --spot) create_flags+=(--spot) && shift ;;
    --internal-ip) internal=$1 && shift ;;
    --dry-run) dry=1 && shift ;;
    --) shift && arguments=("$@") && break ;;
    --stage)
      [[ ${2:-} == /* && ${3:-} == /* ]] || fail "--stage needs two absolute paths, FROM and TO"
      stage=(--stage "$2" "$3") && shift 3
      ;;
    --create-flag) [[ -n ${2:-} ]] || fail "$1 needs a value" && create_flags+=("$2") && shift 2 ;;
    --name | --zone | --project | --accelerator | --slices | --source | --bucket)
      [[ -n ${2:-} && ${2:0:2} != -- ]] || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2" && shift 2
      ;;
    *) fail "$1: unknown option; see --help" ;;
  esac
done
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "--name '$name': 1 to 40 lower-case letters, digits and hyphens are needed, a letter first"
[[ -n $zone ]] || fail "$action needs --zone"
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices $slices is not a number from 1"
if [[ $action == up ]]; then
  case $accelerator in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "--accelerator '$accelerator': expected v4-N, v5litepod-N, v5p-N or v6e-N" ;;
  esac
  case $source in
    git+*://*@*) ;;
    git+*) fail "--source $source: add @COMMIT, so that all workers get the same code" ;;
    *.whl) [[ -f $source ]] || fail "--source $source: no such file" ;;
    *) fail "--source '$source': expected a wheel or git+URL@COMMIT" ;;
  esac
  [[ ${arguments[0]:-} =~ ^(pretrain|finetune|sweep|evaluate)$ ]] ||
    fail "$action needs a command of bert-jax after --: pretrain, finetune, sweep or evaluate, with its flags"
  [[ $bucket != */* ]] || fail "--bucket $bucket: give the bare name, no gs:// and no folder"
  [[ ! " ${arguments[*]}" =~ \ --output[=\ ](gs|s3):// ]] ||
    fail "all workers write the run; mount the bucket with --bucket BUCKET and write --output /mnt/BUCKET/...; gs:// is for datasets and --checkpoint"
  [[ ${arguments[0]} == evaluate || " ${arguments[*]}" =~ \ --output[=\ ]/ ]] ||
    fail "the command after -- has no --output with an absolute path, on storage that all workers see"
  arguments+=(--cluster.kind tpu)
  if ((slices > 1)) && [[ ${arguments[0]} != evaluate && " ${arguments[*]}" != *' --mesh.slices'* ]]; then
    arguments+=(--mesh.slices "$slices")
  fi
elif ((${#arguments[@]})); then
  fail "$action takes no command after --"
fi

# --- gcloud

where=(--zone="$zone" ${project:+--project="$project"})
nodes=("$name") shape=(--node-id="$name")
if ((slices > 1)); then
  nodes=() shape=(--node-count="$slices" --node-prefix="$name")
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

reach=("${where[@]}" ${internal:+"$internal"})

run() { if [[ -n $dry ]]; then printf '%q ' "$@" && printf '\n'; else "$@"; fi; }
queued() { run gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"; }

# on NODE WORKERS ARGUMENT ...: calls worker.sh there
on() {
  local command
  command=$(printf '%q ' "$remote/worker.sh" "${@:3}")
  run gcloud compute tpus tpu-vm ssh "$1" "${reach[@]}" --worker="$2" --command="${command% }"
}

# Runs a command for every slice at the same time; fails if it fails for one.
every_slice() {
  local i failed=() pids=()
  for i in "${!nodes[@]}"; do
    if [[ -n $dry ]]; then "$@" "${nodes[i]}" && continue; fi
    "$@" "${nodes[i]}" &
    pids+=($!)
  done
  for i in "${!pids[@]}"; do
    wait "${pids[i]}" || failed+=("${nodes[i]}")
  done
  ((${#failed[@]} == 0)) || fail "$action failed on ${failed[*]}; type the same command again"
}

# Prints the state of the queued resource, ABSENT where there is none.
state() {
  local answer
  if answer=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' 2>&1); then
    printf '%s\n' "${answer##*$'\n'}"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo ABSENT
  else
    fail "gcloud could not describe $name: $answer"
  fi
}

create() { queued create --accelerator-type="$accelerator" --runtime-version="$runtime" "${shape[@]}" "${create_flags[@]}"; }
delete() { queued delete --force --quiet; }

# Returns when the slices are there; asks anew for lost or refused ones.
await() {
  local now before=''
  while :; do
    now=$(state)
    [[ $now == "$before" ]] || say "$name: $now"
    before=$now
    case $now in
      ACTIVE) return ;;
      ABSENT) create ;;
      SUSPENDED | FAILED) delete && create ;;
    esac
    sleep 30
  done
}

start_on() {
  local files=("$here"/worker.sh "$here"/../{supervise.sh,stage.sh}) given=$source
  if [[ $source == *.whl ]]; then
    files+=("$source")
    given=${source##*/}
  fi
  run gcloud compute tpus tpu-vm ssh "$1" "${reach[@]}" --worker=all --command="mkdir -p $remote" || return
  run gcloud compute tpus tpu-vm scp "${files[@]}" "$1:$remote/" "${reach[@]}" --worker=all || return
  on "$1" all install "$given" || return
  [[ -z $bucket ]] || on "$1" all mount "$bucket" "/mnt/$bucket" || return
  on "$1" all start "${stage[@]}" -- "${arguments[@]}"
}
status_on() { on "$1" all status; }
stop_on() { on "$1" all stop; }

up() {
  if [[ -n $dry ]]; then create; else await; fi
  if [[ -z $dry && $(on "${nodes[0]}" 0 status 2>/dev/null || true) == running ]]; then
    say "the run is under way on the first worker; see it with 'logs', and all workers with 'status'"
    say "if one of them does not run, 'stop' it everywhere, then type this command again"
  else
    every_slice start_on
  fi
}

case $action in
  status) queued describe --format='value(state.state)' && every_slice status_on ;;
  logs) on "${nodes[0]}" 0 logs ;;
  stop) every_slice stop_on ;;
  up | delete) "$action" ;;
esac
