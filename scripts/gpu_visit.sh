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
# A slice that fails or runs out of time never ends the visit, and none takes the time that the
# later ones need at least. Each leaves OUT/NAME.log, where it measures OUT/NAME.csv, and a line in
# OUT/slices.csv (name, exit, seconds, what; exit 124: out of time, "skipped": no time was left).
# Called again with the same OUT it goes on: what did well there is not done again, and what is done
# again leaves NAME-2.log. The last line says which slices are left, as --only takes them.
# PYTHON chooses the interpreter that has torch. Exit codes: 0 all slices did well, 1 one of them
# failed or was skipped, 2 wrong usage. At the end `python -m benchmarks.gpu_visit_report OUT` makes
# OUT/report.md and the tables to commit of whatever there is.
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

# GPU_VISIT_SLICES: others than those of a visit, for tests of what stands here.
slices=${GPU_VISIT_SLICES:-scripts/gpu_slices.sh}
planned=() least_of=() # every slice in order, and its LEAST
slice() { planned+=("$1") least_of+=("$2"); [ -z "$list" ] || echo "$1: $3"; }
base=${PYTHON:-python3} home="" out=""
# shellcheck disable=SC1090,SC1091
. "$slices"
for name in ${only//,/ }; do
  [[ " ${planned[*]} " == *" $name "* ]] || usage "--only: there is no slice '$name'"
done
[ -z "$list" ] || exit 0

mkdir -p "${names[0]}" || exit 2
out=$(cd "${names[0]}" && pwd)
done_well=""
if [ -e "$out/slices.csv" ]; then
  done_well=" $(sed -n 's/^\([^,]*\),0,.*/\1/p' "$out/slices.csv" | tr '\n' ' ') "
else
  echo "name,exit,seconds,what" >"$out/slices.csv"
fi
home=$(mktemp -d "${TMPDIR:-/tmp}/gpu-visit.XXXXXX")
trap 'rm -rf "$home"' EXIT
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TRITON_CACHE_DIR=$home/triton
export TORCHINDUCTOR_CACHE_DIR=$home/inductor
[ -z "$rehearse" ] || export TRITON_INTERPRET=1
worst=0 left_over=()

# wanted NAME: asked for, and not done well before
wanted() {
  case $1 in machine | install | build*) return 0 ;; esac
  [[ -z $only || ",$only," == *",$1,"* ]] && [[ $done_well != *" $1 "* ]]
}

# kept_after NAME: seconds that the wanted slices behind it take at least
kept_after() {
  local i sum=0 behind=""
  for i in "${!planned[@]}"; do
    [ -z "$behind" ] || ! wanted "${planned[i]}" || sum=$((sum + least_of[i]))
    [ "${planned[i]}" != "$1" ] || behind=1
  done
  echo "$sum"
}

pack() {
  if [ -n "$archive" ]; then
    tar -czf "$archive.part" -C "$out" . && mv "$archive.part" "$archive"
  fi
}

# slice NAME LEAST WHAT COMMAND...: under its time-out; LEAST: seconds below which it is not begun
slice() {
  local name=$1 least=$2 what=$3 began=$SECONDS left allowed code again=1
  shift 3
  wanted "$name" || return
  export file=$name # its log, and its table if it has one
  while [ -e "$out/$file.log" ]; do
    again=$((again + 1)) file=$name-$again
  done
  left=$((limit - SECONDS))
  if [ "$left" -lt "$least" ]; then
    code=skipped
    echo "== $name: skipped, $left s are left and it takes at least $least" | tee "$out/$file.log"
  else
    allowed=$((left - $(kept_after "$name")))
    [ "$allowed" -ge "$least" ] || allowed=$least
    [ "$allowed" -le "$most" ] || allowed=$most
    echo "== $name: $what"
    timeout --kill-after=10 "$allowed" "$@" >"$out/$file.log" 2>&1 </dev/null
    code=$?
    [ "$code" != 137 ] || code=124
    tail -n 4 "$out/$file.log"
    echo "== $name: exit $code after $((SECONDS - began)) s"
  fi
  if [ "$code" != 0 ]; then
    worst=1
    left_over+=("$name")
  fi
  echo "$name,$code,$((SECONDS - began)),\"$what\"" >>"$out/slices.csv"
  pack
  [ "$code" = 0 ]
}

# shellcheck disable=SC1090,SC1091
. "$slices"
timeout 60 "$base" -m benchmarks.gpu_visit_report "$out" >/dev/null || worst=1
pack
[ ${#left_over[@]} -eq 0 ] || echo "== left: --only $(IFS=,; echo "${left_over[*]}")"
exit "$worst"
