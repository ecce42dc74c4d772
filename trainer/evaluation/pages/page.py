"""The evaluation page as document blocks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import number, some_of
from data_pipelines.common.printable import printable
from data_pipelines.common.tasks import Metric
from trainer.document.blocks import Block, BulletList, Paragraph, Title
from trainer.document.text import Bold, Code, Text, joined, pieces
from trainer.evaluation.assessment.assess import Assessment
from trainer.evaluation.assessment.evaluated_set import EvaluatedSet
from trainer.evaluation.assessment.groups import Groups
from trainer.evaluation.assessment.misclassifications import Misclassification, most_confident, with_pixels
from trainer.evaluation.assessment.output_names import CASES
from trainer.evaluation.assessment.set_coverage import SetCoverage
from trainer.evaluation.calibration.novelty import KEPT
from trainer.evaluation.pages import figures, tables
from trainer.evaluation.pages.explained_page import Looked
from trainer.evaluation.pages.group_page import group_blocks, group_warnings
from trainer.evaluation.runs import Run, Seed, over_seeds
from trainer.evaluation.statistics.intervals import FEWEST
from trainer.evaluation.statistics.paired import Difference
from trainer.metrics import METRIC_NAME

_IN_BRACKETS = " In brackets: 95% intervals for the images of this test set, not the spread over training runs."
NOT_A_DEVICE = "Not a medical device. For research; no decision about a patient may rest on it."


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Content of the page. title: of the data. other: name of the run that `differences` compare with. groups: of
    --by. looked: maps, where they were asked for."""

    run: Run
    tested: EvaluatedSet
    title: str
    assessment: Assessment
    sets: SetCoverage
    differences: Sequence[Difference]
    other: str
    commit: str | None
    show_images: bool
    groups: Groups | None = None
    looked: Looked | None = None


def blocks(evaluation: Evaluation, folder: Path) -> list[Block]:
    """The page; figures are written to `folder`."""
    run, tested, assessment = evaluation.run, evaluation.tested, evaluation.assessment
    page: list[Block] = [Title(f"{run.name} on {evaluation.title}", 1)]
    page += [Paragraph(line, warning=True) for line in (*confidential(evaluation), *warnings(evaluation))]
    page += [Paragraph(summary(assessment)), *not_a_device(assessment)]
    page += [Title("How well"), tables.discrimination(assessment), *_some(figures.roc(assessment, folder))]
    page += [Title("At the threshold"), tables.at_threshold(assessment), *_some(figures.confusion(assessment, folder))]
    page += [Title("Calibration"), Paragraph(temperature(assessment)), tables.calibration(assessment)]
    page.append(figures.reliability(assessment, folder))
    page += [Title("Prediction sets"), *set_blocks(evaluation.sets, assessment)]
    if evaluation.groups is not None:
        page += group_blocks(evaluation.groups, assessment, folder)
    shown = evaluation.groups.fact if evaluation.groups else None
    subgroups = [part for part in assessment.subgroups if part.fact != shown]
    if subgroups:
        page.append(Title("By what is known of the images"))
        for fact, parts in groupby(subgroups, key=lambda part: part.fact):
            page.append(tables.subgroups(assessment, fact, list(parts)))
    if evaluation.differences:
        page += [
            Title("Against another run"),
            tables.paired_differences(evaluation.differences, run.name, evaluation.other),
        ]
    page += _seed_blocks(run, tested)
    page += _errors(evaluation, folder)
    page += evaluation.looked.blocks(folder) if evaluation.looked else []
    page += [Title("Data"), BulletList((*tested.provenance, *unlike_training(evaluation)))]
    page += [Title("The run"), BulletList(tuple(_run_items(evaluation)))]
    page += [Title("How this was computed"), BulletList((resampling(assessment), *methods(assessment)))]
    return page


def not_a_device(assessment: Assessment) -> list[Block]:
    """That it is none, for images of patients."""
    return [Paragraph(NOT_A_DEVICE)] if assessment.of_patients else []


def confidential(evaluation: Evaluation) -> list[str]:
    """What the page says first of images of patients."""
    tested = evaluation.tested
    if not tested.of_patients or tested.is_synthetic:
        return []
    if evaluation.show_images and tested.index is not None:
        return ["Contains images of patients: as confidential as they are."]
    return ["Contains keys of patients' images with their labels, and no images: as confidential as these are."]


def _some(block: Block | None) -> list[Block]:
    return [] if block is None else [block]


def warnings(evaluation: Evaluation) -> list[str]:
    """Warnings at the top of the page."""
    assessment, found = evaluation.assessment, list(evaluation.tested.warnings)
    if not assessment.of_patients:
        found.append(
            "Each image is resampled by itself. If several pictures show one animal, site or burst, the true intervals "
            "are wider; prepare a table with a column that says which belong together (--patient-column): bitscale "
            "prepare csv --help"
        )
    elif not assessment.patients:
        found.append(
            "The patients of these images are not known: each image is resampled by itself. If patients have several, "
            "the true intervals are wider."
        )
    elif (unknown := int((assessment.predictions.patients < 0).sum())) > 0:
        found.append(f"The patients of {unknown:,} images are not known: each of these is resampled by itself.")
    if not assessment.points.images:
        given = len(assessment.points.thresholds) == len(assessment.findings)
        both = "The temperature is 1" if given else "The thresholds are 0.5, and the temperature is 1"
        found.append(f"{both}: {assessment.points.no_val}.")
    if doubt := assessment.points.temperature_doubt():
        found.append(f"{doubt[:1].upper()}{doubt[1:]}.")
    found += missed_promise(evaluation.sets)
    return found + (group_warnings(evaluation.groups) if evaluation.groups else [])


