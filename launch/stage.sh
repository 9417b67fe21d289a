#!/usr/bin/env bash
# Copies a dataset to this host's own disk, then becomes the given command.
#
#   launch/stage.sh SOURCE DESTINATION [-- COMMAND [ARGUMENT ...]]
#
# Training reads a prepared dataset through memory maps at random places, for which a mounted bucket is slow,
# and writes its plans of epochs beside it. A copy that is there already is kept while SOURCE lists the same
# files and sizes. The command replaces this shell, so that signals reach it.

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
  partial=$destination.partial
  rm -rf "$partial" "$destination" "$destination.listing"
  mkdir -p "$partial"
  cp -R "$source/." "$partial/"
  [[ $(listing "$partial") == "$wanted" ]] || fail "the copy of $source is not complete; did the source change meanwhile?"
  mv "$partial" "$destination"
  printf '%s\n' "$wanted" >"$destination.listing"
  printf 'stage.sh: %s copied to %s, %s\n' "$source" "$destination" "$(du -sh "$destination" | cut -f1)" >&2
fi
if (($#)); then exec "$@"; fi
