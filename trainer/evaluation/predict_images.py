"""Predict new images with a finished run: a CSV file with one row per image."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import write_atomically
from data_pipelines.common.message_parts import counted, some_of
from data_pipelines.common.messages import logger
from data_pipelines.common.progress import Progress
from data_pipelines.image_files.dicom import why_no_image
from data_pipelines.shards.columns import Array
from trainer.config import RuntimeConfig
from trainer.evaluation.chosen_thresholds import points_of
from trainer.evaluation.earlier_table import EarlierTable
from trainer.evaluation.inputs import Input, Inputs, colours_remark, inputs_of_all
from trainer.evaluation.operating import OperatingPoints
from trainer.evaluation.predict_settings import Predict
from trainer.evaluation.prediction_table import Table
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import Run, open_run
from trainer.evaluation.seen_images import SEEN, SeenImages, seen_images

if TYPE_CHECKING:
    from trainer.evaluation.explain_predictions import MapWriter

_BATCHES_AT_ONCE = 4
_NAMED = 3  # inputs in a message
Verified = tuple[Input, EncodedImage | str, str]  # the image or why there is none, and a remark


def predict_images(settings: Predict) -> tuple[Counter[str], Counter[str]]:
    """Write a row for each input; returns how many were "read", of these "unlike" the training images, and
    "unreadable", and how many files were left out, by kind.

    Raises InputError for an invalid run or input, and RunError, after the rows are written, if nothing could be read.
    """
    run = open_run(settings.run, settings.head)
    runtime = RuntimeConfig(
        device=settings.device,
        threads=settings.threads,
        loader=settings.loader,
        eval_batch_size=settings.eval_batch_size,
    )
    if settings.explain is not None:
        from trainer.evaluation.explain_predictions import MapWriter, require_explainable  # here: they draw figures

        require_explainable(settings)
    inputs, first = _open_inputs(settings)
    predictor = Predictor(run, runtime, settings.precision, settings.xray_size, settings.bits)
    points = points_of(run, settings.choice, predictor.classes, predictor.task)
    sets = points.set_rule(predictor.classes, predictor.task, settings.coverage)
    table = Table(predictor.classes, predictor.task, points, sets)
    logger.info(
        f"predict {_named(settings)} with {run.path}: {predictor.summary()}, {settings.eval_batch_size} images at a "
        f"time, to {settings.out}"
    )
    earlier = _earlier_table(settings, predictor)
    maps = None if settings.explain is None else MapWriter(settings, predictor, run, points)
    replaces = settings.out.exists()
    chunks = _verified(predictor, _seen(run), [first], inputs, settings)
    counts: Counter[str] = Counter()

    def write(path: Path) -> None:
        counts.update(_write_table(path, predictor, table, chunks, earlier, maps))

    try:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(settings.out, write)
    except OSError as error:
        raise InputError(f"{settings.out} cannot be written ({error}); choose another --out") from error
    if replaces:
        logger.info(f"note: replaced the earlier {settings.out}")
    note_what_is_unfitted(run, points, predictor.classes)
    _note_what_is_not_told(table, predictor)
    if not counts:
        raise InputError(f"{_named(settings)} has no image, but others: {counted(inputs.left_out)}")
    if not counts["read"]:
        raise RunError(f"none of {counts['unreadable']} inputs could be read; {settings.out} says why")
    if maps is not None:
        logger.info(f"maps: {maps.finish()}")
    return counts, inputs.left_out


def _write_table(
    path: Path,
    predictor: Predictor,
    table: Table,
    chunks: Iterable[list[Verified]],
    earlier: EarlierTable | None,
    maps: "MapWriter | None",
) -> Counter[str]:
    """Write the rows of all inputs, and maps of the first; returns how many were "read", of these "unlike", and
    "unreadable"."""
    counts: Counter[str] = Counter()
    header = table.header()
    is_unlike = header.index("unlike training")
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        lines = csv.writer(file)
        lines.writerow(header)
        for chunk in chunks:
            read = [(item, image) for item, image, _ in chunk if isinstance(image, EncodedImage)]
            logits, novelty = predictor.judge_images([image for _, image in read])
            rows = [*_rows(table, chunk, logits, novelty)]
            if earlier is not None:
                earlier.require_same(rows, header)
            lines.writerows(rows)
            counts.update("unlike" for row in rows if row[is_unlike] == 1)
            if maps is not None:
                maps.add(read, logits)
            counts.update("unreadable" if isinstance(image, str) else "read" for _, image, _ in chunk)
    return counts


def _seen(run: Run) -> SeenImages | None:
    try:
        return seen_images(run)
    except InputError as error:
        logger.info(f"note: images that were trained on are not marked: {error}")
        return None


def _named(settings: Predict) -> str:
    return some_of([str(path) for path in settings.input], _NAMED)


def _open_inputs(settings: Predict) -> tuple[Inputs, Input]:
    """The inputs, and the first of them. Raises InputError where there is none."""
    inputs = inputs_of_all(settings.input, settings.path_column)
    for note in inputs.notes:
        logger.info(f"note: {note}")
    first = next(inputs.each, None)
    if first is None:
        others = f", but others: {counted(inputs.left_out)}" if inputs.left_out else ""
        raise InputError(f"{_named(settings)} has no image, DICOM file or shard{others}")
    return inputs, first


def _earlier_table(settings: Predict, predictor: Predictor) -> EarlierTable | None:
    """The table that is there, if it may be written anew. Raises InputError for any other file."""
    earlier = None if settings.force else EarlierTable.read(settings.out)
    if earlier is not None:
        names = (item.name for item in inputs_of_all(settings.input, settings.path_column).each)
        earlier.require_part_of(predictor.classes, predictor.task, names, _named(settings))
    return earlier


def note_what_is_unfitted(run: Run, points: OperatingPoints, classes: Iterable[str]) -> None:
    """Say which thresholds are defaults, whether the temperature is one, and why."""
    if not points.images and not points.thresholds:
        state = run.unfinished()
        message = f"all thresholds are a probability of 0.5, and the temperature is 1, because {points.no_val}"
        if state is not None:
            logger.warning(f"{message}{state.remedy}")
        else:
            logger.info(f"note: {message}")
        return
    for name in classes:
        if reason := points.why_unfitted(name):
            logger.info(f"note: {name}: the threshold is a probability of 0.5, because {reason}")
    if reason := points.why_temperature_unfitted():
        logger.info(f"note: the probabilities are of a temperature of 1, because {reason}")


def _note_what_is_not_told(table: Table, predictor: Predictor) -> None:
    """Why columns of sets or novelty are empty."""
    missing = table.sets.missing
    if missing and len(set(missing.values())) == 1 and len(missing) == len(table.classes):
        logger.info(f"note: there are no prediction sets, because {next(iter(missing.values()))}")
    else:
        for name, reason in missing.items():
            logger.info(f"note: {name}: there are no prediction sets, because {reason}")
    if predictor.why_no_novelty:
        logger.info(f"note: images are not compared with the training images, because {predictor.why_no_novelty}")


def _verified(
    predictor: Predictor, seen: SeenImages | None, first: Sequence[Input], inputs: Inputs, settings: Predict
) -> Iterator[list[Verified]]:
    """The inputs, some batches at a time, as `prepare` would store them; those without an image are counted."""

    def verify(item: Input) -> Verified | str:
        try:
            encoded = item.read()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            return item, reason or str(error) or type(error).__name__, ""
        image = predictor.verified(encoded)
        if isinstance(image, str) and predictor.xray_size and not item.was_named and (words := why_no_image(encoded)):
            return words
        if isinstance(image, str):
            return item, image, ""
        remarks = (colours_remark(encoded, predictor.channels), SEEN * (seen is not None and seen.has(image)))
        return item, image, "; ".join(filter(None, remarks))

    rest, most = inputs.each, settings.eval_batch_size * _BATCHES_AT_ONCE
    chunk = list(first) + list(islice(rest, most - len(first)))
    with (
        ThreadPoolExecutor(settings.threads or num_usable_cpus(), thread_name_prefix="verify") as pool,
        Progress("predict", unit="image") as bar,
    ):
        while chunk:
            found = list(pool.map(verify, chunk))
            inputs.left_out.update(words for words in found if isinstance(words, str))
            yield [verified for verified in found if not isinstance(verified, str)]
            bar.update(len(chunk))
            chunk = list(islice(rest, most))


def _rows(table: Table, chunk: Sequence[Verified], logits: Array, novelty: Array | None) -> Iterator[list[Any]]:
    """A row for each input; logits [N, C] and novelty [N, 3]: of those that have an image."""
    judged = table.rows(logits, novelty)
    for item, image, remark in chunk:
        if isinstance(image, str):
            yield table.unreadable(item.name, image)
        else:
            yield [item.name, "", remark, *next(judged)]
