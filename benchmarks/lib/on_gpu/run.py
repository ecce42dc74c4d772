"""Runs the parts of `on_gpu.sh`, each in its own process with a time limit, and collects their results."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import tyro

from benchmarks.lib.on_gpu.parts import PARTS, Part
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import read_json, write_atomically, write_json
from data_pipelines.common.message_parts import nearest_of_several

ROOT = Path(__file__).resolve().parents[3]
RESULTS, TABLES, LOG = "results.json", "results.md", "log.txt"
RUNS = ("first", "second", "later")
DEVICES = ("cuda", "cpu")
_ABOUT_LIMIT_S = 60
_REHEARSAL_LIMIT = 3  # times the part's limit: slow cores
_GRACE_S = 5  # between the wish that a part ends, with its stack, and its end
_SAME = ("device", "machine", "commit", "versions")  # of all results in a folder


@dataclass(frozen=True)
class OnGpu:
    """What to measure, and where the results go."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("gpu-results")
    """Folder of the results; other parts of the same commit on the same machine add to it."""
    part: tuple[str, ...] = RUNS
    """Runs (first, second, later) and parts by name."""
    device: str = "cuda"
    """cuda, or cpu for a rehearsal: every part with small sizes, whose figures mean nothing."""
    limit_s: float | None = None
    """Seconds that a part may take at most; None: as planned for each."""

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise InputError(f"--device {self.device}: take cuda, or cpu for a rehearsal")
        if self.limit_s is not None and self.limit_s <= 0:
            raise InputError(f"--limit-s is {self.limit_s:g}; it must be above 0")
        for name in self.part:
            if name not in RUNS and name not in PARTS:
                raise InputError(f"unknown part {name!r}{nearest_of_several(name, [*RUNS, *PARTS])}")

    def chosen(self) -> dict[str, Part]:
        """The parts, in their order."""
        return {name: part for name, part in PARTS.items() if name in self.part or part.run in self.part}

    def limit_of(self, part: Part) -> float:
        """Seconds that a part gets."""
        planned = part.limit_s * (_REHEARSAL_LIMIT if self.device == "cpu" else 1)
        return planned if self.limit_s is None else min(planned, self.limit_s)


