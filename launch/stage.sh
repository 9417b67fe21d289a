#!/usr/bin/env bash
# Copies a dataset to this host's own disk, then becomes the given command.
#
#   launch/stage.sh SOURCE DESTINATION [-- COMMAND [ARGUMENT ...]]
#
# Training reads a prepared dataset through memory maps at random places, for which a mounted bucket is slow,
# and writes its plans of epochs beside it. DESTINATION becomes the copy, and must not exist yet. A copy that is
# there already is kept while SOURCE lists the same files and sizes. The command replaces this shell, so that signals reach it.

set -euo pipefail

fail() {
  printf 'stage.sh: %s\n' "$1" >&2
  exit 2
}

[[ ${1:-} != --help && ${1:-} != -h ]] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 0; }
(($# >= 2)) || fail "two directories are needed: SOURCE DESTINATION"
source=${1%/} destination=${2%/}
shift 2
[[ -d $source ]] || fail "$source: no such directory; is the volume mounted?"
from=$(realpath "$source")/ to=$(realpath -m "$destination")/
[[ $to != "$from"* && $from != "$to"* ]] || fail "$source and $destination must not lie in each other"
if (($#)); then
  [[ $1 == -- && $# -ge 2 ]] || fail "$1: expected -- COMMAND after the two directories"
  shift
fi

listing() { (cd "$1" && find . -type f -printf '%s %p\n' | LC_ALL=C sort); }

wanted=$(listing "$source")
[[ -n $wanted ]] || fail "$source holds no file"
if [[ -d $destination && -f $destination.listing && $(<"$destination.listing") == "$wanted" ]]; then
  printf 'stage.sh: %s is there already\n' "$destination" >&2
else
  [[ ! -e $destination || -f $destination.listing || -z $(ls -A "$destination") ]] ||
    fail "$destination is there and no copy of this script; name a directory that does not exist, which is then made"
  partial=$destination.partial
  rm -rf "$partial"
  mkdir -p "$partial"
  : >"$destination.listing" # from now on it is known as a copy, and as one that is not whole
  rm -rf "$destination"
  cp -R "$source/." "$partial/"
  [[ $(listing "$partial") == "$wanted" ]] || fail "the copy of $source is not complete; did the source change meanwhile?"
  printf '%s\n' "$wanted" >"$destination.listing"
  mv "$partial" "$destination"
  printf 'stage.sh: %s copied to %s, %s\n' "$source" "$destination" "$(du -sh "$destination" | cut -f1)" >&2
fi
if (($#)); then exec "$@"; fi
