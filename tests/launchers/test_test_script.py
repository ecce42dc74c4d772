"""What test.sh hands to pytest, and what it says of the rest; the tools are not run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_setup import LAUNCHERS, fake

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launchers are bash scripts")
PYTHON = """case "$*" in
-) echo torch==9.9 ;;
"-m pytest"*) echo "threads: $OMP_NUM_THREADS, $OMP_WAIT_POLICY"; echo "$*; rounds ${BITSCALE_FAULTS_ROUNDS:-few}" ;;
esac"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """test.sh of a copy of the launchers, beside a Python that answers and a Horovod that is built at once."""
    launchers = folder / "launchers"
    launchers.mkdir()
    for name in ("test.sh", "setup.sh"):
        shutil.copy(LAUNCHERS / name, launchers)
    fake(launchers, "install_horovod.sh", "echo building")
    (folder / "constraints.txt").touch()
    (folder / "bin").mkdir()
    fake(folder / "bin", "python", PYTHON)
    fake(folder / "bin", "nproc", "echo 3")
    path = f"{folder / 'bin'}:{Path('/usr/bin')}:{Path('/bin')}"
    return subprocess.run(
        ["bash", launchers / "test.sh", *arguments],
        env={"PATH": path, "VIRTUAL_ENV": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "pytest_line", "builds"),
    [
        ([], "-m pytest -n 3 --dist loadfile --no-loadscope-reorder -m not slow; rounds few", False),
        (["--all"], "-m pytest -n 4 --dist loadfile --no-loadscope-reorder; rounds 9", True),
        (["tests/a.py", "-k", "b"], "-m pytest tests/a.py -k b; rounds few", False),
        (["--horovod", "tests/a.py"], "-m pytest tests/a.py; rounds few", True),
        (["--coverage", "a.py"], "-m pytest --cov --cov-report=term-missing:skip-covered a.py; rounds few", False),
    ],
)
def test_what_pytest_is_given(arguments: list[str], pytest_line: str, builds: bool, tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["threads: 1, passive", pytest_line]
    if shutil.which("g++", path="/usr/bin:/bin") and shutil.which("make", path="/usr/bin:/bin"):
        assert ("building" in done.stdout) is builds
    assert ("to test with it: launchers/test.sh --horovod" in done.stdout) is not builds


def test_all_and_arguments_of_pytest_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--all", "tests/a.py")
    assert done.returncode == 2
    assert "--all and arguments of pytest do not go together" in done.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_sets_nothing_up(tmp_path: Path, flag: str) -> None:
    done = run(tmp_path, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: launchers/test.sh [--all] [--horovod] [--coverage] [PYTEST ARGUMENTS]\n")
    assert "--horovod    build Horovod" in done.stdout
    assert "checking what is installed" not in done.stdout


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCHERS.glob("*.sh") if os.access(path, os.X_OK)))
def test_every_script_has_help(script: str) -> None:
    """With no Python to be found, so that none is asked to install anything."""
    environment = {"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": "/nowhere"}
    done = subprocess.run(
        [LAUNCHERS / script, "--help"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "usage: " in done.stdout or script in done.stdout) == (0, True), done.stderr
