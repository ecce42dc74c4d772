"""What holds for every command: how it begins and ends, and what it says to numbers that cannot be meant."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import INTERNAL, ROOT, dataclasses_of_commands, modules, parsers, sources

from data_pipelines import inspect, prepare
from data_pipelines.common import cli
from data_pipelines.common.errors import InputError
from trainer import pretrain, transfer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HUGE = "1" + "0" * 400
MAINS: dict[str, Callable[[], None]] = {
    "pretrain": pretrain.main,
    "transfer": transfer.main,
    "prepare": prepare.main,
    "inspect": inspect.main,
}
FROM_SCRATCH = ["--pretrained", "scratch", "--model.name", "r14x0.5", "--target", "fashion_mnist"]
ABSURD = [
    ("pretrain", ["--seed", HUGE], f"--seed is {HUGE}; it must be below 9,223,372,036,854,775,808"),
    ("pretrain", ["--schedule.epochs", "1e30"], "--schedule.epochs is 1e+30; it must be below 2,147,483,648"),
    ("pretrain", ["--optim.base-lr", "inf"], "--optim.base-lr is inf; it must be finite"),
    ("pretrain", ["--data.mixup-alpha", "inf"], "--data.mixup-alpha is inf; it must be finite"),
    ("pretrain", ["--data.randaugment-ops", HUGE], "--data.randaugment-ops is"),
    ("pretrain", ["--data.image-size", "2000000000", "--data.resize", "2000000000"], "the largest is 65535"),
    ("pretrain", ["--read-ahead", "2000000000"], "--read-ahead is 2000000000; it must lie in 0 to 1024"),
    ("pretrain", ["--threads", "2000000000"], "--threads is 2000000000; it must be below 4,096"),
    ("pretrain", ["--timeout-s", HUGE], "--timeout-s is"),
    ("transfer", [*FROM_SCRATCH, "--seed", "-1"], "--seed is -1; it must not be negative"),
    ("transfer", [*FROM_SCRATCH, "--optim.base-lr", "inf"], "--optim.base-lr is inf; it must be finite"),
    ("transfer", [*FROM_SCRATCH, "--data.image-size", "2000000000"], "the largest is 65535"),
    ("transfer", ["sweep", "--sources", "scratch", "--targets", "digits", "--seeds", HUGE], "--seeds is"),
    ("prepare", ["phantom", "--out", "out", "--images", HUGE], "--images is"),
    ("prepare", ["phantom", "--out", "out", "--seed", HUGE], "--seed is"),
    ("prepare", ["image-folder", "--root", ".", "--out", "out", "--shorter-side", HUGE], "--shorter-side is"),
    ("inspect", ["fashion_mnist", "--size", "2000000000"], "--size is 2000000000; it must lie in 1 to 4096"),
    ("inspect", ["fashion_mnist", "--seed", HUGE], "--seed is"),
    ("inspect", ["fashion_mnist", "--randaugment-ops", HUGE], "--randaugment-ops is"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), ABSURD, ids=[" ".join(row[1])[:60] for row in ABSURD])
def test_absurd_numbers_are_refused(
    name: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        MAINS[name]()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


COUNTED = {
    (command, flag)
    for command, kind in dataclasses_of_commands().items()
    for action in parsers()[command]._actions
    for flag in action.option_strings
    if flag in ("--batch-size", "--image-size", "--rounds", "--steps", "--threads", "--windows")
}


@pytest.mark.parametrize(("command", "flag"), sorted(COUNTED))
@pytest.mark.parametrize("number", ["0", "-1"])
def test_what_is_counted_is_at_least_one(command: str, flag: str, number: str) -> None:
    required = [word for action in parsers()[command]._actions if action.required for word in _given(action)]
    with pytest.raises((InputError, SystemExit), match=r"at least|above 0|smallest|1 to|^2$"):
        cli.parse(dataclasses_of_commands()[command], None, args=[*required, flag, number])


def _given(action: object) -> list[str]:
    return [*getattr(action, "option_strings", [])[:1], "4"]


PROGRAMS = sorted({name.split()[0] for name in parsers()} - INTERNAL - {"submit", "sweep"})
VERSION = re.compile(r"bitscale \d+\.\d+\.\d+( \(commit [0-9a-f]{7}(\+changes)?\))?\n")
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


@pytest.mark.parametrize("command", PROGRAMS)
def test_every_command_begins_and_ends_as_entry_point_says(command: str) -> None:
    functions = [node for node in modules()[sources()[command]].body if isinstance(node, ast.FunctionDef)]
    (main,) = (node for node in functions if node.name == "main")
    assert [ast.unparse(decorator) for decorator in main.decorator_list] == ["entry_point"]


@pytest.mark.parametrize("command", [*PROGRAMS, "transfer sweep"])
def test_every_command_says_its_version(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--version"])
    importlib.import_module(sources()[name]).main()
    assert VERSION.fullmatch(capsys.readouterr().out)


def _told(program: str, *arguments: str) -> tuple[str, set[str]]:
    """What such a program prints when asked for its version, and the modules that it has imported."""
    code = "import atexit, runpy, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); " + program
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--version"], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_installed_commands_import_no_torch_for_it(script: str) -> None:
    module, _, function = SCRIPTS[script].partition(":")
    output, imported = _told(f"sys.argv[0] = {script!r}; from {module} import {function}; {function}()")
    assert VERSION.fullmatch(output)
    assert imported & {"torch", "pandas", "scipy", "matplotlib"} == set()


def test_a_script_imports_no_torch_for_it() -> None:
    path = "trainer/pretrain.py"
    output, imported = _told(f"sys.argv[0] = {path!r}; runpy.run_path({path!r}, run_name='__main__')")
    assert VERSION.fullmatch(output)
    assert "torch" not in imported


def test_nothing_there_is_refused_without_torch(tmp_path: Path) -> None:
    refused = {
        "report runs": "runs is neither a folder of runs nor a CSV file; did you mean run?",
        "evaluate runs": "runs is neither a run folder nor a checkpoint; did you mean run?",
        "evaluate run --against none/at/all": "none/at/all is neither a run folder",
        "evaluate run --data none": "no prepared data set 'none'",
        "predict runs pictures": "runs is neither a run folder nor a checkpoint; did you mean run?",
        "predict run pictures": "pictures is neither a file nor a folder",
        "transfer --pretrained ./runs --target fashion_mnist": "of published weights; did you mean run?",
        "transfer --pretrained above/runs --target none": "are listed by: bitscale status above",
        "transfer --pretrained scratch --target none": "no prepared data set 'none'",
        "sweep --sources scratch runs --targets none": "of published weights; did you mean run?",
        "proximity --sources runs --targets none --network random": "runs is neither weights nor a prepared set",
        "proximity --sources fashion_mnist --targets none --network random": "no prepared data set 'none'",
        "proximity --sources fashion_mnist --targets fashion_mnist --network runs": "did you mean run?",
        "export runs --out exported": "of published weights; did you mean run?",
        "export runs --out exported --format onnx": "nor a checkpoint; did you mean run?",
    }
    (tmp_path / "run").mkdir()
    (tmp_path / ".runs").mkdir()
    (tmp_path / "above").mkdir()
    told = _refusals([command.split() for command in refused], tmp_path)
    assert [text for text, (error, _) in zip(refused.values(), told, strict=True) if text not in error] == []
    loaded = [command for command, (_, modules) in zip(refused, told, strict=True) if "torch" in modules]
    assert loaded == []


def _refusals(commands: list[list[str]], folder: Path) -> list[tuple[str, list[str]]]:
    """The error of each, one after the other in a process of its own, and the modules that were loaded by then."""
    code = (
        "import io, json, sys; from contextlib import *; from bitscale.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['bitscale', *command]\n"
        "    with suppress(SystemExit), redirect_stderr(io.StringIO()) as error:\n"
        "        main()\n"
        "    print(json.dumps([error.getvalue(), sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return [(error, modules) for error, modules in map(json.loads, done.stdout.splitlines())]


def test_programs_of_others_keep_their_version_flag() -> None:
    output, _ = _told("import data_pipelines; print('theirs')")
    assert output == "theirs\n"
