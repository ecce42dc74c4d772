"""On the path of the ranks of an elastic run that is to be disturbed: notes which samples each step took, which steps
were done, and what a rank is at; stretches the steps.

`BITSCALE_ELASTIC_FAULTS` is a JSON object: `notes` (folder to note in), `step_s` (seconds added to each step),
`float64` (whether to train in it).
"""

import json
import mmap
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from tests.faults.changing_finder import ChangingFinder

NOTE_BYTES = 200


class Watched:
    """What this process is at, where others can read it even after it was killed."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.step_s, self.is_float64 = settings["step_s"], settings["float64"]
        self._state: dict[str, Any] = {"pid": os.getpid(), "slot": int(os.environ["BITSCALE_SLOT"]), "rank": -1}
        started = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        self._state |= {"started": int(started), "round": 0, "step": -1, "doing": "starting"}
        name = f"{self._state['slot']}-{os.getpid()}"
        notes = pathlib.Path(settings["notes"])
        (notes / f"note-{name}.tmp").write_bytes(b" " * NOTE_BYTES)
        with (notes / f"note-{name}.tmp").open("r+b") as file:
            self._note = mmap.mmap(file.fileno(), NOTE_BYTES)
        self.say()
        (notes / f"note-{name}.tmp").rename(notes / f"note-{name}")
        self._ledger = os.open(notes / f"ledger-{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, **changes: Any) -> None:
        self._state |= changes
        self._note[:] = json.dumps(self._state).encode().ljust(NOTE_BYTES)

    def write(self, kind: str, engine: Any, step: int, **more: Any) -> None:
        """A line of the ledger."""
        place = {"round": engine.changes.round, "rank": engine.rank, "world_size": engine.world_size}
        row = {"kind": kind, "step": step, "time": time.time(), **place, **more}
        os.write(self._ledger, (json.dumps(row) + "\n").encode())


class _Patched(ChangingFinder):
    """Changes a few of the trainer's modules."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        super().__init__(
            {
                "trainer.training.job": self._note_batches,
                "trainer.training.loop": self._note_steps,
                "trainer.training.model": self._make_float64,
                "trainer.engines.watchdog": self._note_phases,
                "trainer.engines.elastic": self._note_rounds,
            }
        )

    def _note_batches(self, module: Any) -> None:
        watched, training_batches = self._watched, module.Job.training_batches

        def noted(job: Any, engine: Any, first_step: int) -> Iterator[list[Any]]:
            steps = training_batches(job, engine, first_step)
            for step in count(first_step):
                watched.say(step=step, rank=engine.rank, round=engine.changes.round)
                time.sleep(watched.step_s)
                micro_batches = next(steps)
                counted = [batch for batch in micro_batches if not batch.is_padding]
                samples = [sample for batch in counted for sample in batch.samples.tolist()]
                watched.write("took", engine, step, first=first_step, samples=samples)
                yield micro_batches

        module.Job.training_batches = noted

    def _note_steps(self, module: Any) -> None:
        watched, train_step = self._watched, module.train_step

        def noted(job: Any, engine: Any, step: int, *others: Any) -> Any:
            report = train_step(job, engine, step, *others)
            watched.write("done", engine, step)
            return report

        module.train_step = noted

    def _note_phases(self, module: Any) -> None:
        watched, enter = self._watched, module.Watchdog.enter

        def noted(heartbeat: Any, phase: str, step: int | None = None) -> None:
            watched.say(doing=phase)
            enter(heartbeat, phase, step)

        module.Watchdog.enter = noted

    def _note_rounds(self, module: Any) -> None:
        watched, take_part = self._watched, module.ElasticEngine.take_part

        def noted(engine: Any, *arguments: Any) -> Any:
            watched.say(doing="regrouping")
            return take_part(engine, *arguments)

        module.ElasticEngine.take_part = noted

    def _make_float64(self, module: Any) -> None:
        starting_model: Callable[..., Any] = module.starting_model
        if self._watched.is_float64:
            module.starting_model = lambda *arguments, **options: starting_model(*arguments, **options).double()


if {"BITSCALE_ELASTIC_FAULTS", "BITSCALE_SLOT"} <= os.environ.keys() and any(
    word.endswith("trainer/pretrain.py") for word in sys.orig_argv[1:3]
):
    sys.meta_path.insert(0, _Patched(Watched(json.loads(os.environ["BITSCALE_ELASTIC_FAULTS"]))))
