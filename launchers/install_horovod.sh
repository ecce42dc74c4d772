#!/usr/bin/env bash
# Build Horovod for the torch of this environment, install it, and check it with an all-reduce over two ranks.
# With a GPU, nvcc and NCCL it is built for NCCL, else for Gloo on the CPU. Wheels are kept in BITSCALE_WHEELS
# (default ~/.cache/bitscale/wheels) and used again. About five minutes of one core when there is none yet.
# usage: launchers/install_horovod.sh [--keep] [--cpu|--nccl]
#   --keep    leave a Horovod that was built for this torch as it is
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
source launchers/setup.sh
case " $* " in *' -h '* | *' --help '*) sed -n '/^# usage:/,/^[^#]/s/^# \{0,1\}//p' launchers/install_horovod.sh && exit ;; esac

readonly VERSION=0.28.1
readonly SHA256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
readonly BUILD_TOOLS=(setuptools wheel packaging cloudpickle psutil pyyaml)

nccl_home() {
    "$PYTHON" - <<'PY'
import importlib.util, os
from pathlib import Path
folders = [os.environ.get("HOROVOD_NCCL_HOME"), os.environ.get("NCCL_HOME"), "/usr", "/usr/local"]
wheel = importlib.util.find_spec("nvidia.nccl") if importlib.util.find_spec("nvidia") else None
folders += list(wheel.submodule_search_locations) if wheel else []
print(next((f for f in folders if f and (Path(f) / "include/nccl.h").exists()), ""))
PY
}

pick_target() {
    case "${1:-}" in
    --cpu) echo cpu ;;
    --nccl) echo nccl ;;
    "") if nvidia-smi >/dev/null 2>&1 && command -v nvcc >/dev/null && [ -n "$(nccl_home)" ]; then echo nccl; else echo cpu; fi ;;
    *) fail "unknown argument $1; usage: launchers/install_horovod.sh [--keep] [--cpu|--nccl]" ;;
    esac
}

require_tools() {
    command -v g++ >/dev/null && command -v make >/dev/null ||
        fail "Horovod is compiled here and needs g++ and make; on Debian and Ubuntu: apt-get install g++ make, on a cluster: module load a GCC that torch accepts"
    [ "$target" = cpu ] || command -v nvcc >/dev/null || fail "--nccl needs nvcc; load the CUDA module, or take --cpu"
    [ "$target" = cpu ] || [ -n "$(nccl_home)" ] || fail "--nccl needs NCCL's headers; name their folder's parent in HOROVOD_NCCL_HOME, or take --cpu"
}

# The release predates C++20, which torch's headers ask for, and builds for CUDA wherever torch was.
edit_sources() {
    local standard=17
    "$PYTHON" -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 14))' && standard=20
    sed -i "s/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD $standard/" "$1/CMakeLists.txt" "$1/horovod/torch/CMakeLists.txt"
    [ "$target" = nccl ] || sed -i 's/(torch.version.cuda is not None)/False/' "$1/cmake/Modules/FindPytorch.cmake"
}

build_wheel() {
    local folder
    require_tools
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "${BUILD_TOOLS[@]}"
    command -v cmake >/dev/null || "$PYTHON" -m pip install --quiet --disable-pip-version-check cmake
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # the name is known now
    trap "rm -rf '$folder'" EXIT
    echo "horovod==$VERSION --hash=sha256:$SHA256" >"$folder/requirements.txt"
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary :all: \
        --require-hashes -r "$folder/requirements.txt" -d "$folder" ||
        fail "horovod $VERSION could not be downloaded or is not the file that was checked (SHA-256 $SHA256)"
    tar -xzf "$folder/horovod-$VERSION.tar.gz" -C "$folder"
    edit_sources "$folder/horovod-$VERSION"
    echo "building horovod $VERSION for $key; this takes a few minutes ..."
    if [ "$target" = nccl ]; then
        export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_HOME
        HOROVOD_NCCL_HOME=$(nccl_home)
    fi
    PATH=$(dirname "$PYTHON"):$PATH HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)" \
        "$PYTHON" -m pip wheel --disable-pip-version-check --no-build-isolation --no-deps \
        "$folder/horovod-$VERSION" -w "$folder/wheel" >"$folder/log" 2>&1 || {
        tail -n 40 "$folder/log" >&2
        fail "horovod $VERSION did not build for $key, see above"
    }
    mkdir -p "$wheels"
    mv "$folder"/wheel/horovod-*.whl "$wheels/"
}

verify() {
    local script='import torch, horovod.torch as hvd; hvd.init(); x = hvd.allreduce(torch.arange(3.0) * (hvd.rank() + 1), op=hvd.Sum); assert x.tolist() == [0.0, 3.0, 6.0], x'
    PATH=$(dirname "$PYTHON"):$PATH "$PYTHON" -m horovod.runner.launch --gloo -np 2 -H localhost:2 "$PYTHON" -c "$script" ||
        fail "horovod is installed, but two ranks on this machine cannot add up a tensor with it, see above"
}

installed_for_this_torch() {
    "$PYTHON" - <<'PY'
import importlib.util, json, sys
from pathlib import Path
import torch
found = importlib.util.find_spec("horovod")
sys.exit(not found or json.loads((Path(found.origin).parent / "metadata.json").read_text())["pytorch"] != torch.__version__)
PY
}

find_python
if [ "${1:-}" = --keep ]; then
    if installed_for_this_torch; then exit; fi
    shift
fi
target=$(pick_target "$@")
key=$("$PYTHON" -c 'import sys, platform, torch; print(f"torch{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}")')-$target
wheels=${BITSCALE_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/bitscale/wheels}/horovod-$VERSION-$key
ls "$wheels"/horovod-*.whl >/dev/null 2>&1 || build_wheel
# The dependencies first, so that an older horovod of the same version is replaced by this build and nothing else is.
"$PYTHON" -m pip install --quiet --disable-pip-version-check cloudpickle psutil pyyaml packaging
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/horovod-*.whl
verify
echo "horovod $VERSION for $key is installed"
