#!/usr/bin/env bash
# Runs a command and, after a crash, starts it again, a bounded number of times.
#
#   launch/supervise.sh [options] -- COMMAND [ARGUMENT ...]
#
#   --max-restarts N   crashes in a row that are forgiven (default 5)
#   --delay SECS       pause before the next start (default 30)
#   --healthy SECS     a start that lived so long begins the count anew (default 3600)
#   --settle SECS      an error (exit code 1) so soon after the first start is no crash (default 300)
#   --no-forward       the command gets signals from elsewhere; only restart nothing after one
#   --status FILE      holds "running PID" while it runs and "exited CODE" afterwards
#
# `bert-jax` goes on from its newest checkpoint when it is started again. SIGTERM and SIGINT are
# handed to the command once, so that it writes a checkpoint, and nothing is restarted after them.
# Exit codes of `bert-jax` that no restart mends end it too: 0 (done), 2 (a wrong flag) and 130
# (stopped by a signal, checkpoint written); so do 126 and 127 (no such command), and 1 (an error with a
# message) as long as nothing has worked yet: it is most likely about what was given.

set -euo pipefail

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }
fail() {
  printf 'supervise.sh: %s\n' "$1" >&2
  exit 2
}
say() { printf 'supervise.sh: %s\n' "$1" >&2; }
number() { [[ ${2:-} =~ ^[0-9]+$ ]] || fail "$1 ${2:-} is not a whole number"; }

max_restarts=5 delay=30 healthy=3600 settle=300 status='' hand_on=1
while (($#)); do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --max-restarts) number "$1" "${2:-}" && max_restarts=$2 && shift 2 ;;
    --delay) number "$1" "${2:-}" && delay=$2 && shift 2 ;;
    --healthy) number "$1" "${2:-}" && healthy=$2 && shift 2 ;;
    --settle) number "$1" "${2:-}" && settle=$2 && shift 2 ;;
    --no-forward) hand_on='' && shift ;;
    --status) [[ -n ${2:-} ]] || fail "--status needs a file" && status=$2 && shift 2 ;;
    --) shift && break ;;
    *) fail "$1: unknown option; see --help, and write -- before the command" ;;
  esac
done
(($#)) || fail "no command; write it after --"

# A process group of its own for the command: Ctrl-C then reaches this script alone, which hands
# it on once. A second signal would make bert-jax stop without a checkpoint.
set -m
child=0 signals=0 handed=''
hand_over() {
  if [[ -n $hand_on && -z $handed ]] && ((signals && child)); then
    handed=1
    kill -TERM "$child" 2>/dev/null || true
  fi
}
trap 'signals=$((signals + 1)); hand_over' TERM INT

note() { if [[ -n $status ]]; then printf '%s\n' "$1" >"$status"; fi; }
finish() {
  note "exited $1"
  exit "$1"
}

# Runs a command and sets `code`. A trapped signal cuts `wait` short; then the true code is still to come.
attend() {
  local seen=$signals again
  "$@" </dev/null &
  child=$!
  hand_over # of a signal that came before there was a child
  code=0
  wait "$child" || code=$?
  while ((seen != signals)); do
    seen=$signals again=0
    wait "$child" || again=$?
    ((again == 127)) || code=$again # 127: it was all said already
  done
  child=0
}

crashes=0 starts=0
while :; do
  ((signals == 0)) || finish 130
  note "running $$"
  started=$SECONDS starts=$((starts + 1))
  attend "$@"
  case $code in
    0 | 2 | 126 | 127 | 130) finish "$code" ;;
  esac
  ((signals == 0)) || finish "$code"
  if ((code == 1 && starts == 1 && SECONDS - started < settle)); then
    say "exit code 1 before anything worked; not started again"
    finish 1
  fi
  ((SECONDS - started < healthy)) || crashes=0
  crashes=$((crashes + 1))
  if ((crashes > max_restarts)); then
    say "exit code $code, crash $crashes in a row; no more restarts"
    finish "$code"
  fi
  say "exit code $code; restart $crashes of $max_restarts in $delay s"
  hand_on=1 attend sleep "$delay"
done
