"""Progress is told by time, by plain lines where there is no terminal, and by rank 0 alone."""

import io
import sys
import threading

import pytest

from data_pipelines.common import progress
from data_pipelines.common.progress import Progress


class Output(io.StringIO):
    """Standard error that tells when a line has come."""

    def __init__(self, is_terminal: bool = False) -> None:
        super().__init__()
        self.has_line, self._is_terminal = threading.Event(), is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        written = super().write(text)
        if text.strip():
            self.has_line.set()
        return written


def output_of_a_log(monkeypatch: pytest.MonkeyPatch) -> Output:
    found = Output()
    monkeypatch.setattr(sys, "stderr", found)  # not by a fixture: pytest puts its own there once more
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    return found


def test_a_line_comes_though_nothing_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    output = output_of_a_log(monkeypatch)
    with Progress("demo", 1000, "step", initial=100) as bar:
        bar.update(20)
        output.has_line.clear()  # a slow machine has said step 100 before
        assert output.has_line.wait(30)
    line = output.getvalue().splitlines()[-1]
    assert line.startswith("demo  step 120/1,000  ")
    assert line.endswith(" left")
    assert "\r" not in output.getvalue()


def test_the_innermost_speaks_for_those_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    output = output_of_a_log(monkeypatch)
    with Progress("outer", 10, "step") as outer:
        with Progress("inner"):
            output.has_line.clear()
            output.truncate(output.seek(0))
            assert output.has_line.wait(30)
            inside = output.getvalue()
        output.has_line.clear()
        assert output.has_line.wait(30)
        outer.say("a line")
    assert {line.split()[0] for line in inside.splitlines()} <= {"inner", "outer"}
    assert inside.splitlines()[-1].startswith("inner  00:0")
    assert output.getvalue().endswith("a line\n")


def test_nothing_is_said_after_the_end_or_by_rank_1(monkeypatch: pytest.MonkeyPatch) -> None:
    output = output_of_a_log(monkeypatch)
    with Progress("demo"):
        assert output.has_line.wait(30)
    text = output.getvalue()
    output.has_line.clear()
    monkeypatch.setenv("RANK", "1")
    with Progress("demo", 10, "step") as bar:
        bar.say("a line")
        assert not output.has_line.wait(0.2)
    assert output.getvalue() == text


def test_short_work_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (False, True):
        output = Output(is_terminal)
        monkeypatch.setattr(sys, "stderr", output)
        with Progress("demo", 3, "image") as bar:
            bar.update(3)
        assert output.getvalue() == ""


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", output)
    with Progress("demo", 3, "image", delay=0, mininterval=0) as bar:
        bar.update(3)
    assert "\rdemo: 100%" in output.getvalue()
    assert "3/3" in output.getvalue()
