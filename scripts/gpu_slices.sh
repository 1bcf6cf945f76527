# shellcheck shell=bash disable=SC2154
# The slices of a visit, the most valuable first; read by scripts/gpu_visit.sh, whose function
# `slice` runs each. Names are those of the report (benchmarks/gpu_visit_report.py).

python=$home/venv/bin/python

# Whatever tells what machine this was; the last line of each part counts, not its exit code.
facts() {
  nvidia-smi || echo "nvidia-smi: not here"
  nvcc --version || echo "nvcc: not here"
  "$base" --version
  "$base" -m pip list --disable-pip-version-check 2>/dev/null |
    grep -iE '^(torch|triton|numpy|polars|rich|msgspec|safetensors|pytest|cmake|ninja|pybind11) '
  uname -a
  nproc
  free -g
  echo "commit ${COMPFAST_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}"
}

# A venv that sees what `base` sees. Made from a venv it would see only the system's packages, so
# a .pth file names those of `base` itself; pip comes from there too.
install() {
  "$base" -m venv --without-pip --system-site-packages "$home/venv" || return
  local own theirs
  own=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || return
  theirs=$("$base" -c 'import sysconfig; print("\n".join(sorted(
    {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})))') || return
  echo "$theirs" >"$own/machine.pth"
  if [ -n "$wheels" ]; then
    # Names without versions: what the machine has is taken as it is.
    sed -E '/^#/d; s/==.*//' scripts/gpu_wheels.txt >"$home/wanted.txt"
    "$python" -m pip install --disable-pip-version-check --no-index --find-links "$wheels" \
      --requirement "$home/wanted.txt" || return
  fi
  "$python" -c '
import importlib.util as u
names = "torch triton numpy polars msgspec safetensors rich pytest pybind11 setuptools".split()
gone = [n for n in names if u.find_spec(n) is None]
print("missing: " + (", ".join(gone) or "nothing"))
raise SystemExit(bool(gone))'
}

# Both extensions, for this card; without a CUDA compiler the one for the CPU alone. What an
# earlier visit built of the same sources with the same arguments is taken as it is.
build() {
  local arguments="$1 -DPython_EXECUTABLE=$python" code=0 stamp=build/gpu-visit.stamp sources
  sources=$(find csrc CMakeLists.txt setup.py -type f | LC_ALL=C sort | xargs cat | sha256sum)
  sources="$1 $("$python" -VV | tr '\n' ' ') $sources"
  if [ "$(cat $stamp 2>/dev/null)" = "$sources" ] && built; then
    echo "as they were built before"
    return
  fi
  CMAKE_ARGS=$arguments PATH="$home/venv/bin:$PATH" \
    "$python" setup.py build_ext --inplace --build-temp "$home/build" --build-lib "$home/lib" ||
    code=$?
  built || code=1
  [ "$code" != 0 ] || { mkdir -p build && echo "$sources" >$stamp; }
  return $code
}

built() {
  "$python" -c 'from compfast import _cuda; print("compfast._cuda: there")' ||
    echo "compfast._cuda: left out"
  "$python" -c 'from compfast import _native; print("compfast._native: there")'
}

gpu_tests() {
  local workers=() how=(-m gpu)
  if "$python" -c 'import xdist' 2>/dev/null && [ "$(nproc)" -ge 8 ] && [ "$1" = many ]; then
    workers=(--numprocesses "$(nproc)" --maxprocesses 16 --dist worksteal)  # mostly Triton's compiler
  fi
  shift
  [ -z "$rehearse" ] || how=(-m gpu --collect-only)
  # A new library's warning is no reason to lose a value.
  "$python" -m pytest "${how[@]}" -v --tb=short --durations=10 -W default -p no:cacheprovider \
    "${workers[@]}" "$@"
}

# speed ARGUMENTS...: benchmarks.gpu into OUT/FILE.csv
speed() {
  if [ -n "$rehearse" ]; then
    local sizes=(--d 16 --models 2 --batch 2 --precisions bf16)
    [[ " $* " != *" heads "* ]] || sizes=(--d 64 --models 1 --batch 1 --precisions bf16)
    # just too wide for fused layers: a launch an op, as the paper's network is run
    [[ " $* " != *" paper "* ]] || sizes=(--d 136 --models 1 --batch 1 --precisions bf16)
    set -- --trial "$@" "${sizes[@]}"
  fi
  "$python" -m benchmarks.gpu --csv "$out/$file.csv" "$@"
}

card() {
  "$python" -m benchmarks.gpu_card "$@" ${rehearse:+--trial} --csv "$out/$file.csv"
}

# `timeout` starts a program, so a slice's function runs in a bash that has it.
export -f facts install build built gpu_tests speed card
export base home out python wheels rehearse

one=(bash -c '"$@"' slice)

slice machine 5 "what machine this is" "${one[@]}" facts
slice install 20 "wheels without network" "${one[@]}" install

nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d ' .')
architecture=${found:-90}
if [ -n "$nvcc" ]; then
  export CUDACXX=$nvcc
  slice build 60 "both extensions, for sm_$architecture" \
    "${one[@]}" build "-DCMAKE_CUDA_ARCHITECTURES=$architecture" ||
    slice build-cpu 60 "the native extension alone, since the first build failed" \
      "${one[@]}" build -DCOMPFAST_CUDA=OFF
else
  slice build 60 "the native extension alone: there is no nvcc" \
    "${one[@]}" build -DCOMPFAST_CUDA=OFF
fi
slice doctor 5 "compfast.doctor" "$python" -m compfast.doctor

slice smoke 90 "one network: gradients, ten steps, graph replay" "${one[@]}" gpu_tests one \
  "tests/test_triton_gpu.py::test_a_replayed_graph_is_the_launches_one_by_one" \
  "tests/test_triton_gpu.py::test_forward_and_every_gradient[default]" \
  "tests/test_triton_gpu.py::test_the_data_is_the_streams"
slice ceilings 20 "this card's copy bandwidth and matrix products" "${one[@]}" card ceilings
slice values 120 "the Triton engine: values, same bits, memory" \
  "${one[@]}" gpu_tests many tests/test_triton_gpu.py
slice networks 90 "networks of vectors, chains and masks: values, same bits" \
  "${one[@]}" gpu_tests many tests/test_triton_gpu_networks.py
slice persistent 60 "the persistent step: values, same bits" \
  "${one[@]}" gpu_tests one tests/test_cuda*.py
slice speed-32 90 "512 members of d 32, kernels, graphs on and off, peers" \
  "${one[@]}" speed --d 32 --precisions bf16 tf32 fp32
slice speed-128 90 "512 members of d 128" \
  "${one[@]}" speed --d 128 --precisions bf16 tf32 fp32
slice speed-heads 60 "512 members of d 128 and 64 with heads of 32, ours alone" \
  "${one[@]}" speed --shape heads --d 128 64 --precisions bf16 tf32 fp32
slice speed-64 90 "512 members of d 64" \
  "${one[@]}" speed --d 64 --precisions bf16 tf32 fp32
slice speed-paper 60 "64 members of the paper's network" \
  "${one[@]}" speed --shape paper --d 400 --models 64 --batch 2048 \
  --precisions bf16 tf32 fp32
slice warps 60 "kernels with other numbers of warps" "${one[@]}" card warps
slice advance 60 "whole trainings through the engines' own protocol" \
  "${one[@]}" card advance
slice memory 30 "the memory model against what is taken" "${one[@]}" card memory
