"""setup.sh on machines that lack something; the packages are not installed again."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

LAUNCHERS = Path(__file__).resolve().parents[2] / "launchers"
TOOLS = ["bash", "df", "awk", "dirname", "mktemp", "rm", "grep", "cat"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launchers are bash scripts")


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A PATH with the tools that setup.sh needs, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return folder


def set_up(tmp_path: Path, bin_folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "constraints.txt").write_text("torch==9.9\ntorchvision==9.9\nnumpy==9.9\n")
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source {LAUNCHERS / 'setup.sh'}; set_up; echo ready"],
        cwd=tmp_path,
        env={"PATH": str(bin_folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(number: str, torch: str | None = None, pip: str = "exit 0", installed: Path | None = None) -> str:
    """A script that answers what setup.sh asks: its version, torch and bitscale that are there, and to install."""
    ok = tuple(map(int, number.split("."))) >= (3, 10)
    kept = f"echo torch=={torch}" if torch else ":"
    return f"""case "$*" in
-V) echo "Python {number}" ;;
"-c import sys;"*) exit {0 if ok else 1} ;;
"-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
"-m pip"*) {pip} ;;
"-c import torch, torchvision") exit 0 ;;
"-I -c import json;"*) {f"echo '{installed}'" if installed else "exit 1"} ;;
-) {kept} ;;
esac"""


def test_no_python(tmp_path: Path, bin_folder: Path) -> None:
    done = set_up(tmp_path, bin_folder)
    assert done.returncode == 2
    assert "no Python 3.10 or newer found" in done.stderr


def test_old_python(tmp_path: Path, bin_folder: Path) -> None:
    fake(bin_folder, "python3", fake_python("3.8"))
    assert "no Python 3.10 or newer found" in set_up(tmp_path, bin_folder).stderr
    fake(bin_folder, "python", fake_python("3.8"))
    done = set_up(tmp_path, bin_folder, VIRTUAL_ENV="/some/venv")
    assert done.returncode == 2
    assert "the active environment has Python 3.8" in done.stderr


def test_no_venv_module(tmp_path: Path, bin_folder: Path) -> None:
    fake(bin_folder, "python3", 'case "$*" in "-m venv"*) exit 1 ;; esac')
    done = set_up(tmp_path, bin_folder)
    assert done.returncode == 2
    assert "apt-get install python3-venv" in done.stderr


def test_full_disk(tmp_path: Path, bin_folder: Path) -> None:
    fake(bin_folder, "python", fake_python("3.11"))
    (bin_folder / "df").unlink()
    fake(bin_folder, "df", "echo header; echo /dev/x 1 1 3145728 1% /")
    done = set_up(tmp_path, bin_folder, VIRTUAL_ENV="/some/venv")
    assert done.returncode == 2
    assert "3 GB free where the packages go" in done.stderr


def test_failed_installation(tmp_path: Path, bin_folder: Path) -> None:
    fake(bin_folder, "python", fake_python("3.11", torch="2.11.0", pip="exit 1"))
    done = set_up(tmp_path, bin_folder, VIRTUAL_ENV="/some/venv")
    assert done.returncode == 2
    assert "the installation failed, see above; it needs a package index" in done.stderr
    assert "ready" not in done.stdout


def test_another_checkout_that_is_installed_is_named(tmp_path: Path, bin_folder: Path) -> None:
    other = tmp_path / "another one"
    other.mkdir()
    told = []
    for installed in (other, tmp_path, None):
        fake(bin_folder, "python", fake_python("3.11", torch="2.11.0", installed=installed))
        done = set_up(tmp_path, bin_folder, VIRTUAL_ENV="/some/venv")
        assert done.returncode == 0, done.stderr
        told.append([line for line in done.stdout.splitlines() if "To go back" in line])
    assert told[1:] == [[], []]
    (line,) = told[0]
    assert line.startswith(f"bitscale was that of {other} there; now it is that of {tmp_path}. To go back: ")
    assert line.endswith(r"/python -m pip install --editable " + str(other).replace(" ", r"\ "))


@pytest.mark.slow
def test_installed_torch_is_kept(tmp_path: Path, bin_folder: Path) -> None:
    """Run with this interpreter, less its pip: the constraints name the torch that is here."""
    fake(bin_folder, "python", f'case "$*" in "-m pip"*) cat "${{@: -1}}" ;; *) exec {sys.executable} "$@" ;; esac')
    done = set_up(tmp_path, bin_folder, VIRTUAL_ENV="/some/venv")
    assert done.returncode == 0, done.stderr
    assert f"torch=={version('torch')}" in done.stdout
    assert "torch==9.9" not in done.stdout
    assert "numpy==9.9" in done.stdout
    assert done.stdout.endswith("ready\n")
