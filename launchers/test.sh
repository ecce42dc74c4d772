#!/usr/bin/env bash
# Set up with what the tests need, then lint, types and tests. Arguments go to pytest.
# usage: launchers/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/setup.sh

set_up test
# Horovod has no wheel: a compiler builds it, for some minutes at the first time.
if command -v g++ >/dev/null && command -v make >/dev/null; then
    launchers/install_horovod.sh --keep --cpu ||
        { [ -z "${CI:-}" ] || exit 1; echo "skipped: the tests of --engine horovod, which could not be built, see above"; }
else
    echo "skipped: the tests of --engine horovod, which g++ and make would build"
fi
"$PYTHON" -m ruff check . || fail "ruff found something; much of it goes away with: $PYTHON -m ruff check --fix ."
"$PYTHON" -m ruff format --check . || fail "not formatted; run: $PYTHON -m ruff format ."
"$PYTHON" -m codespell_lib || fail "codespell found something, see above; a word that is right goes into pyproject.toml, [tool.codespell]"
"$PYTHON" -m mypy || fail "mypy found something, see above"
"$PYTHON" -m pytest "$@"
