"""A Python file of the user called like one of our packages is run by no program of ours, nor by what it prints."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from started_program import FRONT, ROOT, started

from benchmarks.lib.processes import run_module
from data_pipelines.common.program import be_called, retyped
from trainer.sweep.worker_pool import WORKER

DECOYS = ("trainer", "launchers", "data_pipelines", "benchmarks", "bitscale")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with such files, each of which leaves a file "decoy ran"."""
    for name in DECOYS:
        (tmp_path / f"{name}.py").write_text("open('decoy ran', 'w'); raise SystemExit('the decoy ran')\n")
    return tmp_path


def has_run_ours(folder: Path, command: list[str], **environment: str) -> bool:
    """Whether a command shows our help in the folder, and no decoy runs."""
    done = started(command, folder, **environment)
    assert not (folder / "decoy ran").exists(), done.stderr
    return done.returncode == 0 and done.stdout.startswith("usage: ")


def test_decoys_are_found_to_have_run(folder: Path) -> None:
    done = started([sys.executable, "-m", "trainer.status", "--help"], folder)
    assert (done.stderr, (folder / "decoy ran").exists()) == ("the decoy ran\n", True)


@pytest.mark.parametrize("name", ["status", "submit"])
def test_the_command_runs_no_decoy(name: str, folder: Path) -> None:
    script = folder / "bin" / "bitscale"
    script.parent.mkdir()
    script.write_text("from bitscale.cli import main\nmain()\n")
    assert has_run_ours(folder, [sys.executable, str(script), name, "--help"])


def test_python_m_bitscale_runs_no_other_decoy(folder: Path) -> None:
    (folder / "bitscale.py").unlink()
    assert has_run_ours(folder, [*FRONT, "status", "--help"])
    assert has_run_ours(folder, [*FRONT, "submit", "--help"])


PROGRAMS = ["trainer/status.py", "trainer/transfer.py", "data_pipelines/prepare.py", "launchers/submit.py"]


@pytest.mark.parametrize("program", [*PROGRAMS, "benchmarks/scaling.py"])
def test_programs_called_by_their_path_run_no_decoy(program: str, folder: Path) -> None:
    assert has_run_ours(folder, [sys.executable, str(ROOT / program), "--help"])


def test_a_python_path_with_decoys_hides_nothing(folder: Path) -> None:
    """As launchers of others set it for the ranks that they start."""
    (folder / "data_pipelines.py").unlink()
    paths = os.pathsep.join([str(folder), str(ROOT)])
    assert has_run_ours(folder, [sys.executable, str(ROOT / "trainer" / "status.py"), "--help"], PYTHONPATH=paths)


@pytest.mark.slow
def test_workers_of_a_sweep_run_no_decoy(folder: Path) -> None:
    for name in ("progress", "plan"):  # as modules beside the worker are called
        (folder / f"{name}.py").write_text("raise SystemExit('the decoy ran')\n")
    done = started(WORKER, folder)
    assert (done.returncode, done.stdout) == (0, '{"event": "ready"}\n'), done.stderr
    assert not (folder / "decoy ran").exists()


def test_an_old_plan_runs_no_decoy(folder: Path) -> None:
    task = {"name": "old", "command": ["python", "-m", "trainer.transfer", "--help"], "done": "result.json"}
    (folder / "plan.json").write_text(json.dumps({"name": "plan", "tasks": [task]}))
    done = started([sys.executable, str(ROOT / "launchers" / "job.py"), "tasks", "plan.json"], folder)
    assert "usage: python " in done.stdout
    assert "transfer.py" in done.stdout
    assert not (folder / "decoy ran").exists()


def test_a_batch_script_starts_no_module_by_name(folder: Path) -> None:
    task = {"name": "old", "command": ["python", "-m", "trainer.transfer", "--help"], "done": "result.json", "nodes": 2}
    (folder / "plan.json").write_text(json.dumps({"name": "plan", "tasks": [task]}))
    submit = [sys.executable, str(ROOT / "launchers" / "submit.py"), "plan.json", "--site", "localhost", "--dry-run"]
    script = started(submit, folder).stdout
    agent = f"launch python {ROOT / 'launchers' / 'agent.py'} --nnodes 2"
    assert f"{agent} {ROOT / 'trainer' / 'transfer.py'} --help" in script
    assert f"# Written by: python {ROOT / 'launchers' / 'submit.py'} plan.json" in script
    assert "-m " not in script


def test_child_processes_of_benchmarks_run_no_decoy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = run_module("trainer.status", "--help")
    assert (done.returncode, done.stdout[:7]) == (0, "usage: ")
    assert not (folder / "decoy ran").exists()


@pytest.mark.slow
def test_the_remedy_of_an_error_runs_no_decoy(folder: Path) -> None:
    refused = started([sys.executable, str(ROOT / "data_pipelines" / "inspect.py"), "digits"], folder)
    python, *words = shlex.split(refused.stderr.partition("prepare it with: ")[2])
    assert (python, words[1:]) == ("python", ["digits", "--out", "data/digits"])
    assert has_run_ours(folder, [sys.executable, words[0], "digits", "--help"])


@pytest.mark.parametrize(
    ("called", "argv0", "expected"),
    [
        ("bitscale pretrain", "bin/bitscale", "bitscale report runs"),
        ("python -m bitscale pretrain", "bitscale/__main__.py", "python -m bitscale report runs"),
        (None, "bin/bitscale-pretrain", "bitscale report runs"),
        (None, "notebook.py", "bitscale report runs"),
        (None, str(ROOT / "trainer" / "pretrain.py"), f"python {ROOT / 'trainer' / 'report.py'} runs"),
    ],
)
def test_advice_is_typed_as_the_program_was(
    called: str | None, argv0: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [argv0])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    be_called(called)
    try:
        for form in ("bitscale report", "bitscale-report", "python -m trainer.report", "python trainer/report.py"):
            assert retyped(f"{form} runs") == expected
        if called is not None:
            assert retyped(f"{called} --help tells more") == f"{called} --help tells more"
    finally:
        be_called(None)


@pytest.mark.parametrize(
    ("typed", "is_installed", "expected"),
    [
        ("launchers/torchrun.sh -- embedded", True, "bitscale report"),
        ("launchers/torchrun.sh -- embedded", False, f"python {ROOT / 'trainer' / 'report.py'}"),
        (None, True, f"python {ROOT / 'trainer' / 'report.py'}"),
    ],
)
def test_ranks_of_launchers_advise_what_is_installed(
    typed: str | None, is_installed: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "bin" / "bitscale"
    installed.parent.mkdir()
    installed.write_text("#!/bin/sh\n", encoding="utf-8")
    installed.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "trainer" / "pretrain.py")])
    monkeypatch.setattr(sys, "executable", str(installed.parent / "python") if is_installed else sys.executable)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setenv("PATH", str(installed.parent))
    monkeypatch.delenv("BITSCALE_COMMAND", raising=False)
    if typed is not None:
        monkeypatch.setenv("BITSCALE_COMMAND", typed)
    assert retyped("bitscale report runs") == f"{expected} runs"
