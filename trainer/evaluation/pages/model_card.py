"""The model card: what a run is, and its evaluations."""

import re
from collections.abc import Sequence
from itertools import groupby

from data_pipelines.common.advice import quoted
from data_pipelines.common.message_parts import some_of
from data_pipelines.common.printable import printable
from trainer.document.blocks import Block, BulletList, Paragraph, Title
from trainer.document.markdown import as_markdown
from trainer.document.text import Bold, Code
from trainer.evaluation.pages import tables
from trainer.evaluation.pages.page import (
    Evaluation,
    confidential,
    methods,
    not_a_device,
    preparation,
    resampling,
    set_blocks,
    summary,
    temperature,
    unlike_training,
    warnings,
)
from trainer.evaluation.runs import Run

CARD = "MODEL_CARD.md"
CARD_SECTION = "Evaluation on "
_SHOWN = 30
CARD_OF_PATIENTS = (
    "Has numbers of patients' images, and neither images nor keys. Small groups may be recognised, so ask before it is "
    "passed on."
)


def card_head(evaluation: Evaluation) -> list[Block]:
    """The model card, up to its evaluations."""
    run, assessment = evaluation.run, evaluation.assessment
    return [
        Title(f"Model card: {run.name}", 1),
        *([Paragraph((Bold(CARD_OF_PATIENTS),))] if confidential(evaluation) else []),
        *not_a_device(assessment),
        Title("Model"),
        BulletList(tuple(model_items(run))),
        Title("Use"),
        Paragraph((Code(f"bitscale predict {quoted(run.folder)} INPUT{_head_flag(run)} --out predictions.csv"),)),
        Paragraph("Meant for images like those it was trained on; see the data of each evaluation."),
        Title("How the numbers were computed"),
        BulletList(tuple(methods(assessment))),
    ]


def card_section(evaluation: Evaluation) -> list[Block]:
    """One evaluation in the model card."""
    assessment, tested = evaluation.assessment, evaluation.tested
    page: list[Block] = [Title(f"{CARD_SECTION}{evaluation.title}")]
    page += [Paragraph((Bold(warning),)) for warning in warnings(evaluation)]
    page += [
        Paragraph(summary(assessment)),
        Paragraph(resampling(assessment)),
        tables.discrimination(assessment),
        tables.at_threshold(assessment),
    ]
    page += [Paragraph(temperature(assessment)), tables.calibration(assessment)]
    page += set_blocks(evaluation.sets, assessment)
    for fact, parts in groupby(assessment.subgroups, key=lambda part: part.fact):
        page.append(tables.subgroups(assessment, fact, list(parts)))
    return [*page, BulletList((*tested.provenance, *unlike_training(evaluation)))]


def card_heading(title: str) -> str:
    """Heading of an evaluation in the model card."""
    return as_markdown([Title(f"{CARD_SECTION}{title}")]).strip()


def former_card(run: Run) -> str:
    """The model card of the run as it is; "" without one."""
    path = run.folder / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def sections_of(card: str) -> dict[str, str]:
    """The evaluations in a model card, by their headings."""
    found = re.split(rf"(?m)^(?=## {CARD_SECTION})", card)[1:]
    return {text.splitlines()[0]: text for text in found}


def _beginning(run: Run) -> str:
    """How it was trained, and from which weights."""
    model = run.settings.get("model") or {}
    source = run.result.get("source") or model.get("pretrained")
    if source in (None, "scratch"):
        return "trained from random weights"
    return f"{run.result.get('mode', 'finetune')}, starting from {source}"


def _head_flag(run: Run) -> str:
    return f" --head {quoted(run.head.name)}" if run.head else ""


def _some(names: Sequence[str]) -> str:
    return some_of([printable(name) for name in names], _SHOWN)


def model_items(run: Run) -> list[str]:
    """What the run is, a line each."""
    metadata, result = run.metadata, run.result
    labels = [f"Labels: {_some(metadata.get('classes') or [])}"]
    if run.heads:
        labels = [f"Labels of the head {printable(head.name)}: {_some(head.classes)}" for head in run.heads]
    environment = result.get("environment") or {}
    sets = ", ".join(metadata.get("sets") or ["unknown"])
    return [
        f"BiT ResNet {metadata.get('model') or result.get('model')}, {_beginning(run)}",
        f"Trained on {sets} ({run.trained_on}), {result.get('train_images', 'unknown')} images, "
        f"{result.get('total_steps', 'unknown')} steps, seed {run.settings.get('seed')}",
        *labels,
        f"Preparation: {preparation(run)}",
        f"Commit {environment.get('commit') or 'unknown'}",
    ]
