"""On the path of a process that is to be disturbed: notes which samples each step saw and what a rank is at, stretches
the steps, and lets a rank die inside a write, an fsync or a rename.

`BITSCALE_FAULTS` is a JSON object: `notes` (folder to note in), `start` (number of this start), `step_s` (seconds added
to each step), `watched` (only files below it count as written by the run). To die, a rank finds `die-RANK.json` in
`notes` when it takes a batch, or, without steps, when it starts: `phase`, and `bytes` (of a file, for a write) or `nth`
(fsync or rename, counted from then on) and `after` (whether the call is made first).
"""

import json
import mmap
import os
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, cast

from tests.faults.changing_finder import ChangingFinder

NOTE_BYTES = 128


class Disturbed:
    """What this process is at, where others can read it even after it was killed."""

    def __init__(self, settings: dict[str, Any], rank: int) -> None:
        self.rank, self.notes, self.start = rank, pathlib.Path(settings["notes"]), settings["start"]
        self.step_s, self.watched = settings["step_s"], os.path.abspath(settings["watched"])
        self.step, self.doing, self.disk, self.left = -1, "starting", "", 0
        self.death: dict[str, Any] | None = None
        note = self.notes / f"note-{self.start}-{rank}"
        note.write_bytes(b" " * NOTE_BYTES)
        with note.open("r+b") as file:
            self._note = mmap.mmap(file.fileno(), NOTE_BYTES)
        self._ledger = os.open(self.notes / f"ledger-{self.start}-{rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.say()

    def say(self, doing: str | None = None, disk: str | None = None) -> None:
        """What the loop does, and what is done to the disk, maybe by another thread."""
        self.doing = self.doing if doing is None else doing
        self.disk = self.disk if disk is None else disk
        content = {"pid": os.getpid(), "step": self.step, "doing": self.doing, "disk": self.disk}
        self._note[:] = json.dumps(content).encode().ljust(NOTE_BYTES)

    def took(self, step: int, first: int, world_size: int, samples: list[int]) -> None:
        """A line of the ledger: this rank is about to learn from these samples."""
        row = {"step": step, "first": first, "world_size": world_size, "time": time.time(), "samples": samples}
        os.write(self._ledger, (json.dumps(row) + "\n").encode())

    def look_for_death(self) -> None:
        """Arm what `die-RANK.json` asks for."""
        path = self.notes / f"die-{self.rank}.json"
        if self.death is not None or not path.exists():
            return
        self.death = json.loads(path.read_text())
        path.unlink()
        self.left = self.death.get("nth", 0)
        if self.death["phase"] == "write":
            # The kernel kills a process that writes beyond the limit, in the middle of that very call.
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.death["bytes"], resource.RLIM_INFINITY))

    def reached(self, phase: str, after: bool) -> None:
        """Die if this call is the one."""
        if self.death is None or self.death["phase"] != phase or self.death["after"] != after:
            return
        self.left -= 1
        if self.left == 0:
            self.say(disk=phase)
            os.kill(os.getpid(), signal.SIGKILL)

    def is_watched(self, path: Any) -> bool:
        return isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(
            self.watched
        )


def _disturb(settings: dict[str, Any], rank: int) -> None:
    rank_ = Disturbed(settings, rank)
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def watched_fsync(fd: int) -> None:
        if not rank_.is_watched(os.readlink(f"/proc/self/fd/{fd}")):
            return fsync(fd)
        rank_.say(disk="fsync")
        rank_.reached("fsync", after=False)
        fsync(fd)
        rank_.reached("fsync", after=True)
        rank_.say(disk="")
        return None

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(source: Any, target: Any, **options: Any) -> None:
            if not rank_.is_watched(target):
                return call(source, target, **options)
            rank_.say(disk="rename")
            rank_.reached("rename", after=False)
            call(source, target, **options)
            rank_.reached("rename", after=True)
            rank_.say(disk="")
            return None

        return renamed

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int):
            written = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if written and rank_.is_watched(arguments[0]) and os.fsdecode(arguments[0]).endswith(".tmp"):
                rank_.say(disk="write")

    os.fsync, os.rename, os.replace = cast(Any, watched_fsync), around(rename), around(replace)
    accessor = getattr(pathlib, "_normal_accessor", None)  # Python 3.10 took its own references to these functions
    if accessor is not None:
        accessor.rename, accessor.replace = os.rename, os.replace
    sys.addaudithook(audit)
    sys.meta_path.insert(0, _Patched(rank_))
    if settings["step_s"] is None:
        rank_.look_for_death()


class _Patched(ChangingFinder):
    """Changes a few of the trainer's modules."""

    def __init__(self, rank: Disturbed) -> None:
        self._rank = rank
        super().__init__(
            {
                "trainer.training.job": self._note_batches,
                "trainer.training.prediction": self._note_evaluation,
                "safetensors.torch": self._note_writing,
            }
        )

    def _note_batches(self, module: Any) -> None:
        rank, training_batches = self._rank, module.Job.training_batches

        def noted(job: Any, engine: Any, first_step: int) -> Iterator[list[Any]]:
            steps = training_batches(job, engine, first_step)
            for step in count(first_step):
                rank.step = step
                rank.say("loading")
                rank.look_for_death()
                time.sleep(rank.step_s)
                micro_batches = next(steps)
                samples = [sample for batch in micro_batches for sample in batch.samples.tolist()]
                rank.took(rank.step, first_step, engine.world_size, samples)
                rank.say("learning")
                yield micro_batches

        module.Job.training_batches = noted

    def _note_evaluation(self, module: Any) -> None:
        rank, predict = self._rank, module.predict_readable

        def noted(*arguments: Any, **options: Any) -> Any:
            rank.say("evaluating")
            outputs = predict(*arguments, **options)
            rank.say("evaluated")
            return outputs

        module.predict_readable = noted

    def _note_writing(self, module: Any) -> None:
        rank, save_file = self._rank, module.save_file

        def noted(*arguments: Any, **options: Any) -> None:
            rank.say(disk="write")
            save_file(*arguments, **options)
            rank.say(disk="")

        module.save_file = noted


def _is_disturbed() -> bool:
    """Whether this process is a rank or a preparation, and not one that launches them."""
    return any(word.endswith("trainer/pretrain.py") or word == "data_pipelines.prepare" for word in sys.orig_argv[1:3])


if "BITSCALE_FAULTS" in os.environ and _is_disturbed():
    _disturb(
        json.loads(os.environ["BITSCALE_FAULTS"]),
        int(os.environ.get("RANK", os.environ.get("HOROVOD_RANK", "0"))),
    )
