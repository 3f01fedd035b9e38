#!/usr/bin/env bash
# Builds for the GPU of this machine, runs the tests of the CUDA backend, the benchmarks of its
# kernels and the training steps of two GPTs beside PyTorch (where python3 has it), and prints one
# table at the end. Everything that ran is in BUILD/gpu-check/*.log.
# usage: gpu-check.sh [--build DIR] [--deps PREFIX] [--sanitize] [--only PART,…]
#   --build DIR    takes the programs of DIR as they are; without it builds into build/gpu
#   --deps PREFIX  where local-deps.sh unpacked the libraries
#   --sanitize     also the tests under compute-sanitizer: memcheck, racecheck, initcheck (hours;
#                  TESSERA_TEST_PART=k/n takes every n-th of their cases)
#   --only PARTS   of tests, kernels, engines, steps, peers (of the steps and of the engines)
set -euo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build="" deps="" sanitize=0 parts=tests,kernels,engines,steps,peers
while [[ $# -gt 0 ]]; do
  case $1 in
    --build) build=$(cd "$2" && pwd); shift 2 ;;
    --deps) deps=$(cd "$2" && pwd); shift 2 ;;
    --sanitize) sanitize=1; shift ;;
    --only) parts=$2; shift 2 ;;
    *) sed -n '2,10s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
cd "$source"

if ! gpu=$(nvidia-smi --query-gpu=compute_cap,name --format=csv,noheader 2>/dev/null | head -1) || [[ -z $gpu ]]; then
  echo "gpu-check: nvidia-smi finds no GPU here" >&2
  exit 1
