"""Processes beside the tests, and locks that are waited for in fractions of a second."""

import subprocess
from collections.abc import Iterator

import pytest
from locked_folders import BEAT_S

from trainer.run_folder import run_lock


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this machine, alive."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def fast_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_S", BEAT_S)
    monkeypatch.setattr(run_lock, "POLL_S", 0.01)
    monkeypatch.setattr(run_lock, "ENDING_S", 0.4)
    for name in ("BITSCALE_JOB", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
