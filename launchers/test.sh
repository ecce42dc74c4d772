#!/usr/bin/env bash
# Set up with what the tests need, then lint, types and the fast tests.
# usage: launchers/test.sh [--all] [--horovod] [--coverage] [PYTEST ARGUMENTS]
#   --all        the slow tests too, with Horovod and with faults of every kind on every engine
#   --horovod    build Horovod if there is none for this torch, so that its tests are not skipped
#   --coverage   tell how many lines the tests reach, and which they do not
# Other arguments go to pytest, which then runs what they name, slow or not.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
source launchers/setup.sh

everything='' horovod='' arguments=()
for argument in "$@"; do
    case $argument in
    --all) everything=1 horovod=1 ;;
    --horovod) horovod=1 ;;
    -h | --help) sed -n '/^# usage:/,/^[^#]/s/^# \{0,1\}//p' launchers/test.sh && exit ;;
    --coverage) arguments+=(--cov --cov-report=term-missing:skip-covered) ;;
    *) named=1 arguments+=("$argument") ;;
    esac
done
if [ -n "$everything" ]; then
    [ -z "${named:-}" ] || fail "--all and arguments of pytest do not go together; leave one out"
    export BITSCALE_FAULTS_ROUNDS=${BITSCALE_FAULTS_ROUNDS:-9} BITSCALE_FAULTS_PATIENCE=${BITSCALE_FAULTS_PATIENCE:-2}
fi
export MALLOC_ARENA_MAX=2  # what threads of many tests have freed stays in glibc's arenas: 10% less memory
if [ -z "${named:-}" ]; then
    # A file on each core, and of all tests one more: some wait for clusters, hosts and lost ranks for minutes, in which
    # their core would idle. Of more than four cores nobody has gained yet.
    workers=$(nproc 2>/dev/null || echo 2)
    [ "$workers" -le 4 ] || workers=4
    [ -z "$everything" ] || workers=$((workers + 1))
    arguments+=(-n "$workers" --dist loadfile --no-loadscope-reorder)
    [ -n "$everything" ] || arguments+=(-m "not slow")
fi

set_up test
if [ -z "$horovod" ]; then
    echo "Horovod is not built; to test with it: launchers/test.sh --horovod"
elif command -v g++ >/dev/null && command -v make >/dev/null; then
    launchers/install_horovod.sh --keep --cpu ||
        { [ -z "${CI:-}" ] || exit 1; echo "skipped: the tests of --engine horovod, which could not be built, see above"; }
else
    echo "skipped: the tests of --engine horovod, which g++ and make would build"
fi
"$PYTHON" -m ruff check . || fail "ruff found something; much of it goes away with: $PYTHON -m ruff check --fix ."
"$PYTHON" -m ruff format --check . || fail "not formatted; run: $PYTHON -m ruff format ."
"$PYTHON" -m codespell_lib || fail "codespell found something, see above; a word that is right goes into pyproject.toml, [tool.codespell]"
"$PYTHON" -m mypy || fail "mypy found something, see above"
# The workers have all cores: threads of one that wait for each other would spin in the time of another, ten times as long
# as they compute.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive
"$PYTHON" -m pytest "${arguments[@]}"
