#!/usr/bin/env bash
# scripts/gpu_wheels.sh DIR [PYTHON_VERSION]: gathers into DIR the wheels of scripts/gpu_wheels.txt
# for a machine with an NVIDIA GPU and no network (default: Python 3.12, x86-64 Linux), checks that
# they stay below 60 MiB and says their total. Nothing is taken that the list does not name, so
# torch and triton stay what that machine has.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
most=$((60 * 1024 * 1024))
[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: scripts/gpu_wheels.sh DIR [PYTHON_VERSION]" >&2; exit 2; }
folder=$1
version=${2:-3.12}
mkdir -p "$folder"
if [ -n "$(ls -A "$folder")" ]; then
  echo "gpu_wheels: $folder is not empty; old wheels beside new ones stop an installation" >&2
  exit 2
fi
platforms=()
for name in manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_24_x86_64 \
  manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux_2_12_x86_64 manylinux2010_x86_64 \
  manylinux_2_5_x86_64 manylinux1_x86_64; do
  platforms+=(--platform "$name")
done
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps \
  --only-binary=:all: --implementation cp --python-version "$version" "${platforms[@]}" \
  --dest "$folder" --requirement "$here/gpu_wheels.txt"
total=$(cat "$folder"/*.whl | wc -c)
echo "$(ls "$folder"/*.whl | wc -l) wheels for Python $version in $folder," \
  "$((total / 1024 / 1024)) of at most $((most / 1024 / 1024)) MiB"
if [ "$total" -ge "$most" ]; then
  echo "gpu_wheels: $total bytes are more than the $most that a visit may bring" >&2
  exit 1
fi
