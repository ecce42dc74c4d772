#!/usr/bin/env bash
# Every figure of step time, optimiser and memory that needs a GPU: first whether the results are right, the tables last.
# usage: benchmarks/on_gpu.sh [FOLDER]   default: gpu-results
set -euo pipefail
out=$(realpath -m "${1:-gpu-results}")
cd "$(dirname "$0")/.."
source launchers/setup.sh
find_python

mkdir -p "$out"
"$PYTHON" -c 'from benchmarks.outcome import measured_device; measured_device("cuda")' 2>/dev/null ||
    fail "$PYTHON has no GPU to use, or no bitscale: pip install -e '.[test]'"
"$PYTHON" -m benchmarks.group_norm --out "$out/group_norm.json"
"$PYTHON" benchmarks/throughput.py --device cuda --out "$out/throughput_r50x1.json"
"$PYTHON" benchmarks/throughput.py --device cuda --model r152x4 --batch-size 32 --contenders timm_nhwc --rounds 3 \
    --out "$out/throughput_r152x4.json"
"$PYTHON" benchmarks/optimizer.py --device cuda --model r152x4 --out "$out/optimizer_r152x4.json"
printf '\n'
cat "$out"/*.md
