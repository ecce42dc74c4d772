#!/usr/bin/env bash
# Set up with what the tests need, then lint, types and tests. Arguments go to pytest.
# usage: launchers/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/setup.sh

set_up test
"$PYTHON" -m ruff check . || fail "ruff found something; much of it goes away with: $PYTHON -m ruff check --fix ."
"$PYTHON" -m ruff format --check . || fail "not formatted; run: $PYTHON -m ruff format ."
"$PYTHON" -m mypy || fail "mypy found something, see above"
"$PYTHON" -m pytest "$@"
