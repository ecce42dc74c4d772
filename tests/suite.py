"""How the tests run and what their summary says: marks by place, order, tests that run alone, seconds and memory.

`slow` tests are left out by `launchers/test.sh`; no other worker runs a test beside one that is `serial`.
"""

import ctypes
import fcntl
import gc
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
MARKS_BY_FILE = {
    TESTS / "launchers/test_hosts.py": ("slow", "long"),
    TESTS / "launchers/test_slurm.py": ("slow", "long", "slurm"),
}
# Serial tests first, or they would wait for a long one that another worker runs. Then so that no worker is left alone.
ORDER = ("serial", "long", "slow")
_SERIAL_S = 180.0  # that a long test waits for serial ones to begin: that of a worker which has died never does
FAST_S = 5.0
RISE_MB = 150.0
LIMIT_MB = 2000.0
_LEFT_MB = 100.0  # that tests of one file may leave before it is collected
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_RSS_BYTES = 1 if sys.platform == "darwin" else 1024


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_BYTES / 1e6


def resident_mb() -> float:
    """The memory that this process holds now, in MB; 0 where the system does not tell."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    return 0.0


def call_libc(function: str, *arguments: int) -> None:
    """A function that glibc has; nothing with another C library."""
    with suppress(AttributeError, OSError):
        getattr(ctypes.CDLL(None), function)(*arguments)


def free_at_once() -> None:
    """Blocks of a MB or more go back to the system when they are freed, whatever a test has said of it."""
    call_libc("mallopt", _M_MMAP_THRESHOLD, 1 << 20)
    call_libc("mallopt", _M_TRIM_THRESHOLD, 1 << 20)


def answer_interrupts() -> None:
    """Ctrl-C works in tests, and in what they start, although a script's background jobs and nohup ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def give_back_memory() -> None:
    """What tests have left, such as the frames of expected errors and all that they hold, before the next one."""
    gc.collect()
    call_libc("malloc_trim", 0)


def memory_line(mb: float) -> str:
    """A run does not fail by it: which files share a worker, and so what adds up in it, differs between machines."""
    line = f"peak memory of a test process: {mb / 1000:.2f} GB"
    return line if mb <= LIMIT_MB else f"WARNING: {line}, above the limit of {LIMIT_MB / 1000:.1f} GB; what raised it:"


