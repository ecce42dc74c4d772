"""What `tests/suite.py` promises: serial tests run alone, and the end of a run says what it left out."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.suite import Turns, memory_line

ROOT = Path(__file__).resolve().parents[1]
FILE = """
import json, os, pathlib, signal, time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_beside(number):
    note(number)

SERIALtest_alone

@pytest.mark.slow
def test_slow():
    assert False

def test_interrupts():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

def note(name):
    began = time.time()
    time.sleep(0.1)
    pathlib.Path(os.environ["NOTES"], f"{name}-{os.getpid()}-{began}.json").write_text(json.dumps([began, time.time()]))
"""


class Ended(NamedTuple):
    code: int
    output: str
    notes: Path


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run on two workers, of two files with serial tests between others, started where interrupts are ignored."""
    folder = tmp_path_factory.mktemp("suite")
    notes = folder / "notes"
    notes.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n serial\n horovod\n")
    serial = "@pytest.mark.serial\ndef test_alone():\n    note('alone')"
    for name in ("test_one.py", "test_two.py"):
        (folder / name).write_text(FILE.replace("SERIALtest_alone", serial))
    options = ["-p", "tests.suite", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", "-m", "not slow"]
    ignoring_interrupts = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", ignoring_interrupts, sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env=os.environ | {"NOTES": str(notes), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout + done.stderr, notes)


@pytest.mark.slow
def test_no_worker_runs_a_test_beside_a_serial_one(ended: Ended) -> None:
    assert ended.code == 0, ended.output
    spans = {path.name: json.loads(path.read_text()) for path in ended.notes.iterdir()}
    assert len(spans) == 10
    alone = {name: span for name, span in spans.items() if name.startswith("alone")}
    for name, (began, end) in alone.items():
        beside = [other for other, span in spans.items() if other != name and span[0] < end and span[1] > began]
        assert beside == []


def test_the_end_says_what_was_left_out_and_passed(ended: Ended) -> None:
    lines = ended.output.splitlines()
    assert "12 passed" in lines[-1]
    assert "left out by -m or -k: 2 tests (everything: launchers/test.sh --all)" in lines
    assert any("peak memory of a test process: " in line for line in lines)


@pytest.mark.slow
def test_serial_files_come_first_then_long_then_slow_ones(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n serial\n long\n")
    for name, marks in {"a": (), "b": ("slow",), "c": ("slow", "long"), "d": ("slow", "serial")}.items():
        decorators = "".join(f"@pytest.mark.{mark}\n" for mark in marks)
        (tmp_path / f"test_{name}.py").write_text(
            f"import pytest\ndef test_plain(): pass\n{decorators}def test_marked(): pass\n"
        )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.suite", "-p", "no:cacheprovider", "--collect-only", "-q"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    names = [line.partition("::")[::2] for line in done.stdout.splitlines() if "::" in line]
    assert [file for file, _ in names[::2]] == ["test_d.py", "test_c.py", "test_b.py", "test_a.py"]
    assert names[:2] == [("test_d.py", "test_marked"), ("test_d.py", "test_plain")]


@pytest.fixture
def workers(tmp_path: Path) -> tuple[Turns, Turns]:
    return Turns(tmp_path), Turns(tmp_path)


def test_no_test_comes_between_two_serial_ones(workers: tuple[Turns, Turns]) -> None:
    here, there = workers
    began = threading.Event()
    here.begin(alone=True)
    other = threading.Thread(target=lambda: (there.begin(alone=False), began.set()))
    other.start()
    here.end(stay_alone=True)
    assert not began.wait(0.3)
    here.begin(alone=True)
    here.end(stay_alone=False)
    assert began.wait(10)
    other.join()


def test_long_tests_wait_until_the_serial_ones_have_begun(workers: tuple[Turns, Turns]) -> None:
    here, there = workers
    waited = threading.Event()
    there.begin(alone=False)
    other = threading.Thread(target=lambda: (there.wait_for_serial(1, seconds=60), waited.set()))
    other.start()
    assert not waited.wait(0.3)
    there.end(stay_alone=False)
    here.begin(alone=True)
    assert waited.wait(10)
    other.join()
    there.wait_for_serial(2, seconds=0.2)  # which comes to an end where a worker has died
    here.end(stay_alone=False)


@pytest.mark.parametrize(("mb", "begins"), [(1990.0, "peak memory "), (2010.0, "WARNING: peak memory ")])
def test_the_end_warns_of_more_memory_than_the_limit(mb: float, begins: str) -> None:
    assert memory_line(mb).startswith(begins)
