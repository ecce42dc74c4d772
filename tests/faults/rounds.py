"""Rounds of faults: prepare, run undisturbed, disturb, bring to the end, compare."""

import hashlib
import itertools
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.common.manifest import read_manifest
from tests.faults import judge
from tests.faults.run import PROGRESS_S, ROOT, Layout, Run, Started, TimedOutError, environment_of, wait_until
from tests.faults.scene import MissedError, Moment, Scene, Struck
from tests.faults.schedule import Blow, PlannedRun
from tests.faults.strikes import STRIKES, small_disk, unmount

_IMAGES = {"train": 80, "val": 16, "test": 16}
_ATTEMPTS = 4  # at a fault that comes too late


@dataclass
class Round:
    """What became of one fault."""

    fault: str
    layout: str
    phase: str
    wrong: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def survived(self) -> bool:
        return not self.wrong


class Arena:
    """A folder with a prepared set and the undisturbed runs on it, one for each layout, made when first needed."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.raw, self.data = folder / "raw", folder / "set"
        _write_images(self.raw)
        subprocess.run(_prepare_command(self.raw, self.data), env=_plain(), check=True, capture_output=True)
        self.num_samples: int = read_manifest(self.data)["splits"]["train"]["images"]
        self._undisturbed: dict[Layout, tuple[Run, list[float]]] = {}
        self._locks: defaultdict[Layout, threading.Lock] = defaultdict(threading.Lock)
        self._numbers = itertools.count(1)

    def undisturbed(self, layout: Layout) -> tuple[Run, list[float]]:
        """A whole run, and when it took up its steps and ended, seconds after it was started."""
        with self._locks[layout]:  # of several threads that need it, one makes it
            if layout not in self._undisturbed:
                self._undisturbed[layout] = self._make_undisturbed(layout)
            return self._undisturbed[layout]

    def _make_undisturbed(self, layout: Layout) -> tuple[Run, list[float]]:
        self.say(f"undisturbed: {layout}")
        folder = self.folder / f"undisturbed-{layout.engine}-{layout.ranks}"
        run = Run(layout, folder / "run", self.data, folder / "notes")
        started = run.start()
        if not started.wait_for_end(2 * PROGRESS_S) or not run.is_finished:
            raise RuntimeError(f"an undisturbed run of {layout} failed:\n{started.output()}")
        ended = time.time()
        wrong = judge.faults_of(run, run, self.num_samples)
        if wrong:
            raise RuntimeError(f"an undisturbed run of {layout}: {'; '.join(wrong)}")
        times = [row["time"] - started.spawned for row in started.ledger(0)]
        return run, [*times, ended - started.spawned]

    @contextmanager
    def new_run(self, layout: Layout, on_small_disk: bool) -> Iterator[Run]:
        """A run with a copy of the set, removed afterwards."""
        folder = self.folder / f"run-{next(self._numbers)}"
        shutil.copytree(self.data, folder / "set")
        disk = folder / "disk"
        mounted = on_small_disk and small_disk(disk)
        run = Run(layout, disk / "run", folder / "set", folder / "notes")
        try:
            yield run
        finally:
            for started in run.starts:
                started.kill()
            if mounted:
                unmount(disk)

    def forget(self, run: Run) -> None:
        """Remove a run that has been judged."""
        shutil.rmtree(run.notes.parent, ignore_errors=True)


def disturb(arena: Arena, planned: PlannedRun) -> list[Round]:
    """Let the faults strike runs of this layout, bring each to its end and judge it. A fault that comes too late, when
    its run is over already, strikes another run, earlier."""
    blows = planned.blows
    rounds: list[Round] = []
    for _ in range(_ATTEMPTS):
        struck, missed = _disturb_one(arena, planned.layout, blows)
        rounds += struck
        if not missed:
            return rounds
        blows = tuple(replace(blow, moment=Moment(blow.moment.share / 2), seed=blow.seed + 1) for blow in missed)
    return rounds + [Round(each.fault, str(planned.layout), "never", ["it never struck in time"]) for each in missed]


def _disturb_one(arena: Arena, layout: Layout, blows: tuple[Blow, ...]) -> tuple[list[Round], list[Blow]]:
    undisturbed, timeline = arena.undisturbed(layout)
    checkpoint_bytes = judge.last_checkpoint(undisturbed.folder).stat().st_size
    struck: list[tuple[Blow, Struck]] = []
    missed: list[Blow] = []
    with arena.new_run(layout, any(blow.fault == "disk-full" for blow in blows)) as run:
        for blow in blows:
            if run.is_finished:
                missed.append(blow)
                continue
            scene = Scene(run, blow.moment, timeline, random.Random(blow.seed), checkpoint_bytes)
            try:
                done = STRIKES[blow.fault](scene)
            except MissedError:
                missed.append(blow)
                continue
            except TimedOutError as error:
                done = Struck(run.starts[-1].number, time.time(), "waiting", [str(error)])
                run.starts[-1].kill()
            struck.append((blow, done))
            _require_going_on(run, done)
        wrong = _bring_to_end(run) or judge.faults_of(run, undisturbed, arena.num_samples)
        rounds = [_round(run, blow, done, wrong) for blow, done in struck]
    if all(each.survived for each in rounds):
        arena.forget(run)
    return rounds, missed


def _require_going_on(run: Run, struck: Struck) -> None:
    """The same command must go on as it is; if it does only once the damage is removed, that counts as lost."""
    if struck.repair is None:
        return
    started = run.start()
    with suppress(TimedOutError):
        wait_until(lambda: not started.is_running or started.ledger(0), "the next step", 2 * PROGRESS_S)
    if started.is_running or run.is_finished:
        return
    struck.wrong.append(f"the same command does not go on: {started.output().strip().splitlines()[-1][:300]}")
    struck.repair()


def _bring_to_end(run: Run) -> list[str]:
    for _ in range(2):
        if run.is_finished and not run.starts[-1].is_running:
            return []
        run.go_on()
        try:
            wait_until(lambda: not run.starts[-1].is_running, "end", 2 * PROGRESS_S)
        except TimedOutError as error:
            return [str(error)]
    if run.is_finished:
        return []
    return [f"the same command does not go on: {' | '.join(run.starts[-1].output().strip().splitlines()[-3:])[:600]}"]


def _round(run: Run, blow: Blow, struck: Struck, wrong_at_end: list[str]) -> Round:
    """With what it cost: the updates done again, and the time from the fault to the next step."""
    facts = dict(struck.facts)
    before = run.starts[struck.start].ledger(0)
    after = next((rows for started in run.starts[struck.start + 1 :] if (rows := started.ledger(0))), [])
    before = [row for row in before if row["time"] <= struck.time]
    if before and after:
        facts["steps_lost"] = max(0, before[-1]["step"] - after[0]["first"])
    if after:
        facts["next_step_after_s"] = round(after[0]["time"] - struck.time, 2)
    facts["log"] = str(run.starts[struck.start].log)
    return Round(blow.fault, str(run.layout), struck.phase, [*struck.wrong, *wrong_at_end], facts)


def disturb_prepare(arena: Arena, number: int, seed: int) -> list[Round]:
    """Kill a preparation at any time, or inside a write, an fsync or a rename; the same command must make it whole."""
    draws = random.Random(seed)
    folder = arena.folder / f"prepare-{number}"
    notes, out = folder / "notes", folder / "set"
    notes.mkdir(parents=True)
    phase = draws.choice(["any", "write", "fsync", "fsync", "rename", "rename"])
    whole = sum(path.stat().st_size for path in arena.data.rglob("*.tar"))
    seconds = draws.uniform(0.3, 1.5)
    for attempt in range(_ATTEMPTS):
        death: dict[str, Any] = {"phase": phase, "after": draws.random() < 0.5}
        if phase == "write":
            death["bytes"] = draws.randrange(1 << 10, whole // 8)
        else:
            death["nth"] = draws.randint(1, 16 >> attempt)
        if phase != "any":
            (notes / "die-0.json").write_text(json.dumps(death))
        environment = environment_of(notes, attempt, folder, None)
        started = Started(attempt, notes, _prepare_command(arena.raw, out), environment)
        if phase == "any":
            time.sleep(seconds / 2**attempt)
            started.launcher.kill()
        started.launcher.wait()
        at = started.note(0)
        is_done = set(folder.iterdir()) == {notes, out}
        if started.launcher.returncode < 0 and not is_done:
            break
        shutil.rmtree(out, ignore_errors=True)  # it was done before it could be killed: once more
    else:
        return [Round("kill-prepare", "1", "never", ["it never struck in time"])]
    where = phase if phase != "any" else at.get("disk") or "preparing"
    subprocess_run = subprocess.run(
        _prepare_command(arena.raw, out), env=_plain(), capture_output=True, text=True, check=False
    )
    wrong = []
    if subprocess_run.returncode:
        wrong.append(f"the same command does not go on: {subprocess_run.stderr.strip()[-300:]}")
    elif _digests(out) != _digests(arena.data):
        wrong.append("the set differs from that of an undisturbed preparation")
    left = [path.name for path in folder.iterdir() if path not in (notes, out)]
    if left:
        wrong.append(f"left behind: {', '.join(left)}")
    if not wrong:
        shutil.rmtree(folder)
    return [Round("kill-prepare", "1", where, wrong, death)]


def _prepare_command(raw: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "data_pipelines.prepare", "image-folder", "--root", str(raw), "--out", str(out)]


def _plain() -> dict[str, str]:
    environment = environment_of(Path(), 0, Path(), None)
    del environment["BITSCALE_FAULTS"]
    return environment | {"PYTHONPATH": str(ROOT)}


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _write_images(root: Path) -> None:
    draws = np.random.default_rng(0)
    for split, count in _IMAGES.items():
        for i in range(count):
            folder = root / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draws.integers(256, size=(36, 36), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:03d}.png")
