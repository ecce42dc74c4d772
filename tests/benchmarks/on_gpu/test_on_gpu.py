"""`on_gpu.sh` does without what a bare machine lacks, survives parts that fail, and passes no CPU for a GPU."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.lib.on_gpu import run as on_gpu
from benchmarks.lib.on_gpu.parts import PARTS, Part
from benchmarks.lib.on_gpu.run import LOG, RESULTS, TABLES, OnGpu, environment_of, open_results
from data_pipelines.common.errors import InputError

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "on_gpu.sh"
DESCRIBED = {"device": "cpu", "machine": {"gpu": None, "cpu": "a"}, "commit": None, "versions": {}}
# A machine with torch, Triton, timm and what these need has none of them.
LACKING = (
    *("nvidia.dali", "deepspeed", "horovod", "torchxrayvision", "pandas", "matplotlib", "sklearn", "scipy"),
    *("tensorboard", "pynvml", "webdataset", "pydicom", "hypothesis"),
)
BLOCKER = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find_some(name, path=None, target=None):
    if any(name == lacking or name.startswith(lacking + ".") for lacking in {lacking!r}):
        return None
    return find_spec(name, path, target)

PathFinder.find_spec = find_some
"""
# Stands for Python: three programs end as they should not, a fourth writes a result, all else is Python's.
STUB = """#!/bin/sh
case "$2" in
benchmarks.steps) echo "loss is not what it was" >&2; exit 3 ;;
benchmarks.group_norm) sleep 600 & echo "layer 1 is done"; wait ;;
benchmarks.tile_sweep) echo "all is well"; exit 0 ;;
benchmarks.optimizer)
    while [ "$1" != --out ]; do shift; done
    echo '{{"ms": 1}}' > "$2"; echo "a table" > "${{2%.json}}.md"; exit 0 ;;
esac
exec {python} "$@"
"""