class Log:
    """What the programs say, on the terminal and in a file."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8", errors="backslashreplace")

    def say(self, text: str) -> None:
        """Add text that ends its own lines."""
        print(text, end="", flush=True)
        self._file.write(text)
        self._file.flush()


class Program:
    """A program in a process group of its own, ended with all that it started when its time is up."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Log) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )
        self.last_line = ""
        self._log = log
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._log.say(line)
            self.last_line = line.strip() or self.last_line

    def wait(self, limit_s: float) -> int | None:
        """The exit code; None if the program had to be ended."""
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self._end()

    def _end(self) -> None:
        # SIGABRT: faulthandler says where the program is.
        for number, wait_s in ((signal.SIGABRT, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
            if self._process.poll() is None or number == signal.SIGKILL:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(wait_s)
        self._reader.join(_GRACE_S)


def environment_of(part: Part | None, device: str) -> dict[str, str]:
    """The variables of a part's process."""
    named = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    named |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    return {**os.environ, **named, **(part.environment if part and device == "cpu" else {})}


def interpreter() -> str:
    """The Python that runs the parts."""
    return os.environ.get("PYTHON") or sys.executable


def describe(settings: OnGpu) -> dict[str, Any]:
    """Machine, commit and versions. Raises InputError where there is no such device, RunError where torch fails."""
    command = [interpreter(), "-m", "benchmarks.lib.on_gpu.machine", settings.device]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment_of(None, settings.device),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ABOUT_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"{' '.join(command)} had not ended after {_ABOUT_LIMIT_S} s; is the GPU in use or hung?"
        ) from error
    except OSError as error:
        raise InputError(f"{interpreter()} cannot be started ({error}); name another with PYTHON=...") from error
    sys.stderr.write(done.stderr)
    if done.returncode == 2:
        raise InputError("nothing is measured, see above")
    if done.returncode:
        raise RunError(f"{' '.join(command)} ended with {done.returncode}, see above")
    described: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return described


def open_results(folder: Path, described: dict[str, Any]) -> dict[str, Any]:
    """What the folder holds, or its beginning. Raises InputError where it cannot be written or is another machine's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error}); name another folder") from error
    path = folder / RESULTS
    before = read_json(path)
    if before is None and path.exists():
        raise InputError(f"{path} cannot be read; move it away or name another folder")
    if before is None:
        return described | {"parts": {}}
    other = [name for name in _SAME if before.get(name) != described[name]]
    if other:
        raise InputError(f"{folder} holds results of another {', '.join(other)}; name another folder")
    results: dict[str, Any] = before
    return results


def run_part(name: str, part: Part, settings: OnGpu, absent: Sequence[str], log: Log) -> dict[str, Any]:
    """Run a part: its state (done, failed, too slow, left out), the reason, seconds, result and table."""
    limit_s = settings.limit_of(part)
    about: dict[str, Any] = {"module": part.module, "limit_s": limit_s}
    if part.needs in absent:
        return about | {"state": "left out", "reason": f"{part.needs} is not installed", "seconds": 0.0}
    rehearses = settings.device == "cpu"
    with tempfile.TemporaryDirectory(prefix="bitscale-on-gpu-") as scratch:
        out = Path(scratch) / f"{name}.json"
        planned = part.rehearsal if rehearses else part.arguments
        arguments = [*planned, "--out", str(out)]
        if part.module != "benchmarks.loading":  # which finds its devices itself
            arguments += ["--device", settings.device]
        log.say(f"\n=== {name}, at most {limit_s:g} s: python -m {part.module} {' '.join(arguments)}\n")
        started = time.monotonic()
        program = Program([interpreter(), "-m", part.module, *arguments], environment_of(part, settings.device), log)
        code = program.wait(limit_s)
        about |= {"seconds": round(time.monotonic() - started, 1), "arguments": list(planned)}
        result, table = read_json(out), out.with_suffix(".md")
        about |= {"result": result, "table": table.read_text(encoding="utf-8") if table.is_file() else None}
    if code is None:
        return about | {"state": "too slow", "reason": f"ended after {limit_s:g} s: {program.last_line}"}
    if code or result is None:
        return about | {"state": "failed", "reason": f"exit code {code}: {program.last_line}"}
    return about | {"state": "done", "reason": ""}


def summary(results: dict[str, Any]) -> str:
    """How each part ended, as Markdown."""
    lines = ["| part | ended | seconds | why |", "|---|---|---|---|"]
    for name, part in results["parts"].items():
        reason = part["reason"].replace("|", "\\|")
        lines.append(f"| {name} | {part['state']} | {part['seconds']:.0f} of {part['limit_s']:.0f} | {reason} |")
    return "\n".join(lines) + "\n"


def report(results: dict[str, Any]) -> str:
    """Everything as Markdown."""
    machine, versions = results["machine"], results["versions"]
    lines = [f"# Measured on {machine['gpu']}" if machine["gpu"] else "# CPU rehearsal: no figure here is a GPU's"]
    about = {**machine, "commit": results["commit"], **versions}
    lines += ["", ", ".join(f"{name} {value}" for name, value in about.items() if value is not None) + ".", ""]
    lines.append(summary(results))
    for name, part in results["parts"].items():
        if part.get("table"):
            note = "" if machine["gpu"] else " (CPU rehearsal)"
            lines += [f"## {name}{note}", "", part["table"]]
    return "\n".join(lines)


def write_files(folder: Path, results: dict[str, Any]) -> None:
    """Write what there is so far. Raises RunError where that fails."""
    text = report(results)
    try:
        write_json(folder / RESULTS, results)
        write_atomically(folder / TABLES, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{folder} cannot be written any more ({error}); what was said above is not kept") from error


def _terminated(number: int, frame: object) -> None:
    sys.exit(128 + number)


def run(settings: OnGpu) -> None:
    """Run the parts, and tell how they ended. Raises RunError where some did not end well."""
    signal.signal(signal.SIGTERM, _terminated)  # a part's `finally` ends its processes
    folder = settings.folder.resolve()
    described = describe(settings)
    results = open_results(folder, described)
    log = Log(folder / LOG)
    log.say(f"{'rehearsal on the CPU: ' if settings.device == 'cpu' else ''}{json.dumps(described)}\n")
    chosen = settings.chosen()
    for name, part in chosen.items():
        results["parts"][name] = run_part(name, part, settings, described["absent"], log)
        write_files(folder, results)
        log.say(f"=== {name}: {results['parts'][name]['state']} {results['parts'][name]['reason']}\n")
    log.say("\n" + summary(results) + f"\n{folder / TABLES}\n")
    bad = [name for name in chosen if results["parts"][name]["state"] in ("failed", "too slow")]
    if bad:
        raise RunError(
            f"{len(bad)} of {len(chosen)} parts did not end well: {', '.join(bad)}; {folder / LOG} says more"
        )
