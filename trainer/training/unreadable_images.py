"""Log of unreadable images: `unseen.csv` has each occurrence, `quarantine.csv` each image with damaged bytes once. Too
many stop all ranks."""

from collections.abc import Sequence
from typing import Any

from data_pipelines.common.advice import flag, has_flag, quoted
from data_pipelines.common.errors import RunError
from data_pipelines.common.files import write_atomically
from data_pipelines.common.messages import logger, rank_0_logger
from data_pipelines.loading.unreadable import BLANK, UnreadableSample, sample_key, sample_place
from data_pipelines.shards.index import Index
from trainer.engine import Engine
from trainer.run_files import QUARANTINE, UNJUDGED, UNSEEN
from trainer.run_folder import CsvLog
from trainer.training.job import Job

_SHOWN = 3


def describe(index: Index, one: UnreadableSample) -> dict[str, Any]:
    """An unreadable image, as reported to all ranks."""
    shown = one.replacement != BLANK
    return {
        "position": one.position,
        "place": sample_place(index, one.sample),
        "key": sample_key(index, one.sample),
        "shard": str(index.shards[int(index.shard[one.sample])]) if one.of_shard else "",
        "set": index.origins[int(index.shard[one.sample])],
        "folder": str(index.shards[int(index.shard[one.sample])].parent.parent),
        "reason": one.reason,
        "instead": sample_key(index, one.replacement) if shown else "",
    }


class UnreadableImageLog:
    """Logs the unreadable training images of a run. Collective."""

    def __init__(self, job: Job, engine: Engine, first_step: int) -> None:
        self._job, self._engine, enabled = job, engine, engine.rank == 0
        self._unseen = CsvLog(
            job.run_dir / UNSEEN, ("step", "position", "place", "key", "reason", "shown instead"), enabled
        )
        self._quarantine = CsvLog(job.run_dir / QUARANTINE, ("step", "place", "key", "reason"), enabled)
        self._unseen.truncate(first_step)
        kept = [row[1] for row in self._quarantine.truncate(first_step)]
        self._bad: set[str] = set(engine.gather(kept)[0])
        self._named: set[str] = set()

    def take(self, step: int, mine: Sequence[UnreadableSample]) -> None:
        """Log the images that the ranks could not read at a step. Raises RunError, on every rank, for a shard where
        that stops the run, for too many bad images, and if no replacement could be shown for one."""
        by_rank = self._engine.gather([describe(self._job.train, one) for one in mine])
        every = sorted((one for of_rank in by_rank for one in of_rank), key=lambda one: one["position"])
        self._unseen.add(
            (step, one["position"], one["place"], one["key"], one["reason"], one["instead"]) for one in every
        )
        rotten = {one["place"]: one for one in every if not one["shard"]}
        new = [one for place, one in rotten.items() if place not in self._bad]
        self._bad |= rotten.keys()
        self._quarantine.add((step, one["place"], one["key"], one["reason"]) for one in new)
        self._say(step, every, new)
        self._judge(step, every)

    def _say(self, step: int, every: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
        lines = [f"{one['place']} ({one['key']}) cannot be decoded any more: {one['reason']}" for one in new]
        lines += [
            f"{one['reason'].partition(';')[0]} (set {one['set']}, noticed at step {step})"
            for shard, one in {one["shard"]: one for one in every}.items()
            if shard and shard not in self._named
        ]
        self._named |= {one["shard"] for one in every}
        for line in lines:
            rank_0_logger.warning(f"{line}; other images are shown instead, see {UNSEEN}")

    def _judge(self, step: int, every: list[dict[str, Any]]) -> None:
        data = self._job.config.data
        of_shards = [one for one in every if one["shard"]]
        if of_shards and data.on_bad_shard == "stop":
            first = of_shards[0]
            raise RunError(
                f"step {step}: {first['reason'].partition(';')[0]}; it is a shard of {first['set']}. "
                f"{_restore_advice('go on')}"
            )
        if len(self._bad) > data.max_bad:
            raise RunError(
                f"{len(self._bad)} images cannot be decoded any more, more than {flag('--data.max-bad')} "
                f"{data.max_bad}; they are in {self._quarantine.path}. Check the set: {_check(every)}"
            )
        if lost := [one for one in every if not one["instead"]]:
            raise RunError(
                f"step {step}: {lost[0]['reason']}, and no other image could be read in its place; look whether the "
                "data can be reached from all nodes, and repeat the command"
            )


def note_unjudged(job: Job, engine: Engine, index: Index, mine: Sequence[UnreadableSample]) -> None:
    """List the images of an evaluation that could not be read and are left out of its metrics. Collective; raises
    RunError as `UnreadableImageLog.take` does."""
    by_rank = engine.gather([describe(index, one) for one in mine])
    every = [one for of_rank in by_rank for one in of_rank]
    of_shards = [one for one in every if one["shard"]]
    if engine.rank == 0:
        lines = [f"{one['place']},{one['key']},{one['reason']!r}\n" for one in every]
        write_atomically(
            job.run_dir / UNJUDGED,
            lambda path: path.write_text("".join(["place,key,reason\n", *lines]), encoding="utf-8"),
        )
        named = "; ".join(f"{one['place']}: {one['reason']}" for one in every[:_SHOWN])
        logger.warning(
            f"{len(every)} of {len(index)} images cannot be read and are left out of the metrics, see "
            f"{UNJUDGED}: {named}"
        )
    if of_shards and job.config.data.on_bad_shard == "stop":
        raise RunError(
            f"{of_shards[0]['reason'].partition(';')[0]}; it is a shard of {of_shards[0]['set']}. "
            f"{_restore_advice('judge')}"
        )
    if len(every) - len(of_shards) > job.config.data.max_bad:
        raise RunError(
            f"{len(every)} images cannot be decoded any more, more than {flag('--data.max-bad')} allows. Check the "
            f"set: {_check(every)}"
        )


def _restore_advice(go_on: str) -> str:
    without = f", or {go_on} without it: --data.on-bad-shard skip" if has_flag("--data.on-bad-shard") else ""
    return f"Bring the file back and repeat the command{without}"


def _check(every: Sequence[dict[str, Any]]) -> str:
    """The command that verifies the set of the last image that could not be decoded against its checksums."""
    folder = next(one["folder"] for one in reversed(every) if not one["shard"])
    return f"bitscale prepare --verify {quoted(folder)}"