def summary(assessment: Assessment) -> Text:
    """The main numbers in a sentence."""
    patients = f" of {number(assessment.patients, 'patient')}" if assessment.patients else ""
    single = assessment.predictions.task == "single_label"
    kind = "classes" if single else "findings"
    kinds = number(len(assessment.findings), kind.removesuffix("es" if single else "s"), kind)
    values: list[Text] = [_accuracy(assessment)] if single else []
    if assessment.averaged:
        over = f"over {assessment.averaged} of the {kind}" if assessment.averaged < len(assessment.findings) else ""
        values.append(("mean AUC ", Bold(assessment.mean_auc.text()), f" ({over})" if over else ""))
        values.append(f"mean average precision {assessment.mean_ap.text()}")
    else:
        values.append(f"no mean AUC, because {assessment.mean_auc.reason}")
    has_interval = any(each.has_interval for each in (assessment.accuracy, assessment.mean_auc, assessment.mean_ap))
    return (
        f"{number(len(assessment.predictions), 'image')}{patients}, {kinds}: ",
        *pieces(joined(values, ", ")),
        "." + _IN_BRACKETS * has_interval,
    )


def _accuracy(assessment: Assessment) -> Text:
    """With what always answering the most common class gives, unless it is clear that the accuracy is above that."""
    name, share = assessment.predictions.most_common()
    found = assessment.accuracy
    is_above = (found.low if found.has_interval else found.value) > share
    beside = "" if is_above else f" (always answering the most common class, {printable(name)}, gives {share:.3f})"
    return ("accuracy ", Bold(found.text()), beside)


def temperature(assessment: Assessment) -> str:
    """What was fitted, or why nothing was."""
    if why_none := assessment.points.why_temperature_unfitted():
        return f"No temperature was fitted, because {why_none}: the logits stay as they are."
    temperature = assessment.points.temperature
    kind = "too sure of itself" if temperature > 1 else "not sure enough of itself"
    return (
        f"Fitted on the {number(assessment.points.images, 'image')} of val, the temperature is {temperature:.4g}: "
        f"logits are divided by it. As trained, the model was {kind} there."
    )


def set_blocks(sets: SetCoverage, assessment: Assessment) -> list[Block]:
    """What the prediction sets promise, what they hold, and which findings have none."""
    missing = sets.rule.missing
    reasons = sorted(set(missing.values()))
    if not sets.rows:
        return [Paragraph(f"There are no prediction sets, because {'; '.join(reasons)}.")]
    notes = [f"{printable(name)} has no sets, because {reason}." for name, reason in missing.items()]
    return [
        Paragraph(_promise(sets, assessment.of_patients)),
        tables.prediction_sets(sets, assessment),
        *([Paragraph(" ".join(notes))] if notes else []),
    ]


def _promise(sets: SetCoverage, of_patients: bool) -> str:
    if sets.rule.task == "single_label":
        what = "the set of a new image holds its class with"
    else:
        what = "the set of a finding holds present where it is there, and absent where it is not, each with"
    units = "patients" if of_patients else "images"
    text = f"Promised: in new {units} like those of val, {what} a probability of {sets.rule.coverage:g}, on average"
    if sets.likely is None:
        return f"{text}."
    low, high = sets.likely
    return f"{text} over val sets. With one of this size it lies between {low:.3f} and {high:.3f} in 95% of cases."


def missed_promise(sets: SetCoverage) -> list[str]:
    """What the sets hold less often than they would of images like val."""
    if not sets.missed or sets.likely is None:
        return []
    low, high = sets.likely
    rows = some_of([f"{printable(row.name)} {row.coverage.text()}" for row in sets.missed], separator="; ")
    return [
        f"Prediction sets hold less here than they promise, {sets.rule.coverage:g} (with such a val, {low:.3f} to "
        f"{high:.3f}): {rows}. So these images are not like those of val."
    ]


def unlike_training(evaluation: Evaluation) -> list[str]:
    """How many images are unlike the training images, where that was looked at."""
    count, total = evaluation.tested.unlike, len(evaluation.assessment.predictions)
    if count is None:
        return []
    return [
        f"{count:,} of {total:,} images ({count / total:.1%}) are unlike the training images; of images like those of "
        f"val, {1 - KEPT:.0%} are."
    ]


