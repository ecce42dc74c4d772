"""Evaluate a finished run: one HTML page, evaluation.json, cases.csv and MODEL_CARD.md."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from data_pipelines.common.earlier_output import require_free
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_atomically, write_json
from data_pipelines.common.messages import logger
from data_pipelines.common.progress import Progress
from data_pipelines.common.version import commit
from data_pipelines.shards.columns import Array
from trainer.config import RuntimeConfig
from trainer.document.html_page import as_page
from trainer.document.markdown import as_markdown
from trainer.document.text import plain
from trainer.evaluation.assessment.assess import Assessment, assess
from trainer.evaluation.assessment.cases import write_cases
from trainer.evaluation.assessment.evaluate_settings import Evaluate
from trainer.evaluation.assessment.evaluated_set import EvaluatedSet, test_elsewhere, test_own
from trainer.evaluation.assessment.groups import assess_groups, group_by
from trainer.evaluation.assessment.output_names import CASES, NUMBERS, output_names_of, require_no_other
from trainer.evaluation.assessment.set_coverage import set_coverage
from trainer.evaluation.chosen_thresholds import points_of
from trainer.evaluation.explained import Explainer
from trainer.evaluation.pages.explained_page import Looked, look
from trainer.evaluation.pages.group_page import GROUPS
from trainer.evaluation.pages.group_table import write_groups
from trainer.evaluation.pages.model_card import CARD, card_head, card_heading, card_section, former_card, sections_of
from trainer.evaluation.pages.page import Evaluation, blocks, summary, warnings
from trainer.evaluation.pages.tables import signed
from trainer.evaluation.pages.to_json import as_json
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import Run, open_run
from trainer.evaluation.statistics.paired import Difference, paired
from trainer.evaluation.statistics.predictions import align

PAGE = "evaluation.html"


def evaluate_run(settings: Evaluate) -> Path:
    """Write page, numbers, cases and model card, and print warnings; returns the path of the page.

    Raises InputError for a run or set that does not exist, or labels and images that cannot be compared.
    """
    run = open_run(settings.run, settings.head, may_lack_heads=settings.against is not None)
    tested = _test(run, settings)
    points = points_of(run, settings.choice, tested.predictions.classes, tested.predictions.task)
    if settings.out is not None:
        require_no_other(settings.out, tested)
    rule = points.set_rule(tested.predictions.classes, tested.predictions.task, settings.coverage)
    sections = sections_of(former_card(run))
    label = output_names_of(run, tested, lambda title: sections.get(card_heading(title), ""))
    folder = settings.out or run.folder / label.folder
    require_free(folder / PAGE, settings.force)
    if settings.by is not None:
        group_by(tested.predictions, settings.by)  # before the work
    with Progress(f"intervals by {settings.resamples:,} resamples"):
        assessment = assess(
            tested.predictions, points, settings.resamples, settings.seed, of_patients=tested.of_patients
        )
        sets = set_coverage(tested.predictions, rule, settings.resamples, settings.seed)
        differences, other = _compare(tested, settings)
        groups = None if settings.by is None else assess_groups(assessment, settings.by, settings.seed)
    looked = _look(run, tested, assessment, settings) if settings.explain else None
    evaluation = Evaluation(
        run, tested, label.title, assessment, sets, differences, other, commit(), settings.images, groups, looked
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as drawn:
            page = as_page(blocks(evaluation, Path(drawn)), Path(drawn))
        write_atomically(folder / PAGE, lambda path: path.write_text(page, encoding="utf-8"))
        write_json(folder / NUMBERS, as_json(evaluation))
        write_atomically(folder / CASES, lambda path: write_cases(path, tested.predictions, assessment.points))
        if groups is None:
            (folder / GROUPS).unlink(missing_ok=True)  # of an earlier evaluation
        else:
            write_atomically(folder / GROUPS, partial(write_groups, groups=groups))
        if settings.out is None:  # another folder may have other thresholds than the run's own page
            _write_card(evaluation, sections)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error}); choose another --out") from error
    for warning in warnings(evaluation):
        logger.warning(warning)
    _say_main_numbers(evaluation)
    return folder / PAGE


def _say_main_numbers(evaluation: Evaluation) -> None:
    logger.info(plain(summary(evaluation.assessment)))
    for found in evaluation.differences[-1:]:  # the overall one
        logger.info(f"{evaluation.run.name} less {evaluation.other}, {found.name}: {signed(found.difference)}")


def _test(run: Run, settings: Evaluate) -> EvaluatedSet:
    if settings.data is None:
        head = f", head {run.head.name}" if run.head else ""
        logger.info(f"evaluate {run.folder}{head}: the predictions of its own {settings.split} split")
        return test_own(run, settings.split)
    predictor = _predictor(run, settings)
    logger.info(f"evaluate {run.path} on {settings.data}, {settings.split}: {predictor.summary()}")
    return test_elsewhere(run, settings.data, settings.split, predictor)


def _predictor(run: Run, settings: Evaluate) -> Predictor:
    runtime = RuntimeConfig(device=settings.device, threads=settings.threads, eval_batch_size=settings.eval_batch_size)
    return Predictor(run, runtime, settings.precision)


def _look(run: Run, tested: EvaluatedSet, assessment: Assessment, settings: Evaluate) -> Looked:
    """The maps, from the model."""
    explainer = Explainer(_predictor(run, settings), run, assessment.points)
    return look(explainer, assessment, tested.index, tested.no_index, settings.images)


def _compare(tested: EvaluatedSet, settings: Evaluate) -> tuple[list[Difference], str]:
    """The paired differences to the run of --against, and its name."""
    if settings.against is None:
        return [], ""
    run = open_run(settings.against, settings.head, may_lack_heads=True)
    other = _test(run, settings).predictions
    if other.classes != tested.predictions.classes or other.task != tested.predictions.task:
        raise InputError(f"{settings.against} has other classes or findings; a paired difference needs the same")
    aligned = align(other, tested.predictions.keys, str(settings.against))
    if not _same_labels(aligned.labels, tested.predictions.labels):
        raise InputError(f"{settings.against} was tested with other labels of the same images")
    return paired(tested.predictions, aligned, settings.resamples, settings.seed), run.name


def _same_labels(one: Array, other: Array) -> bool:
    return np.array_equal(one.astype(np.float64), other.astype(np.float64), equal_nan=True)


def _write_card(evaluation: Evaluation, sections: dict[str, str]) -> None:
    """Put this evaluation into the run's model card, beside the others."""
    sections = sections | {card_heading(evaluation.title): as_markdown(card_section(evaluation))}
    head = as_markdown(card_head(evaluation))
    text = "\n".join(part.rstrip() + "\n" for part in (head, *sections.values()))
    path = evaluation.run.folder / CARD
    write_atomically(path, lambda path: path.write_text(text, encoding="utf-8"))
