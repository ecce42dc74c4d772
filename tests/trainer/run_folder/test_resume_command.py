"""The command that is printed to go on with a run is the one that its user gave."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.run_folder.resume_command import _goes_on_with

ROOT = Path(__file__).resolve().parents[3]
PRINT = """
from pathlib import Path
from trainer.run_folder.resume_command import resume_command
print(resume_command(Path("r")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for its launcher in /proc")
def test_the_launchers_command_comes_before_ones_own(tmp_path: Path) -> None:
    script = tmp_path / "it's.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PRINT}\n")
    alone = [sys.executable, str(script), "a b"]
    launch = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    launched = [sys.executable, "-c", launch, *alone[1:]]
    for command in (alone, launched):
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        again = subprocess.run(["bash", "-c", printed], capture_output=True, text=True, check=True).stdout
        assert again == printed  # it is the same command
        assert ("subprocess" in printed) is (command is launched)


@pytest.mark.parametrize("installed", [True, False])
def test_an_installed_program_is_called_by_its_name(installed: bool, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "ourprogram"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(ROOT)!r})\n{PRINT}\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}" if installed else os.environ["PATH"]
    done = subprocess.run([program, "a b"], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True)
    start = ["ourprogram"] if installed else [sys.executable, str(program)]
    assert shlex.split(done.stdout) == [*start, "a b"]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for its launcher in /proc")
def test_a_module_is_found_in_its_launchers_command(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "__main__.py").write_text(PRINT)
    launch = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[2:]]))"
    command = [sys.executable, "-c", launch, "launcher", "-m", "ours", "x"]
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == shlex.join(command)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for its launcher in /proc")
def test_what_was_typed_for_a_launcher_comes_before_all(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PRINT}\n")
    typed = "launchers/torchrun.sh --nproc 2 -- embedded 'a b'"
    launch = f'export BITSCALE_LAUNCHER="$(uname -n) $$" BITSCALE_COMMAND="$1"; {sys.executable} {script} x; true'
    for command, expected in ((typed, typed), ("sh $'\\033'", f"{sys.executable} {script} x")):
        done = subprocess.run(["bash", "-c", launch, "-", command], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_a_new_folder_is_not_asked_for_again() -> None:
    run_dir = Path("runs/x-2")
    assert _goes_on_with(run_dir, ["p", "x", "--out", "runs/x"]) == ["p", "x", "--out", "runs/x"]
    for given in (["--out", "runs/x"], ["--out=runs/x"], ["--run-dir", "runs/x"], ["--run-dir=runs/x"], []):
        command = ["p", "--no-resume", "x", *given, "--seed", "1"]
        assert _goes_on_with(run_dir, command) == ["p", "x", "--seed", "1", "--out", "runs/x-2"]


@pytest.mark.parametrize("program", [["bitscale", "submit"], ["python", "launchers/submit.py"]])
def test_a_job_goes_on_in_the_folder_that_it_made(program: list[str]) -> None:
    submitted = [*program, "pretrain", "x", "--nodes", "2"]
    resumed = [*submitted, "--", "--out", "runs/x-2"]
    assert _goes_on_with(Path("runs/x-2"), [*submitted, "--", "--no-resume"]) == resumed
    assert _goes_on_with(Path("runs/x-2"), [*submitted, "--", "--out", "runs/x", "--no-resume"]) == resumed
    from_file = [*program, "pretrain", "my.toml", "--nodes", "2"]
    by_own_config = [*program, "pretrain", "runs/y/config.json", "--nodes", "2", "--", "--out", "runs/y"]
    assert _goes_on_with(Path("runs/y"), from_file) == by_own_config


@pytest.mark.parametrize("given", ["my.toml", "sub/my.toml", "runs/x/config.json", "runs/x/"])
def test_a_run_from_a_file_goes_on_by_its_own_config(given: str) -> None:
    command = ["torchrun", "trainer/pretrain.py", given, "--seed", "1"]
    resumed = ["torchrun", "trainer/pretrain.py", "runs/y/config.json", "--seed", "1", "--out", "runs/y"]
    assert _goes_on_with(Path("runs/y"), command) == resumed
    assert _goes_on_with(Path("runs/y"), resumed) == resumed
    named = ["torchrun", "trainer/pretrain.py", "embedded", "--data.sets", "a/b.json"]
    assert _goes_on_with(Path("runs/y"), named) == named
