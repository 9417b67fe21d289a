#!/usr/bin/env bash
# Pretraining on Cloud TPU VMs, one slice or several, through queued resources.
#
#   launch/tpu_vm/tpu.sh up --name bert --zone us-west4-a --accelerator v5litepod-16 --spot \
#       --source git+https://github.com/ORG/bert_jax@COMMIT --bucket BUCKET \
#       --stage /mnt/BUCKET/wiki /var/tmp/wiki -- \
#       pretrain --config bert_large --data.dataset /var/tmp/wiki --workdir /mnt/BUCKET/run
#
# Commands, each needing --name and --zone, and --slices where it is not 1:
#   create   asks for the slices          (--accelerator)
#   wait     until they are there
#   install  bert_jax on every worker, and the bucket mounted     (--source, --bucket)
#   start    `bert-jax ...` on every worker, detached             (the command after --)
#   up       all of the above, as far as it is not done yet; typed again, it goes on: lost slices
#            are asked for anew, and the run continues from its newest checkpoint
#   watch    `up`, and again whenever the slices are lost, until the run is finished
#   status   of the slices and of the run on every worker
#   logs     of worker 0 of slice 0, and what follows
#   stop     SIGTERM to every worker, so that a checkpoint is written
#   delete   gives the slices back; what lies on their disks is lost
#
# Options:
#   --name NAME           queued resource, and prefix of the nodes' names
#   --zone ZONE           --project PROJECT (default: gcloud's own)
#   --accelerator TYPE    v4-N, v5litepod-N, v5p-N, v6e-N   --slices N (default 1)
#   --runtime VERSION     image of the VMs; by default the one for the accelerator
#   --spot | --reserved   capacity; by default on demand
#   --create-flag FLAG    one more flag for `gcloud ... queued-resources create`, repeatable:
#                         --service-account=..., --network=..., --valid-until-duration=6h
#   --source SOURCE       a wheel on this machine, or git+URL@COMMIT (40 hex digits or a tag)
#   --bucket BUCKET       mounted on every worker at /mnt/BUCKET; else mount shared storage yourself
#   --stage FROM TO       a dataset to copy to every worker's own disk before the start
#   --poll SECS           between looks at the state (default 30)
#   --internal-ip         connect to the VMs by their internal addresses
#   --dry-run             print the commands, run nothing
#
# gcloud connects to several workers at a time only with its key in an agent:
#   ssh-add ~/.ssh/google_compute_engine

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
remote=bert-jax # below the home directory of every worker

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }
fail() {
  printf 'tpu.sh: %s\n' "$1" >&2
  exit 2
}
say() { printf 'tpu.sh: %s\n' "$1" >&2; }

name='' zone='' project='' accelerator='' slices=1 runtime='' capacity='' source='' bucket=''
poll=30 internal='' dry='' stage=() create_flags=() arguments=()
[[ ${1:-} != --help && ${1:-} != -h ]] || { usage && exit 0; }
action=${1:-}
[[ $action =~ ^(create|wait|install|start|up|watch|status|logs|stop|delete)$ ]] ||
  fail "'$action' is no command; see --help"
shift
while (($#)); do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --spot | --reserved)
      [[ -z $capacity ]] || fail "$1 and $capacity exclude each other"
      capacity=$1 && shift
      ;;
    --internal-ip) internal=$1 && shift ;;
    --dry-run) dry=1 && shift ;;
    --) shift && arguments=("$@") && break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --stage)
      [[ ${2:-} == /* && ${3:-} == /* ]] || fail "--stage needs two absolute paths, FROM and TO"
      stage=(--stage "$2" "$3") && shift 3
      ;;
    --name | --zone | --project | --accelerator | --slices | --runtime | --source | --bucket | --poll | --create-flag)
      [[ -n ${2:-} && ${2:0:2} != -- || $1 == --create-flag && -n ${2:-} ]] || fail "$1 needs a value"
      case $1 in
        --create-flag) create_flags+=("$2") ;;
        *) printf -v "${1#--}" %s "$2" ;;
      esac
      shift 2
      ;;
    *) fail "$1: unknown option; see --help" ;;
  esac
done

needs() {
  local variable
  for variable; do
    [[ -n ${!variable} ]] || fail "$action needs --$variable; see --help"
  done
}

# --- what was given -------------------------------------------------------------------------------

needs name zone
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "--name $name: 1 to 40 lower-case letters, digits and hyphens, a letter first"
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices $slices is not a number from 1"
[[ $poll =~ ^[0-9]+$ ]] || fail "--poll $poll is not a whole number of seconds"
[[ $bucket != gs://* && $bucket != */* ]] || fail "--bucket $bucket: give the bare name, without gs://"

case $action in create | up | watch)
  needs accelerator
  [[ $accelerator =~ ^(v4|v5litepod|v5p|v6e)-[1-9][0-9]*$ ]] ||
    fail "--accelerator $accelerator: expected v4-N, v5litepod-N, v5p-N or v6e-N"
  if [[ -z $runtime ]]; then
    case $accelerator in
      v4-*) runtime=tpu-ubuntu2204-base ;;
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v6e-*) runtime=v2-alpha-tpuv6e ;;
    esac
  fi
  ;;
