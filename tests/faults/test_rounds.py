"""That the rounds find what they look for, and a few rounds: `python -m tests.faults` makes as many as you like.

BITSCALE_FAULTS_ROUNDS=9 makes that many here, of every kind, on the engines that are there (about three minutes);
BITSCALE_FAULTS_PATIENCE=4 gives a busy machine four times as long for everything.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.faults.judge import differing_weights, faults_in_ledger, kept_steps
from tests.faults.run import BATCH_SIZE, STEPS, environment_of
from tests.faults.schedule import SHARES, all_layouts, counts, deal
from tests.faults.strikes import STRIKES

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, RANKS = 80, 2
FEW = ["--faults", "kill-in-save", "damage-checkpoint", "kill-prepare", "--engines", "ddp", "--ranks", "2"]

on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes and files in /proc")

Rows = list[tuple[int, int, dict[str, Any]]]


def test_every_fault_has_a_share_and_a_row_in_the_page() -> None:
    assert SHARES.keys() == STRIKES.keys() | {"kill-prepare"}
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [fault for fault in SHARES if f"`{fault}`" not in page] == []


def rows_of(start: int, first: int, last: int) -> Rows:
    """The ledger of a start that took up the steps from `first` on to `last`, on two ranks."""
    half = BATCH_SIZE // RANKS
    rows: Rows = []
    for step in range(first, last + 1):
        for rank in range(RANKS):
            place = step * BATCH_SIZE + rank * half
            samples = [number % SAMPLES for number in range(place, place + half)]
            rows.append((start, rank, {"step": step, "first": first, "samples": samples}))
    return rows


def judged(rows: Rows) -> list[str]:
    return faults_in_ledger(kept_steps(rows), RANKS, SAMPLES)


def test_steps_made_again_take_back_the_former() -> None:
    assert judged(rows_of(0, 0, STEPS - 1)) == []
    assert judged(rows_of(0, 0, 17) + rows_of(1, 15, 16) + rows_of(2, 15, STEPS - 1)) == []


def test_ledger_sees_what_is_lost_or_repeated() -> None:
    whole = rows_of(0, 0, STEPS - 1)
    assert "by every rank" in judged(whole[:-1])[0]  # one rank never made the last step
    assert "by every rank" in judged(rows_of(0, 0, 9) + rows_of(1, 11, STEPS - 1))[0]  # step 10 never made
    # A start that came less far than the one before, and nobody made the rest again.
    assert "by every rank" in judged(whole + rows_of(1, 15, 16))[0]
    repeated = [*whole[:-1], (0, 1, whole[-1][2] | {"samples": whole[0][2]["samples"]})]
    assert "twice" in judged(repeated)[0]


def test_one_wrong_bit_is_seen(tmp_path: Path) -> None:
    weights = {"model.a": np.ones(4, np.float32), "momentum.a": np.zeros(4, np.float32)}
    save_file(weights, tmp_path / "expected.safetensors")
    save_file(weights, tmp_path / "same.safetensors")
    weights["momentum.a"][2] = -0.0
    save_file(weights, tmp_path / "other.safetensors")
    assert differing_weights(tmp_path / "same.safetensors", tmp_path / "expected.safetensors") == []
    (wrong,) = differing_weights(tmp_path / "other.safetensors", tmp_path / "expected.safetensors")
    assert "momentum.a" in wrong


@pytest.mark.parametrize("seed", [0, 1])
def test_schedule(seed: int) -> None:
    planned, prepares = deal(100, seed, list(SHARES), all_layouts())
    blows = [(run.layout, blow.fault) for run in planned for blow in run.blows]
    assert len(blows) + prepares == 100
    assert {fault for _, fault in blows} | {"kill-prepare"} == set(SHARES)
    assert sum(fault == "kill-in-save" for _, fault in blows) >= 20
    assert {layout for layout, _ in blows} == set(all_layouts())
    assert all(layout.ranks > 1 for layout, fault in blows if fault == "stop-rank")
    assert deal(100, seed, list(SHARES), all_layouts()) == (planned, prepares)
    assert deal(100, seed + 2, list(SHARES), all_layouts()) != (planned, prepares)
    assert sum(counts(7, list(SHARES)).values()) == 7
    assert counts(100, list(SHARES)) == SHARES
    assert min(counts(len(SHARES), list(SHARES)).values()) == 1


WRITER = """
import os, pathlib
path = pathlib.Path("set/a.tmp")
path.parent.mkdir()
with path.open("wb") as file:
    for _ in range(64):
        file.write(bytes(1 << 10))
    file.flush()
    os.fsync(file.fileno())
path.replace(path.with_name("a"))
"""


@on_linux
@pytest.mark.parametrize(
    ("death", "files"),
    [
        ('{"phase": "write", "after": false, "bytes": 10000}', {"a.tmp": 10000}),
        ('{"phase": "fsync", "after": false, "nth": 1}', {"a.tmp": 1 << 16}),
        ('{"phase": "rename", "after": false, "nth": 1}', {"a.tmp": 1 << 16}),
        ('{"phase": "rename", "after": true, "nth": 1}', {"a": 1 << 16}),
        ('{"phase": "rename", "after": true, "nth": 2}', {"a": 1 << 16}),
    ],
)
def test_deaths_come_where_they_should(death: str, files: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "die-0.json").write_text(death)
    package = tmp_path / "data_pipelines"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "prepare.py").write_text(WRITER)
    environment = environment_of(tmp_path, 0, tmp_path / "set", None)
    died = subprocess.run(
        [sys.executable, "-m", "data_pipelines.prepare"], cwd=tmp_path, env=environment, check=False
    ).returncode
    assert {path.name: path.stat().st_size for path in (tmp_path / "set").iterdir()} == files
    assert (died == 0) == ('"nth": 2' in death)


@pytest.mark.slow
@pytest.mark.long
@on_linux
def test_rounds(tmp_path: Path) -> None:
    rounds = os.environ.get("BITSCALE_FAULTS_ROUNDS", "3")
    installed = [name for name in ("deepspeed", "horovod") if importlib.util.find_spec(name)]
    every = ["--jobs", "2", "--ranks", "1", "2", "--engines", "ddp", *installed]
    what = ["--rounds", rounds, *(every if "BITSCALE_FAULTS_ROUNDS" in os.environ else FEW)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *what, "--folder", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"survived {rounds} of {rounds} ")
