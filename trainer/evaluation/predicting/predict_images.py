"""Predict new images with a finished run: a CSV file with one row per image."""

from collections import Counter
from collections.abc import Iterable, Sequence

from data_pipelines.common.earlier_output import refuse_to_replace
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import write_atomically
from data_pipelines.common.message_parts import counted, number, some_of
from data_pipelines.common.messages import logger
from data_pipelines.common.version import version
from data_pipelines.image_files.image_verification import FLAT
from trainer.config import RuntimeConfig
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.chosen_thresholds import points_of
from trainer.evaluation.predicting.earlier_table import EarlierTable
from trainer.evaluation.predicting.inputs import Input, Inputs, inputs_of_all
from trainer.evaluation.predicting.judged_inputs import InputJudge
from trainer.evaluation.predicting.kept_outputs import KeptOutputs
from trainer.evaluation.predicting.predict_settings import Predict
from trainer.evaluation.predicting.prediction_rows import RowWriter
from trainer.evaluation.predicting.prediction_table import Table
from trainer.evaluation.predicting.seen_images import SeenImages, seen_images
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import Run, open_run

_NAMED = 3  # inputs in a message


def predict_images(settings: Predict) -> tuple[Counter[str], Counter[str]]:
    """Write a row for each input; returns the counts of `RowWriter.write`, and how many files were left out, by kind.

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
        from trainer.evaluation.predicting.explain_predictions import (  # here: they draw figures
            MapWriter,
            require_explainable,
        )

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
    seen = _seen(run)
    maps = None if settings.explain is None else MapWriter(settings, predictor, run, points)
    replaces = settings.out.exists()
    counts: Counter[str] = Counter()
    try:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        kept = KeptOutputs(settings.out, _made_with(predictor, seen, settings), settings.input, anew=settings.force)
        earlier, gone = _earlier_table(settings, predictor, kept)
        with kept:
            judge = InputJudge(predictor, seen, kept, settings.threads)
            chunks = judge.judged(first, inputs, settings.eval_batch_size)
            writer = RowWriter(table, judge, kept, earlier, gone)
            write_atomically(settings.out, lambda path: counts.update(writer.write(path, chunks, maps)))
            kept.add_table()
    except OSError as error:
        raise InputError(f"{settings.out} cannot be written ({error}); choose another --out") from error
    if replaces:
        logger.info(f"note: replaced the earlier {settings.out}")
    note_what_is_unfitted(run, points, predictor.classes)
    _note_what_is_not_told(table, predictor)
    if not counts["read"] + counts["unreadable"]:
        raise InputError(f"{_named(settings)} has no image, but others: {counted(inputs.left_out)}")
    if not counts["read"]:
        few = counts["unreadable"]
        none = "the input could not" if few == 1 else f"none of {few} inputs could"
        raise RunError(f"{none} be read; {settings.out} says why")
    if flat := counts["flat"]:
        which = f"{flat:,} of {number(counts['read'], 'image')}"
        logger.warning(f"{which} came out nearly black or white: {FLAT} (column remark). {predictor.depth.why_flat()}")
    if maps is not None:
        logger.info(f"maps: {maps.finish()}")
    return counts, inputs.left_out


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


def _made_with(predictor: Predictor, seen: SeenImages | None, settings: Predict) -> dict[str, str]:
    """What decides on the outputs for a picture, by its name in a message; thresholds and sets come after them."""
    return predictor.made_with() | {
        "--xray-size": str(settings.xray_size),
        "--bits": str(settings.bits),
        "training images at hand": "no" if seen is None else "yes",
        "version of the program": version(),
    }


def _earlier_table(
    settings: Predict, predictor: Predictor, kept: KeptOutputs
) -> tuple[EarlierTable | None, Sequence[str]]:
    """The table that is there, if it may be written anew, and the names in it of images that are gone, whose rows stay.

    Raises InputError for any other file: of another run, or with predictions that would be lost.
    """
    earlier = None if settings.force else EarlierTable.read(settings.out)
    if earlier is None:
        return None, ()
    earlier.require_of(predictor.classes, predictor.task)
    if kept.table_is_of_other_weights:
        refuse_to_replace(settings.out, "was made with other weights: it is of another run")
    names = (item.name for item in inputs_of_all(settings.input, settings.path_column).each)
    gone = earlier.without(names)
    if not kept.has_same_inputs or not all(map(kept.has, gone)):
        earlier.require_none(gone, _named(settings), kept.differing)
    if kept.differing:
        which = some_of(kept.differing)
        logger.info(f"note: all images are predicted anew, as these are other than in {settings.out}: {which}")
    return earlier, gone


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
    if doubt := points.temperature_doubt():
        logger.info(f"note: {doubt}")


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