def _seed_blocks(run: Run, tested: EvaluatedSet) -> list[Block]:
    found = over_seeds(run) if tested.own and tested.split == "test" else []
    if not found:
        return []
    metric: Metric = run.result["metric"]
    text = spread_over_seeds(found, METRIC_NAME[metric])
    if metric == "auc":
        text += f" This mean is over all that have a positive and a negative; the one above needs {FEWEST} of each."
    return [Title("Over seeds"), Paragraph(text), tables.seeds(found, metric)]


def spread_over_seeds(found: Sequence[Seed], name: str) -> str:
    """Mean and standard deviation over seeds, and what they do not measure."""
    values = [seed.value for seed in found]
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return (
        f"{name[0].upper()}{name[1:]} over {len(values)} seeds: {mean:.4f} ± {std:.4f} (standard deviation). That is "
        "how far training runs lie apart on the same test images; the intervals above say what other test images would "
        "change, for one run. Neither contains the other."
    )


def _errors(evaluation: Evaluation, folder: Path) -> list[Block]:
    predictions = evaluation.assessment.predictions
    found, count = most_confident(predictions, evaluation.assessment.points)
    if not found:
        return [Title("Errors"), Paragraph("There are none.")]
    shown = "all of them are shown" if len(found) == count else f"the {len(found)} most confident are shown"
    if predictions.task == "multi_label":
        shown += ", those furthest from their threshold first"
    text = (
        f"{count:,} of {len(predictions):,} images have an error; {shown}. All cases are in {CASES} beside this page."
    )
    page: list[Block] = [Title("Errors"), Paragraph(text)]
    pictures, why_not = _with_pixels(evaluation, found)
    page += [figures.gallery(pictures, folder)] if pictures else [Paragraph(f"Images are not shown: {why_not}.")]
    return [*page, tables.misclassifications(found)]


def _with_pixels(evaluation: Evaluation, found: list[Misclassification]) -> tuple[list[Misclassification], str]:
    if not evaluation.show_images:
        return [], "--no-images"
    if evaluation.tested.index is None:
        return [], evaluation.tested.no_index
    try:
        return with_pixels(found, evaluation.tested.index, evaluation.assessment.predictions.keys), ""
    except (InputError, OSError) as error:
        return [], str(error)


def _run_items(evaluation: Evaluation) -> list[Text]:
    run = evaluation.run
    environment: dict[str, Any] = run.result.get("environment") or {}
    weights = f", weights {run.metadata['weights']}" if "weights" in run.metadata else ""
    checkpoint = run.result.get("checkpoint", run.path.name if run.path else "none")
    items: list[Text] = [
        ("Folder: ", Code(str(run.folder)), f"; checkpoint: {checkpoint}{weights}"),
        f"Trained by commit {environment.get('commit') or 'unknown'}; evaluated by "
        f"{evaluation.commit or 'an installed package'}",
    ]
    if environment:
        packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())
        items.append(
            f"Trained on {environment.get('device', 'unknown')}, Python {environment.get('python')}, {packages}"
        )
    items.append(f"Preparation: {preparation(run)}")
    if run.settings:
        items.append(("Configuration: ", Code(json.dumps(run.settings, sort_keys=True))))
    return items


def preparation(run: Run) -> str:
    """How its images were prepared."""
    metadata = run.metadata
    if not metadata:
        return "not known"
    size = metadata.get("xray_size")
    square, whole = f"the central square brought to {size} pixels, ", f"brought to a shorter side of {size} pixels, "
    shrunk = (whole if metadata.get("xray_cut") == "whole" else square) if size else ""
    colour = "grey" if metadata.get("channels") == 1 else "RGB"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (run.mean, run.std))
    return (
        f"{shrunk}{colour}, then {metadata.get('eval_view')} to {metadata.get('image_size')} pixels, normalised by "
        f"mean {mean} and standard deviation {std}"
    )


def resampling(assessment: Assessment) -> str:
    """What was resampled, and how often."""
    what = number(assessment.clusters, tables.resampled(assessment).removesuffix("s"))
    return (
        f"{assessment.resamples:,} resamples of {what} with replacement"
        f"{', each with all its images' if assessment.patients else ''}; the same resamples for every number."
    )


def methods(assessment: Assessment) -> list[str]:
    """How the numbers of every evaluation are computed."""
    what, each = ("patients", ", of ten patients each") if assessment.of_patients else ("images", "")
    return [
        f"AUC: the standard deviation of the resamples' log odds, times Student's quantile for the {what} with "
        "the rarer label. Average precision and means over findings: expanded percentiles (Hesterberg, "
        "arXiv:1411.5279). Sensitivity and other shares: Wilson's interval for the number of independent images that "
        "spread as much as the resamples. Thresholds and temperature are taken as fixed.",
        f"An interval needs ten positives and ten negatives{each}.",
        "Prediction sets: split conformal prediction, with the weight of a patient shared by their images (Lee, "
        "Barber and Willett, arXiv:2306.06342); each image of an unknown patient counts as a patient. Coverage: mean "
        "over patients of the share of their images whose set holds the truth.",
        "Temperature: one number, by least loss on val (Guo et al., arXiv:1706.04599). AUC of one class among several "
        "goes by the log odds of the softmax.",
    ]