def as_utf8(data: Any) -> Any:
    """Plain data in which what is no UTF-8 is escaped."""
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode()
    if isinstance(data, dict):
        return {as_utf8(key): as_utf8(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(as_utf8, data))
    return data


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by file and by parameter; files come in the order of `ORDER`, and of each its serial tests first."""
    for item in items:
        for mark in MARKS_BY_FILE.get(item.path, ()):
            item.add_marker(mark)
        if "horovod" in getattr(getattr(item, "callspec", None), "id", ""):
            item.add_marker("horovod")
    files: dict[Path, set[str]] = {}
    for item in items:
        files.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    number = {path: i for i, path in enumerate(files)}

    def place(item: pytest.Item) -> tuple[bool | int, ...]:
        return *(mark not in files[item.path] for mark in ORDER), number[item.path], not has(item, "serial")

    items.sort(key=place)


def has(item: pytest.Item, mark: str) -> bool:
    """Whether a test has this mark."""
    return item.get_closest_marker(mark) is not None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Suite(config))
    answer_interrupts()
    free_at_once()


class Turns:
    """Which tests run beside others, on workers that share a folder: none beside a serial one."""

    def __init__(self, folder: Path) -> None:
        # Unlocked by name: a forked process that lives on has the files open too.
        self._turn, self._running, self._begun = ((folder / name).open("ab") for name in ("turn", "running", "begun"))
        self._is_alone = False

    def begin(self, alone: bool) -> None:
        """Wait while a serial test runs or waits; for a serial one, until no test runs."""
        if not self._is_alone:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
            fcntl.flock(self._running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            self._is_alone = alone
        if alone:
            os.write(self._begun.fileno(), b".")
        else:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def end(self, stay_alone: bool) -> None:
        """`stay_alone`: the next test is serial too, and a long one that came between would make it wait."""
        self._is_alone = self._is_alone and stay_alone
        if not self._is_alone:
            fcntl.flock(self._running, fcntl.LOCK_UN)
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def wait_for_serial(self, count: int, seconds: float = _SERIAL_S) -> None:
        """Until so many serial tests have begun, on any worker."""
        deadline = time.monotonic() + seconds
        while os.fstat(self._begun.fileno()).st_size < count and time.monotonic() < deadline:
            time.sleep(0.1)


class Suite:
    """Watches a session: one on each worker, and one where their reports arrive."""

    def __init__(self, config: pytest.Config) -> None:
        self._worker: dict[str, Any] = getattr(config, "workerinput", {})
        self._locks = None if self._worker else tempfile.TemporaryDirectory(prefix="bitscale-tests-")
        self._turns = Turns(Path(self._worker["locks"])) if self._worker else None
        self._num_serial = 0
        self._before_mb = 0.0
        self._kept_mb = 0.0
        self._peaks_mb: list[float] = []
        self._raised_mb: dict[str, float] = {}
        self._seconds: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        assert self._locks is not None
        node.workerinput["locks"] = self._locks.name

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        self._before_mb = peak_mb()
        if self._turns is None:
            return (yield)
        if has(item, "long"):
            self._turns.wait_for_serial(self._num_serial)
        self._turns.begin(alone=has(item, "serial"))
        try:
            return (yield)
        finally:
            self._turns.end(stay_alone=nextitem is not None and has(nextitem, "serial"))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Modules stay: garbage is looked for among what the tests make, which takes milliseconds."""
        self._num_serial = sum(has(item, "serial") for item in session.items)
        gc.collect()
        gc.freeze()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        try:
            return (yield)
        finally:
            ends_file = nextitem is None or nextitem.path != item.path
            if ends_file:
                free_at_once()
            if ends_file or resident_mb() > self._kept_mb + _LEFT_MB:
                give_back_memory()
                self._kept_mb = resident_mb()
            item.user_properties.append(("raised_mb", peak_mb() - self._before_mb))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "slow" not in report.keywords:
            self._seconds[report.nodeid] += report.duration
        if report.when == "teardown":
            self._raised_mb[report.nodeid] = dict(report.user_properties).get("raised_mb", 0.0)  # type: ignore[assignment]

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self) -> Iterator[Any]:
        """Workers report in UTF-8, and tests print names that are none."""
        return as_utf8((yield))

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._left_out.update(item.nodeid.partition("::")[0] for item in items)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        gc.unfreeze()  # or extension modules report at the end what was not freed
        self._peaks_mb.append(peak_mb())
        if self._worker:
            output = {"peak_mb": peak_mb(), "left_out": dict(self._left_out)}
            session.config.workeroutput.update(output)  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {})  # none of a worker that crashed
        self._peaks_mb.append(output.get("peak_mb", 0.0))
        self._left_out |= Counter(output.get("left_out", {}))  # all workers collect all tests

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        above = [(seconds, test) for test, seconds in self._seconds.items() if seconds > FAST_S]
        if above:
            write(f"not marked as slow, and above {FAST_S:.0f} s:")
        for seconds, test in sorted(above, reverse=True):
            write(f"  {seconds:6.1f} s  {test}")
        write(memory_line(max(self._peaks_mb, default=0.0)))
        raised = {test: mb for test, mb in self._raised_mb.items() if mb > RISE_MB}
        for test, mb in sorted(raised.items(), key=lambda entry: -entry[1]):
            write(f"  raised by {mb:.0f} MB in {test}")
        if self._left_out:
            write(f"left out by -m or -k: {self._left_out.total()} tests (everything: launchers/test.sh --all)")
        for file, count in sorted(self._left_out.items()):
            write(f"  {count:5}  {file}")