def script(*arguments: str, cwd: Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The script as somebody calls it who has no virtual environment."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_rehearsal_of_two_parts_on_a_bare_machine(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(lacking=LACKING))
    wanted = ("--part", "steps", "optimizer_r152x4", "loading")
    done = script("results", *wanted, "--device", "cpu", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results"
    assert {path.name for path in folder.iterdir()} == {RESULTS, TABLES, LOG}
    results = json.loads((folder / RESULTS).read_text())
    assert results["device"] == "cpu"
    assert results["machine"]["gpu"] is None
    assert {name: part["state"] for name, part in results["parts"].items()} == {
        "steps": "done",
        "optimizer_r152x4": "done",
        "loading": "left out",
    }
    assert results["parts"]["steps"]["result"]["precisions"].keys() == {"bf16", "fp32"}
    assert results["parts"]["optimizer_r152x4"]["result"]["ms"]["ours"]["median"] > 0
    tables = (folder / TABLES).read_text()
    assert tables.startswith("# CPU rehearsal: no figure here is a GPU's")
    assert "## steps (CPU rehearsal)" in tables
    assert "nvidia.dali is not installed" in tables


@pytest.mark.slow
def test_every_program_is_imported_on_a_bare_machine(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(lacking=LACKING))
    environment = environment_of(None, "cpu") | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    modules = sorted({part.module for part in PARTS.values()} | {"benchmarks.on_gpu", "benchmarks.lib.on_gpu.machine"})
    imports = "".join(f"import {module}\n" for module in modules)
    absent = "import importlib.util\nassert importlib.util.find_spec('pandas') is None\n"
    command = [sys.executable, "-c", absent + imports]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_parts_that_fail_or_hang_do_not_end_the_others(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    parts = ("group_norm", "steps", "tile_sweep", "optimizer_r152x4")
    started = time.monotonic()
    done = script(str(tmp_path / "out"), "--part", *parts, "--device", "cpu", "--limit-s", "2", PYTHON=str(stub))
    assert done.returncode == 1
    assert time.monotonic() - started < 120  # not the 600 s of the hanging part's child
    ended = json.loads((tmp_path / "out" / RESULTS).read_text())["parts"]
    assert {name: part["state"] for name, part in ended.items()} == {
        "group_norm": "too slow",
        "steps": "failed",
        "tile_sweep": "failed",  # it ended well and left nothing
        "optimizer_r152x4": "done",
    }
    assert ended["steps"]["reason"] == "exit code 3: loss is not what it was"
    assert ended["group_norm"]["reason"] == "ended after 2 s: layer 1 is done"
    assert ended["optimizer_r152x4"]["result"] == {"ms": 1}
    assert "3 of 4 parts did not end well: group_norm, steps, tile_sweep" in done.stderr
    log = (tmp_path / "out" / LOG).read_text()
    for line in ("loss is not what it was", "layer 1 is done", "| steps | failed |"):
        assert line in log
        assert line in done.stdout
    assert "a table" in (tmp_path / "out" / TABLES).read_text()


def is_alive(state: Path) -> bool:
    """Whether a process runs, by its file below /proc; a dead one may stay as a zombie."""
    with suppress(OSError):
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_part_is_ended_with_its_children_and_its_stack_shown(tmp_path: Path) -> None:
    log = on_gpu.Log(tmp_path / LOG)
    waits = (
        "import subprocess, sys\nc = subprocess.Popen(['sleep', '600'])\nprint(c.pid)\ndef stuck(): c.wait()\nstuck()"
    )
    program = on_gpu.Program([sys.executable, "-c", waits], environment_of(None, "cpu"), log)
    while not (pid := (tmp_path / LOG).read_text().strip()):
        time.sleep(0.05)
    assert program.wait(0.1) is None
    state = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 10
    while is_alive(state) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(state)
    assert "in stuck" in (tmp_path / LOG).read_text()


@pytest.mark.slow
def test_a_run_that_is_ended_ends_its_part(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    command = ["bash", str(SCRIPT), str(tmp_path / "out"), "--part", "group_norm", "--device", "cpu"]
    running = subprocess.Popen(command, env=os.environ | {"PYTHON": str(stub)}, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    while "layer 1 is done" not in running.stdout.readline():
        assert running.poll() is None
    running.terminate()
    assert running.wait(60) == 128 + 15
    assert running.stdout.read() is not None  # ends: nobody holds the other end any more


@pytest.mark.slow
def test_a_real_run_without_a_gpu_is_refused(tmp_path: Path) -> None:
    done = script(str(tmp_path / "out"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "no GPU" in done.stderr
    assert "--device cpu" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_python_without_torch_is_told(tmp_path: Path) -> None:
    for name in ("python", "python3"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    copy = tmp_path / "benchmarks" / "on_gpu.sh"
    copy.parent.mkdir()
    copy.write_text(SCRIPT.read_text())
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", str(copy)], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no torch in" in done.stderr
    assert "PYTHON=" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": ("frist",)}, "unknown part 'frist'; did you mean 'first'"),  # codespell:ignore frist
        ({"device": "gpu"}, "--device gpu: take cuda"),
        ({"limit_s": 0.0}, "above 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OnGpu(**arguments)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        open_results(tmp_path / "file" / "out", DESCRIBED)


@pytest.mark.parametrize(("name", "other"), [("device", "cuda"), ("commit", "abc"), ("versions", {"torch": "1"})])
def test_results_of_another_machine_are_not_mixed(tmp_path: Path, name: str, other: object) -> None:
    on_gpu.write_files(
        tmp_path, DESCRIBED | {"parts": {"steps": {"state": "done", "reason": "", "seconds": 1, "limit_s": 2}}}
    )
    assert "steps" in open_results(tmp_path, DESCRIBED)["parts"]
    with pytest.raises(InputError, match=f"another {name}"):
        open_results(tmp_path, DESCRIBED | {name: other})


def test_results_that_cannot_be_read_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        open_results(tmp_path, DESCRIBED)


def test_two_runs_of_under_six_minutes() -> None:
    for run in ("first", "second"):
        parts = [part for part in PARTS.values() if part.run == run]
        assert sum(part.limit_s for part in parts) <= 345  # and some seconds to begin with
    seconds = [name for name, part in PARTS.items() if part.run == "second"]
    assert list(OnGpu(part=("second", "steps")).chosen()) == ["steps", *seconds]
    assert OnGpu().chosen() == PARTS


def test_a_rehearsal_is_small_and_a_limit_is_the_least() -> None:
    part = Part("first", 10, "m", ("large",), ("small",), {"VARIABLE": "1"})
    assert OnGpu(device="cpu").limit_of(part) == 30
    assert OnGpu(limit_s=5).limit_of(part) == 5
    assert OnGpu(limit_s=50).limit_of(part) == 10
    assert environment_of(part, "cpu")["VARIABLE"] == "1"
    assert "VARIABLE" not in environment_of(part, "cuda")
