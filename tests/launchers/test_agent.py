"""torchrun.sh's agent says in a line what ended the ranks, and ends with their exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

AGENT = Path(__file__).resolve().parents[2] / "launchers" / "agent.py"
TORCHRUN = """
import os, sys

class ChildFailedError(Exception):
    def __init__(self, codes):
        self.failures = {rank: Failure(code) for rank, code in enumerate(codes)}
    def get_first_failure(self):
        return next(iter(self.failures.items()))

class Failure:
    pid = 7
    def __init__(self, exitcode):
        self.exitcode = exitcode

class RendezvousClosedError(Exception):
    pass

class SignalException(Exception):
    def __init__(self, sigval):
        import signal
        self.sigval = signal.Signals(sigval)

what = sys.argv[1]
if what == "i":
    raise KeyboardInterrupt
if what == "r":
    raise RendezvousClosedError
raise SignalException(int(what[1:])) if what[0] == "s" else ChildFailedError([int(code) for code in what.split(",")])
"""
KILLED = "rank 0 (process 7) was ended by SIGKILL, perhaps for lack of memory\n"


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("2,1", 2, ""),
        ("-9,1", 137, KILLED),
        ("-9", 137, f"{KILLED}to resume from the last checkpoint:\n  launchers/torchrun.sh -- x\n"),
        ("-11,1", 139, "rank 0 (process 7) was ended by SIGSEGV\n"),
        ("s15", 143, ""),
        ("s10", 0, ""),
        ("i", 130, "interrupted\n"),
        (
            "r",
            1,
            "error: this node and the others do not find each other any more (RendezvousClosedError)\n"
            "to resume from the last checkpoint:\n  launchers/torchrun.sh -- x\n",
        ),
    ],
)
def test_the_end_of_the_ranks_in_a_line(what: str, code: int, message: str, tmp_path: Path) -> None:
    package = tmp_path / "torch" / "distributed"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "run.py").write_text(TORCHRUN)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "BITSCALE_COMMAND": "launchers/torchrun.sh -- x"}
    done = subprocess.run([sys.executable, AGENT, what], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, message)
