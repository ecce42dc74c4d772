"""Mutated inputs for every parser of what a user brings: python -m tests.fuzz --inputs 10000 --seed 0

Each input is a whole file with a few bytes, lines or JSON values changed. A parser may take it, or refuse it with a
message for people (InputError). Anything else is a finding: another exception, more than 20 seconds, more than 3 GB, a
file that is opened for writing, removed or renamed outside the folder of the input, a process or a connection started.
Works offline; the same seed makes the same inputs. Exit code 1 where there are findings.
"""

import argparse
import json
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
from copy import deepcopy
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

from fuzz_parsers import PARSERS, Parser  # noqa: E402

from data_pipelines.errors import InputError, RunError  # noqa: E402
from tests.faults.figures import put  # noqa: E402

LIMIT_S, LIMIT_BYTES = 20, 3 << 30
_STRANGE = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"99999999999999999999",
    b"../../../etc/passwd",
    b"/tmp/outside",
    b"$(touch outside)",
    b"`id`",
    b'"',
    b"\n",
    b",",
    b"{}",
    b"[" * 20_000,
    b"null",
    b"\xc3\x28",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1e308, "", "../../outside", "/tmp/outside", "\0"),
    *([], {}, [[]], "x" * 4096),
)
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


def mutated(content: bytes, draws: random.Random, is_json: bool) -> bytes:
    """The content with one to four changes."""
    if is_json and draws.random() < 0.6:
        return _mutated_json(content, draws)
    changed = bytearray(content)
    for _ in range(draws.randint(1, 4)):
        place = draws.randrange(len(changed) + 1)
        kind = draws.randrange(6)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << draws.randrange(8)
        elif kind == 1 and changed:
            changed[place % len(changed)] = draws.randrange(256)
        elif kind == 2:
            changed[place : place + draws.randrange(9)] = draws.choice(_STRANGE)
        elif kind == 3:
            length = len(changed) if draws.random() < 0.5 else draws.randrange(1, 600)
            del changed[place : place + length]
        elif kind == 4:
            start = draws.randrange(len(changed) + 1)
            changed[place:place] = changed[start : start + draws.randrange(1, 600)]
        else:
            changed[place : place + draws.randrange(1, 64)] = draws.randbytes(draws.randrange(1, 64))
    return bytes(changed)


def _mutated_json(content: bytes, draws: random.Random) -> bytes:
    tree = json.loads(content)
    for _ in range(draws.randint(1, 3)):
        node, places = tree, list[tuple[Any, Any]]()
        waiting = [tree]
        while waiting:
            node = waiting.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            places += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
        if not places:
            break
        parent, key = draws.choice(places)
        if draws.random() < 0.2:
            del parent[key]
        else:
            parent[key] = deepcopy(draws.choice(_VALUES))
    return json.dumps(tree).encode()


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
    """Try so many inputs on one parser."""
    report = Report(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        parser = make(Path(folder).resolve())
        whole = {path: path.read_bytes() for path in parser.files}
        for path, content in whole.items():
            outcome = try_one(parser, content, path)
            assert outcome == ("refused" if parser.is_part else "accepted"), f"{name}, {path.name} as it is: {outcome}"
        for number in range(inputs):
            draws = random.Random(f"{seed} {name} {number}")
            path = draws.choice(parser.files)
            content = mutated(whole[path], draws, path.suffix == ".json")
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


def main() -> None:
    """Try all parsers and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--inputs", type=int, default=10_000, help="of each parser")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", nargs="*", choices=list(PARSERS), default=list(PARSERS))
    arguments.add_argument("--figures", type=Path, help="put what was found into this JSON file; its other parts stay")
    chosen = arguments.parse_args()
    print(f"{'parser':<22}{'inputs':>8}{'refused':>9}{'accepted':>10}{'findings':>10}{'seconds':>9}", flush=True)
    totals = [0, 0]
    with limited_memory():
        for name in chosen.only:
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
    print(f"{totals[0]} inputs, {totals[1]} findings")
    sys.exit(1 if totals[1] else 0)


if __name__ == "__main__":
    main()
