#!/usr/bin/env bash
# One visit to a machine with an NVIDIA GPU: installs what is missing, builds, tests and measures,
# the most valuable first. Python, torch and triton must be there; no network is needed.
#
#   scripts/gpu_visit.sh [OPTIONS] OUT [WHEELS]     WHEELS: the folder of scripts/gpu_wheels.sh
#     --limit MINUTES     of the whole visit (28; 90s: seconds); what does not fit is skipped
#     --slice MINUTES     of one slice at most (8)
#     --only NAME,NAME    these slices alone (machine, install and build always run)
#     --archive FILE      all of OUT as one FILE.tar.gz, made anew after every slice
#     --commit NAME       what was checked out, where the copy has no .git
#     --list              names and purposes of the slices, nothing is run
#     --rehearse          every command on a CPU in Triton's interpreter, at sizes of no use
#
# A slice that fails or runs out of time never ends the visit. Each leaves OUT/NAME.log, where it
# measures OUT/NAME.csv, and a line in OUT/slices.csv (name, exit, seconds, what; exit 124: out of
# time, "skipped": no time was left). PYTHON chooses the interpreter that has torch. Exit codes: 0
# all slices did well, 1 one of them failed or was skipped, 2 wrong usage.
# `python -m benchmarks.gpu_visit_report OUT` reads what it leaves.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

limit=1680 most=480 only="" archive="" rehearse="" list="" names=()
usage() { echo "gpu_visit: $1; see the first lines of scripts/gpu_visit.sh" >&2; exit 2; }
seconds=0
number() { # OPTION VALUE -> seconds
  [[ $2 =~ ^[1-9][0-9]{0,4}s?$ ]] || usage "$1 is '$2'; it must be whole minutes, or seconds as 90s"
  case $2 in *s) seconds=${2%s} ;; *) seconds=$(($2 * 60)) ;; esac
}
while [ $# -gt 0 ]; do
  case $1 in
    --limit | --slice | --only | --archive | --commit)
      [ $# -ge 2 ] || usage "$1 needs a value"
      case $1 in
        --limit) number "$1" "$2"; limit=$seconds ;;
        --slice) number "$1" "$2"; most=$seconds ;;
        --only) only=$2 ;;
        --archive) archive=$2 ;;
        --commit) export COMPFAST_COMMIT=$2 ;;
      esac
      shift ;;
    --rehearse) rehearse=1 ;;
    --list) list=1 ;;
    -*) usage "option $1 is not known" ;;
    *) names+=("$1") ;;
  esac
  shift
done
if [ -n "$list" ]; then
  names=(/dev/null)
fi
[ ${#names[@]} -ge 1 ] && [ ${#names[@]} -le 2 ] || usage "OUT and at most WHEELS are needed"
wheels=""
if [ ${#names[@]} -eq 2 ]; then
  wheels=$(cd "${names[1]}" 2>/dev/null && pwd) || usage "there is no folder ${names[1]}"
fi
if [ -z "$list" ]; then
  mkdir -p "${names[0]}" || exit 2
  out=$(cd "${names[0]}" && pwd)
  [ ! -e "$out/slices.csv" ] || usage "$out holds a visit already"
  echo "name,exit,seconds,what" >"$out/slices.csv"
fi
base=${PYTHON:-python3}
home=$(mktemp -d "${TMPDIR:-/tmp}/gpu-visit.XXXXXX")
trap 'rm -rf "$home"' EXIT
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TRITON_CACHE_DIR=$home/triton
export TORCHINDUCTOR_CACHE_DIR=$home/inductor
[ -z "$rehearse" ] || export TRITON_INTERPRET=1
worst=0

# slice NAME LEAST WHAT COMMAND...: under its time-out; LEAST: seconds below which it is not begun
slice() {
  local name=$1 least=$2 what=$3 began=$SECONDS left code
  shift 3
  if [ -n "$list" ]; then
    echo "$name: $what"
    return
  fi
  case $name in
    machine | install | build*) ;;
    *) [[ -z $only || ",$only," == *",$name,"* ]] || return ;;
  esac
  left=$((limit - SECONDS))
  if [ "$left" -lt "$least" ]; then
    code=skipped
    echo "== $name: skipped, $left s are left and it takes at least $least" | tee "$out/$name.log"
  else
    [ "$left" -le "$most" ] || left=$most
    echo "== $name: $what"
    timeout --kill-after=10 "$left" "$@" >"$out/$name.log" 2>&1 </dev/null
    code=$?
    [ "$code" != 137 ] || code=124
    tail -n 4 "$out/$name.log"
    echo "== $name: exit $code after $((SECONDS - began)) s"
  fi
  [ "$code" = 0 ] || worst=1
  echo "$name,$code,$((SECONDS - began)),\"$what\"" >>"$out/slices.csv"
  if [ -n "$archive" ]; then
    tar -czf "$archive.part" -C "$out" . && mv "$archive.part" "$archive"
  fi
  [ "$code" = 0 ]
}

# GPU_VISIT_SLICES: others than those of a visit, for tests of the lines above.
# shellcheck disable=SC1090,SC1091
. "${GPU_VISIT_SLICES:-scripts/gpu_slices.sh}"
exit "$worst"