esac
case $action in install | up | watch)
  needs source
  case $source in
    git+*) [[ ${source#*://} == *@* ]] || fail "--source $source: add @COMMIT, so that all workers get the same code" ;;
    *.whl) [[ -f $source ]] || fail "--source $source: no such file" ;;
    *) fail "--source $source: expected a wheel or git+URL@COMMIT" ;;
  esac
  ;;
esac
case $action in start | up | watch)
  [[ ${arguments[0]:-} =~ ^(pretrain|finetune|evaluate)$ ]] ||
    fail "$action needs a command of bert-jax after --: pretrain, finetune or evaluate, with its flags"
  for argument in "${arguments[@]}"; do
    [[ $argument != *gs://* ]] ||
      fail "$argument: bert-jax opens files by path; mount the bucket with --bucket and write /mnt/BUCKET/..."
  done
  [[ ${arguments[0]} == evaluate || " ${arguments[*]}" == *' --workdir'* ]] ||
    fail "the command after -- has no --workdir; it must lie on storage that all workers see"
  arguments+=(--cluster.kind tpu)
  if ((slices > 1)) && [[ ${arguments[0]} != evaluate && " ${arguments[*]}" != *' --mesh.slices'* ]]; then
    arguments+=(--mesh.slices "$slices")
  fi
  ;;
*) ((${#arguments[@]} == 0)) || fail "$action takes no command after --" ;;
esac

# --- gcloud ---------------------------------------------------------------------------------------

where=(--zone="$zone")
[[ -z $project ]] || where+=(--project="$project")
nodes=("$name")
if ((slices > 1)); then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

run() {
  if [[ -n $dry ]]; then
    printf '%q ' "$@" && printf '\n'
  else
    "$@"
  fi
}

queued() { run gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"; }

# on NODE WORKERS COMMAND [ARGUMENT ...]
on() {
  local command
  command=$(printf '%q ' "${@:3}")
  run gcloud compute tpus tpu-vm ssh "$1" "${where[@]}" ${internal:+"$internal"} --worker="$2" --command="${command% }"
}

# Runs a command for every slice at the same time; fails if it fails for one.
every_slice() {
  local node failed=() pids=()
  for node in "${nodes[@]}"; do
    if [[ -n $dry ]]; then
      "$@" "$node"
    else
      "$@" "$node" &
      pids+=($!)
    fi
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

create() {
  local shape=(--node-id="$name")
  ((slices == 1)) || shape=(--node-count="$slices" --node-prefix="$name")
  queued create --accelerator-type="$accelerator" --runtime-version="$runtime" "${shape[@]}" \
    ${capacity:+"$capacity"} "${create_flags[@]}"
}

delete() { queued delete --force --quiet; }

# Until the slices are there. Lost or refused ones are asked for anew where `again` is given.
await() {
  local now before=''
  if [[ -n $dry ]]; then
    queued describe --format='value(state.state)'
    return
  fi
  while :; do
    now=$(state)
    [[ $now == "$before" ]] || say "$name: $now"
    before=$now
    case $now in
      ACTIVE) return ;;
      ABSENT | SUSPENDED | FAILED)
        [[ ${1:-} == again ]] || fail "$name is $now; 'up' asks for it anew"
        [[ $now == ABSENT ]] || delete
        create
        ;;
    esac
    sleep "$poll"
  done
}

install_on() {
  local files=("$here/worker.sh" "$here/../supervise.sh" "$here/../stage.sh" "$here/../constraints.txt")
  local given=$source
  if [[ $source == *.whl ]]; then
    files+=("$source")
    given=${source##*/}
  fi
  on "$1" all mkdir -p "$remote" || return
  run gcloud compute tpus tpu-vm scp "${files[@]}" "$1:$remote/" "${where[@]}" ${internal:+"$internal"} --worker=all || return
  on "$1" all "$remote/worker.sh" install "$given" || return
  if [[ -n $bucket ]]; then on "$1" all "$remote/worker.sh" mount "$bucket" "/mnt/$bucket"; fi
}

start_on() { on "$1" all "$remote/worker.sh" start "${stage[@]}" -- "${arguments[@]}"; }
status_on() { on "$1" all "$remote/worker.sh" status; }
stop_on() { on "$1" all "$remote/worker.sh" stop; }

first_worker() { on "${nodes[0]}" 0 "$remote/worker.sh" status; }

up() {
  if [[ -n $dry ]]; then create; fi
  await again
  if [[ -z $dry && $(first_worker 2>/dev/null || true) == running ]]; then
    say "the run is under way; see it with 'logs'"
    return
  fi
  every_slice install_on
  every_slice start_on
}

watch() {
  local now run_state
  up
  if [[ -n $dry ]]; then return; fi
  while :; do
    sleep "$poll"
    # A connection that fails says nothing about the slices or the run.
    now=$(state) || continue
    if [[ $now != ACTIVE ]]; then
      up
      continue
    fi
    run_state=$(first_worker 2>/dev/null) || continue
    case $run_state in
      finished) say "the run is finished; 'delete' gives the slices back" && return ;;
      running) ;;
      stopped) say "the run was stopped; 'up' goes on with it" && return ;;
      *) fail "the run ended: $run_state; see 'logs'" ;;
    esac
  done
}

case $action in
  create) create ;;
  wait) await ;;
  install) every_slice install_on ;;
  start) every_slice start_on ;;
  up) up ;;
  watch) watch ;;
  status)
    queued describe --format='value(state.state)'
    every_slice status_on
    ;;
  logs) on "${nodes[0]}" 0 "$remote/worker.sh" logs ;;
  stop) every_slice stop_on ;;
  delete) delete ;;
esac
