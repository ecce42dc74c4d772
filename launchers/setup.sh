# Sourced by quickstart.sh and test.sh: `set_up [EXTRA]` leaves a Python environment with bitscale installed in $PYTHON.
# Uses the active virtual environment, or makes .venv in the repository. Safe to run again.

fail() {
    echo "error: $*" >&2
    exit 2 # a user's error, as of the other programs
}

readonly NEEDED_GB=12 # of disk: torch with its CUDA libraries, DALI, and room for pip to unpack

version_ok() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        version_ok python || fail "the active environment has $(python -V 2>&1 || echo 'no Python'); activate one with Python 3.10 or newer, or deactivate it"
        PYTHON=$(command -v python)
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
            if command -v "$candidate" >/dev/null && version_ok "$candidate"; then break; fi
            candidate=
        done
        [ -n "$candidate" ] || fail "no Python 3.10 or newer found; install one, or activate an environment that has one"
        "$candidate" -m venv .venv || {
            rm -rf .venv
            fail "$candidate cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
        }
    fi
    PYTHON=$PWD/.venv/bin/python
}

check_disk() {
    local free_gb
    free_gb=$(df -Pk "$(dirname "$PYTHON")" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free_gb" -ge "$NEEDED_GB" ] ||
        fail "$free_gb GB free where the packages go ($(dirname "$PYTHON")), $NEEDED_GB GB needed; free some, or activate an environment on a larger disk"
}

# The constraints to install under: as tested, but a new enough torch stays, with its torchvision.
constraints() {
    local kept
    kept=$("$PYTHON" - <<'PY'
from importlib.metadata import PackageNotFoundError, version

def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None

torch = installed("torch")
if torch and tuple(int(part) for part in torch.split("+")[0].split(".")[:2]) >= (2, 11):
    print(f"torch=={torch}")
    if installed("torchvision"):
        print(f"torchvision=={installed('torchvision')}")
PY
    )
    if [ -n "$kept" ]; then
        grep -vE '^(torch|torchvision)==' constraints.txt
        echo "$kept"
    else
        check_disk
        cat constraints.txt
    fi
}

# The folder that bitscale is installed from, where it is.
installed_from() {
    "$PYTHON" -I -c 'import json; from importlib.metadata import distribution; from urllib.parse import unquote, urlsplit
print(unquote(urlsplit(json.loads(distribution("bitscale").read_text("direct_url.json"))["url"]).path))' 2>/dev/null || true
}

set_up() {
    local extra=${1:-} file earlier
    find_python
    earlier=$(installed_from)
    file=$(mktemp)
    # shellcheck disable=SC2064 # the name is known now
    trap "rm -f '$file'" EXIT
    constraints >"$file" || exit 1
    echo "checking what is installed in $(dirname "$(dirname "$PYTHON")"), and installing what is missing ..."
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" --constraint "$file" ||
        fail "the installation failed, see above; it needs a package index (set PIP_INDEX_URL for a mirror) or a folder of wheels (PIP_FIND_LINKS with PIP_NO_INDEX=1)"
    [ -z "$earlier" ] || [ "$earlier" -ef . ] ||
        echo "bitscale was that of $earlier there; now it is that of $PWD. To go back: $PYTHON -m pip install --editable $(printf %q "$earlier")"
    "$PYTHON" -c 'import torch, torchvision' ||
        fail "torch and torchvision do not fit each other; reinstall both: $PYTHON -m pip install --force-reinstall torch torchvision"
}
