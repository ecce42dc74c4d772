#!/usr/bin/env bash
# Every figure that needs a GPU, part by part, each under a limit of its own; benchmarks/on_gpu.py says which.
# usage: benchmarks/on_gpu.sh [FOLDER] [--part first|second|later|NAME ...] [--device cuda|cpu]   default: gpu-results, all
# Needs no virtual environment: $PYTHON, or the active environment's, or .venv's, or a python3 that has torch.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)

has_torch() { command -v "$1" >/dev/null && "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; }

if [ -n "${PYTHON:-}" ]; then
    candidates=("$PYTHON")
elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    candidates=(python)
else
    candidates=("$root/.venv/bin/python" python3 python)
fi
PYTHON=
for candidate in "${candidates[@]}"; do
    if has_torch "$candidate"; then
        PYTHON=$(command -v "$candidate")
        break
    fi
done
if [ -z "$PYTHON" ]; then
    echo "error: no torch in ${candidates[*]}; name a Python that has it, as in PYTHON=/opt/torch/bin/python $0" >&2
    exit 2
fi
export PYTHON PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" "$root/benchmarks/on_gpu.py" "$@"