fi
capability=${gpu%%,*} name=${gpu#*, }
architecture=${capability/./}-real
[[ $capability == 9.0 ]] && architecture=90a-real # with Hopper's own instructions
echo "gpu-check: $name, compute capability $capability, built for $architecture"

if [[ -n $deps ]]; then
  libraries=$(dirname "$(find "$deps/usr/lib" -name libfmt.so | head -1)")
  export LD_LIBRARY_PATH=$libraries:$libraries/openblas-openmp${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
if [[ -z $build ]]; then
  build=$PWD/build/gpu
  options=(-DCMAKE_BUILD_TYPE=Release -DTESSERA_CUDA=ON -DTESSERA_BUILD_BENCH=ON
    -DTESSERA_WERROR=OFF # compilers that came later warn of more
    "-DCMAKE_CUDA_ARCHITECTURES=$architecture")
  [[ -n $deps ]] && options+=("-DCMAKE_PREFIX_PATH=$deps/usr")
  command -v ninja >/dev/null && options+=(-G Ninja)
  cmake -S . -B "$build" "${options[@]}"
  cmake --build "$build" -j "$(nproc)"
fi
logs=$build/gpu-check
mkdir -p "$logs"

rows=() failed=0
row() { rows+=("$(printf '%-34s %-26s %s' "$1" "$2" "$3")"); }
wants() { [[ ,$parts, == *,$1,* ]]; }
field() { sed -nE "s/.*\"$1\": ?\"?([^,}\"]*).*/\1/p" <<<"$2" | head -1; }
round() { LC_ALL=C printf '%.*f' "$1" "$2"; }

# The test programs that have cases for CUDA.
cuda_tests() {
  local program
  for program in "$build"/tests/test_*; do
    [[ -x $program && ! -d $program ]] || continue
    "$program" --list-test-cases --test-suite=cuda --no-colors | grep -q '^\[doctest\] unskipped.*: 0$' || echo "$program"
  done
}

# One program with the cases of the suite "cuda"; the row says what doctest counted.
run_tests() {
  local title=$1 log=$2 count
  shift 2
  if "$@" >"$log" 2>&1; then
    count=$(sed -nE 's/.*test cases: +([0-9]+) .*/\1/p' "$log" | tail -1)
    row "$title" passed "$count cases"
  else
    failed=1
    grep -vE '^$|^=+$' "$log" | tail -60
    row "$title" FAILED "see $log"
  fi
}

if wants tests; then
  if grep -qxF "CMAKE_CACHEFILE_DIR:INTERNAL=$build" "$build/CMakeCache.txt" 2>/dev/null && command -v ctest >/dev/null; then
    if ctest --test-dir "$build" -L cuda --no-tests=error --output-on-failure 2>&1 | tee "$logs/ctest.log"; then
      row "ctest -L cuda" passed "$(sed -nE 's/.*out of ([0-9]+)/\1 entries/p' "$logs/ctest.log" | tail -1)"
    else
      failed=1
      row "ctest -L cuda" FAILED "$(grep 'tests failed' "$logs/ctest.log" | head -1)"
    fi
  else # programs that were built elsewhere
    for program in $(cuda_tests); do
      run_tests "${program##*/}" "$logs/${program##*/}.log" "$program" --test-suite=cuda --no-colors
    done
  fi
fi

if [[ $sanitize -eq 1 ]]; then
  for tool in memcheck racecheck initcheck; do
    for program in $(cuda_tests); do
      # Tensors of more than 2³¹ elements would take hours.
      run_tests "$tool ${program##*/}" "$logs/$tool-${program##*/}.log" \
        compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
        "$program" --test-suite=cuda --test-case-exclude='*2³¹*' --no-colors
    done
  done
fi

if wants kernels; then
  echo "gpu-check: kernels"
  "$build/bench/bench_kernels_cuda" | tee "$logs/kernels.log"
  row "copy" "$(awk '/^copy of/ {print $(NF-1)}' "$logs/kernels.log") GB/s" "ceiling of memory"
  row "product 8192³ in bf16" "$(awk '/^product/ {print $(NF-1)}' "$logs/kernels.log") TFLOP/s" "ceiling of arithmetic"
fi

if wants engines; then
  for program in "$build"/bench/bench_*_cuda; do
    engine=${program##*/bench_} engine=${engine%_cuda}
    [[ $engine == kernels ]] && continue
    echo "gpu-check: the engines, $engine"
    if "$program" 2>&1 | tee "$logs/engine-$engine.log"; then
      row "engines, $engine" ran "$logs/engine-$engine.log"
    else
      failed=1
      row "engines, $engine" FAILED "$logs/engine-$engine.log"
    fi
  done
fi

# A line of a table of training steps from the JSON of ours or of PyTorch.
step_row() {
  local title=$1 json=$2 rate=$3 peak=$4 ms
  ms=$(field ms "$json")
  if [[ -z $ms ]]; then
    row "$title" "did not run" "${json:0:100}"
    return
  fi
  row "$title" "$(round 0 "$rate") tokens/s" "$(round 2 "$ms") ms, $(awk "BEGIN {printf \"%.1f\", 1000 / $ms}") steps/s, peak $(round 2 "$peak") GiB"
}

if wants steps; then
  for config in gpt2_124m gpt_small; do
    echo "gpu-check: configs/$config.json"
    steps=35
    [[ $config == gpt_small ]] && steps=210
    if ! json=$("$build/tessera" bench step "configs/$config.json" --steps "$steps" --json 2>"$logs/$config.log"); then
      failed=1
      json=$(head -1 "$logs/$config.log")
    fi
    echo "$json" >>"$logs/$config.log"
    peak=$(field peak_bytes "$json")
    step_row "$config tessera" "$json" "$(field units_per_second "$json")" "$(awk "BEGIN {print ${peak:-0} / 2^30}")"
  done
fi

if wants peers; then
  if python3 -c 'import torch' 2>/dev/null; then
    for model in gpt2 small; do
      echo "gpu-check: PyTorch, $model"
      python3 bench/peers/gpt.py "$model" --json 2>"$logs/peer-$model.err" | tee "$logs/peer-$model.log"
      while read -r json; do
        step_row "$model PyTorch $(field variant "$json")" "$json" "$(field tokens_per_second "$json")" "$(field peak_gib "$json")"
      done < <(grep '^{' "$logs/peer-$model.log" || true)
    done
    if wants engines; then
      for peer in bench/peers/*.py; do
        engine=${peer##*/} engine=${engine%.py}
        [[ $engine == gpt ]] && continue
        echo "gpu-check: PyTorch, $engine"
        python3 "$peer" 2>"$logs/peer-$engine.err" | tee "$logs/peer-$engine.log" || true
        row "engines, PyTorch's $engine" ran "$logs/peer-$engine.log"
      done
    fi
  else
    echo "gpu-check: python3 has no torch here: no peers"
  fi
fi

printf '\n%s, compute capability %s\n\n' "$name" "$capability"
printf '%s\n' "${rows[@]}"
exit "$failed"
