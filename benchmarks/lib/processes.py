"""Child processes of benchmarks, and this process's memory. Standard library only: FFCV's interpreter may lack the
rest."""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[2])
_AS_PROGRAM = (
    "import sys; sys.path[0], module = sys.argv[1:3]; del sys.argv[1:3]; "
    "import runpy; runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def child_environment() -> dict[str, str]:
    """The environment for a process that runs a module of ours, wherever this one was started from."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))}


def module_command(module: str, interpreter: str = sys.executable) -> list[str]:
    """The command that runs a module of ours as a program. Not by `-m`, which looks in the working folder first, where
    a benchmarks.py would hide ours."""
    return [interpreter, "-c", _AS_PROGRAM, _ROOT, module]


def run_module(
    module: str, *arguments: str, interpreter: str = sys.executable, timeout_s: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a module of ours as a program to its end, its output captured. Raises OSError where the interpreter cannot be
    started, TimeoutExpired after `timeout_s`."""
    return subprocess.run(
        [*module_command(module, interpreter), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=child_environment(),
        timeout=timeout_s,
    )


def resident_mb() -> dict[str, float]:
    """Resident memory of this process in MB (1e6 bytes): `private`, `shared` with other processes that map the same
    files, and `peak`, the most it ever was. Empty where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.split()}
    wanted = {"private_mb": "RssAnon", "shared_mb": "RssFile", "peak_mb": "VmHWM"}
    return {name: int(fields[field]) * 1024 / 1e6 for name, field in wanted.items()}
