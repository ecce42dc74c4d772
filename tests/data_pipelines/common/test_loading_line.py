"""A terminal hears of a program before its slow imports; a log, help and other ranks do not."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.common.loading_line import say_what_is_loading

ROOT = Path(__file__).resolve().parents[3]


class Terminal:
    @staticmethod
    def isatty() -> bool:
        return True

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


@pytest.mark.parametrize(
    ("command", "arguments", "rank", "expected"),
    [
        ("pretrain", ["embedded"], "0", "pretrain: loading PyTorch ...\n"),
        ("pretrain", ["embedded"], "1", ""),
        ("pretrain", ["embedded", "--help"], "0", ""),
        ("status", ["runs"], "0", ""),
    ],
)
def test_who_is_told(
    command: str, arguments: list[str], rank: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("RANK", rank)
    say_what_is_loading(command, arguments)
    assert terminal.text == expected


def test_it_comes_before_the_slow_imports(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')")
    ours, theirs = pty.openpty()
    command = [sys.executable, ROOT / "trainer" / "pretrain.py", "embedded"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}, stderr=theirs, check=False)
    os.close(theirs)
    lines = os.read(ours, 10_000).decode().splitlines()
    os.close(ours)
    assert lines == ["pretrain: loading PyTorch ...", "torch is imported"]
