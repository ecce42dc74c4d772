"""Predict new images with a finished run: a CSV file with one row per image."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import write_atomically
from data_pipelines.common.message_parts import counted
from data_pipelines.common.messages import logger
from data_pipelines.common.progress import Progress
from data_pipelines.image_files.dicom import why_no_image
from data_pipelines.shards.columns import Array
from trainer.config import RuntimeConfig
from trainer.evaluation.earlier_table import OF_CLASS, EarlierTable, header_of
from trainer.evaluation.inputs import Input, Inputs, colours_remark, inputs_of
from trainer.evaluation.operating import OperatingPoints, calibrated_thresholds, probabilities
from trainer.evaluation.predict_settings import Predict
from trainer.evaluation.predictions import scores_of
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import Run, open_run

_BATCHES_AT_ONCE = 4
Verified = tuple[Input, EncodedImage | str, str]  # the image or why there is none, and a remark


def predict_images(settings: Predict) -> tuple[Counter[str], Counter[str]]:
    """Write a row for each input; returns how many were "read" and "unreadable", and how many files were left out, by
    kind.

    Raises InputError for an invalid run or input, and RunError, after the rows are written, if nothing could be read.
    """
    run = open_run(settings.run, settings.head)
    runtime = RuntimeConfig(
        device=settings.device,
        threads=settings.threads,
        loader=settings.loader,
        eval_batch_size=settings.eval_batch_size,
    )
    points = run.points()
    inputs, first = _open_inputs(settings)
    predictor = Predictor(run, runtime, settings.precision, settings.xray_size, settings.bits)
    logger.info(
        f"predict {settings.input} with {run.path}: {predictor.summary()}, {settings.eval_batch_size} images at a "
        f"time, to {settings.out}"
    )
    earlier = _earlier_table(settings, predictor)
    replaces = settings.out.exists()
    chunks = _verified(predictor, [first], inputs, settings)
    counts: Counter[str] = Counter()

    def write(path: Path) -> None:
        counts.update(_write_table(path, predictor, points, chunks, earlier))

    try:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(settings.out, write)
    except OSError as error:
        raise InputError(f"{settings.out} cannot be written ({error}); choose another --out") from error
    if replaces:
        logger.info(f"note: replaced the earlier {settings.out}")
    note_what_is_unfitted(run, points, predictor.classes)
    if not counts:
        raise InputError(f"{settings.input} has no image, but others: {counted(inputs.left_out)}")
    if not counts["read"]:
        raise RunError(f"none of {counts['unreadable']} inputs could be read; {settings.out} says why")
    return counts, inputs.left_out


def _write_table(
    path: Path,
    predictor: Predictor,
    points: OperatingPoints,
    chunks: Iterable[list[Verified]],
    earlier: EarlierTable | None,
) -> Counter[str]:
    """Write the rows of all inputs; returns how many were "read" and "unreadable"."""
    counts: Counter[str] = Counter()
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(header_of(predictor.classes))
        for chunk in chunks:
            rows = [*_rows(predictor, points, chunk)]
            if earlier is not None:
                earlier.require_same(rows)
            table.writerows(rows)
            counts.update("unreadable" if isinstance(image, str) else "read" for _, image, _ in chunk)
    return counts


def _open_inputs(settings: Predict) -> tuple[Inputs, Input]:
    """The inputs, and the first of them. Raises InputError where there is none."""
    inputs = inputs_of(settings.input, settings.path_column)
    for note in inputs.notes:
        logger.info(f"note: {note}")
    first = next(inputs.each, None)
    if first is None:
        others = f", but others: {counted(inputs.left_out)}" if inputs.left_out else ""
        raise InputError(f"{settings.input} has no image, DICOM file or shard{others}")
    return inputs, first


def _earlier_table(settings: Predict, predictor: Predictor) -> EarlierTable | None:
    """The table that is there, if it may be written anew. Raises InputError for any other file."""
    earlier = None if settings.force else EarlierTable.read(settings.out)
    if earlier is not None:
        names = (item.name for item in inputs_of(settings.input, settings.path_column).each)
        earlier.require_part_of(predictor.classes, names, settings.input)
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


def _verified(
    predictor: Predictor, first: Sequence[Input], inputs: Inputs, settings: Predict
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
        return item, image, "" if isinstance(image, str) else colours_remark(encoded, predictor.channels)

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


def _rows(predictor: Predictor, points: OperatingPoints, chunk: Sequence[Verified]) -> Iterator[list[Any]]:
    logits: Array = predictor.of_images([image for _, image, _ in chunk if isinstance(image, EncodedImage)])
    calibrated = probabilities(logits, predictor.task, points.temperature)
    thresholds = np.array([points.threshold(name) for name in predictor.classes])
    least = calibrated_thresholds(logits, predictor.task, points, predictor.classes)
    above = (scores_of(logits, predictor.task) >= thresholds[:, None]).T
    row = 0
    for item, image, remark in chunk:
        if isinstance(image, str):
            yield [item.name, image, "", "", *[""] * (len(OF_CLASS) * len(predictor.classes))]
            continue
        if predictor.task == "single_label":
            predicted = predictor.classes[int(logits[row].argmax())]
        else:
            predicted = "; ".join(name for name, called in zip(predictor.classes, above[row], strict=True) if called)
        values = (calibrated[row], least[row], above[row].astype(int), logits[row])
        columns = zip(*(each.tolist() for each in values), strict=True)
        yield [item.name, "", remark, predicted, *(value for of_class in columns for value in of_class)]
        row += 1
