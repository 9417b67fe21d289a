#!/usr/bin/env bash
# Runs a command and starts it again after a crash, a bounded number of times.
#
#   launch/supervise.sh [--no-forward] [--status FILE] -- COMMAND [ARGUMENT ...]
#
#   --no-forward   do not hand signals on: somebody else signals the command
#   --status FILE  the file holds "running PID" while the command runs and "exited CODE" afterwards
#
# `bert-jax` goes on from its newest checkpoint when it is started again. SIGTERM, SIGINT, SIGHUP and SIGUSR1 are
# handed to the command once, as SIGTERM, so that it writes a checkpoint; nothing is started again after them. Nothing is started again
# either after an exit code that no restart mends: 0 (done), 2 (a wrong flag), 126 and 127 (no such command),
# 130 (stopped by a signal, checkpoint written), and 1 (an error with a message) in the first five minutes, since
# the error is then most likely in what was given.
#
# Environment:
#   MAX_RESTARTS   crashes in a row that are forgiven, default 5; a start that lived an hour begins the count anew
#   RESTART_DELAY  seconds before the next start, default 30

set -euo pipefail

fail() {
  printf 'supervise.sh: %s\n' "$1" >&2
  exit 2
}
say() { printf 'supervise.sh: %s\n' "$1" >&2; }

max_restarts=${MAX_RESTARTS:-5} delay=${RESTART_DELAY:-30} healthy=3600 settle=300
status='' hand_on=1
while (($#)); do
  case $1 in
    --help | -h) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    --no-forward) hand_on='' && shift ;;
    --status) [[ -n ${2:-} ]] || fail "--status needs a file" && status=$2 && shift 2 ;;
    --) shift && break ;;
    *) fail "$1: unknown option; see --help, and write -- before the command" ;;
  esac
done
(($#)) || fail "no command; write it after --"
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "MAX_RESTARTS=$max_restarts is not a whole number"
[[ $delay =~ ^[0-9]+$ ]] || fail "RESTART_DELAY=$delay is not a whole number of seconds"
max_restarts=$((10#$max_restarts)) # else 08 would be an octal number

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
trap 'signals=$((signals + 1)); hand_over' TERM INT HUP USR1

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
    ((again == 127)) || code=$again # 127: the shell has told the code already
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
