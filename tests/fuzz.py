"""Mutated inputs for every parser of what a user brings: python -m tests.fuzz --inputs 10000 --seed 0

Each input is a whole file with a few bytes, lines or JSON values changed, or some names of files, classes and runs. A
parser may take it, or refuse it with a message for people (InputError). Anything else is a finding: another exception,
more than 20 seconds, more than 3 GB, a file that is opened for writing, removed or renamed outside the folder of the
input, a process or a connection started. In the end, folders of such names are read under several locales, which must
not matter. Works offline; the same seed makes the same inputs. Exit code 1 where there are findings.
"""

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_HERE = Path(__file__).resolve().parent
for _folder in (
    _HERE.parent,
    _HERE,
    _HERE / "trainer",
    _HERE / "data_pipelines",
    _HERE / "data_pipelines" / "datasets",
):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from fuzz_locales import differences  # noqa: E402
from fuzz_mutations import STRANGE, mutated  # noqa: E402
from fuzz_names import NAME_PARSERS  # noqa: E402
from fuzz_parser import Parser  # noqa: E402
from fuzz_runs import RUN_PARSERS  # noqa: E402
from fuzz_sets import SET_PARSERS  # noqa: E402

from data_pipelines.common.errors import InputError, RunError  # noqa: E402
from tests.faults.figures import put  # noqa: E402

PARSERS = SET_PARSERS | RUN_PARSERS | NAME_PARSERS
LOCALES = "locales"
LIMIT_S, LIMIT_BYTES = 20, 3 << 30
_WATCHED = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
_FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "socket.bind"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Report:
    """What became of the inputs of one parser."""

    parser: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


class Guard:
    """Sees what this process opens, starts and removes while an input is read."""

    def __init__(self) -> None:
        self._allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._allowed:
            return
        if event in _FORBIDDEN:
            self.seen.append(f"{event} {arguments[:2]!r}")
        is_write = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
        if is_write or event in _WATCHED:
            path = arguments[0]
            if isinstance(path, (str, bytes)):
                base = arguments[-1] if event != "open" and isinstance(arguments[-1], int) else -1
                below = os.readlink(f"/proc/self/fd/{base}") if base >= 0 and event != "os.truncate" else ""
                absolute = os.path.abspath(os.path.join(below, os.fsdecode(path)))
                if not absolute.startswith((*self._allowed, "/dev/null")):
                    self.seen.append(f"{event} of {absolute}")

    @contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        self.seen = []
        self._allowed = (str(folder),)
        try:
            yield
        finally:
            self._allowed = ()


_guard: Guard | None = None


class _TooLongError(BaseException):
    """Passes every handler of a parser."""


def _too_long(*_: Any) -> None:
    raise _TooLongError


def try_one(parser: Parser, content: bytes, path: Path) -> str:
    """ "accepted", "refused", or what is wrong."""
    global _guard
    _guard = _guard or Guard()
    path.write_bytes(content)
    former = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        with warnings.catch_warnings(), _guard.watching(parser.folder):
            warnings.simplefilter("ignore")
            parser.read(path)
        outcome = "accepted"
    except (InputError, RunError) as error:
        outcome = "refused" if str(error).strip() else "refused without a message"
    except _TooLongError:
        outcome = f"took more than {LIMIT_S} s"
    except MemoryError:
        outcome = "took more than 3 GB"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in last if "tests" not in frame.filename and "site-packages" not in frame.filename]
        where = ours[-1] if ours else last[-1]
        outcome = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    return outcome if not _guard.seen else f"touched the outside: {_guard.seen[0]}"


def fuzz(name: str, make: Callable[[Path], Parser], inputs: int, seed: int) -> Report:
    """Try so many inputs on one parser; a tenth of them on a slow one."""
    report = Report(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        parser = make(Path(folder).resolve())
        whole = {path: path.read_bytes() for path in parser.files}
        for path, content in whole.items():
            outcome = try_one(parser, content, path)
            assert outcome == ("refused" if parser.is_part else "accepted"), f"{name}, {path.name} as it is: {outcome}"
        for number in range(-(-inputs // 10) if parser.is_slow else inputs):
            draws = random.Random(f"{seed} {name} {number}")
            path = draws.choice(parser.files)
            content = mutated(whole[path], draws, path.suffix == ".json", parser.words or STRANGE)
            outcome = try_one(parser, content, path)
            path.write_bytes(whole[path])
            report.inputs += 1
            report.refused += outcome == "refused"
            report.accepted += outcome == "accepted"
            if outcome not in ("refused", "accepted"):
                report.findings[outcome] += 1
                report.examples.setdefault(outcome, f"{path.name}, input {number}")
    return report


@contextmanager
def limited_memory() -> Iterator[None]:
    """What this process may map beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    former = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT_BYTES, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)


def _try_locales(inputs: int, seed: int) -> tuple[int, int]:
    """How many folders were read, and how many not alike; says which."""
    found, locales = differences(inputs, seed)
    print(f"{LOCALES:<22}{inputs:>8}{'':>19}{len(found):>10}  UTF-8 and {', '.join(locales)}")
    if found:
        print(f"    inputs {', '.join(map(str, found[:10]))}")
    return inputs, len(found)


def main() -> None:
    """Try all parsers and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--inputs", type=int, default=10_000, help="of each parser (default: 10000)")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", nargs="*", choices=[*PARSERS, LOCALES], default=[*PARSERS, LOCALES])
    arguments.add_argument("--figures", type=Path, help="put what was found into this JSON file; its other parts stay")
    chosen = arguments.parse_args()
    print(f"{'parser':<22}{'inputs':>8}{'refused':>9}{'accepted':>10}{'findings':>10}{'seconds':>9}", flush=True)
    totals = [0, 0]
    with limited_memory():
        for name in (name for name in chosen.only if name != LOCALES):
            started = time.monotonic()
            report = fuzz(name, PARSERS[name], chosen.inputs, chosen.seed)
            count = sum(report.findings.values())
            totals = [totals[0] + report.inputs, totals[1] + count]
            row = f"{name:<22}{report.inputs:>8}{report.refused:>9}{report.accepted:>10}{count:>10}"
            print(f"{row}{time.monotonic() - started:>9.0f}", flush=True)
            for finding, times in report.findings.most_common():
                print(f"    {times} x {finding} ({report.examples[finding]})", flush=True)
            if chosen.figures:
                put(chosen.figures, "fuzz", {name: {"seed": chosen.seed} | vars(report)})
    if LOCALES in chosen.only:
        totals = [total + more for total, more in zip(totals, _try_locales(chosen.inputs, chosen.seed), strict=True)]
    print(f"{totals[0]} inputs, {totals[1]} findings")
    sys.exit(1 if totals[1] else 0)


if __name__ == "__main__":
    main()
