"""Where the network looked, on the evaluation page: its most confident errors and its most certain hits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.printable import printable
from data_pipelines.shards.index import Index
from trainer.document.blocks import Block, Paragraph, Title
from trainer.evaluation.assessment.assess import Assessment
from trainer.evaluation.assessment.misclassifications import most_certain, most_confident
from trainer.evaluation.calibration.operating import probabilities, probability_text
from trainer.evaluation.explained import Explainer, Pair, grey
from trainer.explanation import METHODS, Checks, Explained, gallery, intro, scale

MOST = 12  # errors, and hits
_SIDE = 512  # most pixels of a picture on the page


@dataclass(frozen=True, eq=False)
class Looked:
    """The maps of an evaluation. checks: None where there are none, and `why_not` says why. errors, hits: [] where
    images are not shown."""

    checks: Checks | None = None
    errors: Sequence[Explained] = field(default_factory=list)
    hits: Sequence[Explained] = field(default_factory=list)
    why_not: str = ""

    def blocks(self, folder: Path) -> list[Block]:
        """The section; figures are written to `folder`."""
        page: list[Block] = [Title("Where it looked")]
        page += intro(self.checks) if self.checks else []
        if self.why_not:
            page.append(Paragraph(f"Maps are not shown: {self.why_not}."))
        elif self.checks:
            page += scale(folder)
        captions = {
            "error_maps": "The most confident errors: maps of the wrong class, or of the wrong or missed finding.",
            "hit_maps": "The most certain hits: maps of the class, or of the finding.",
        }
        for (name, caption), shown in zip(captions.items(), (self.errors, self.hits), strict=True):
            page += [gallery(shown, folder, name, caption)] if shown else []
        return page

    def to_json(self) -> dict[str, Any]:
        """What was measured."""
        return {"checks": self.checks.to_json() if self.checks else None, "not_shown": self.why_not or None}


def look(explainer: Explainer, assessment: Assessment, index: Index | None, no_index: str, with_images: bool) -> Looked:
    """Maps of the most confident errors and the most certain hits, with what is measured of them. index: of the images
    in the order of the predictions, or None, and `no_index` says why."""
    predictions, points = assessment.predictions, assessment.points
    why_not = no_index if index is None else "" if with_images else "--no-images"
    errors, _ = most_confident(predictions, points, MOST)
    pairs = [Pair(error.row, error.finding) for error in errors]
    texts: list[tuple[str, ...]] = [(error.key, " ".join(error.error)) for error in errors]
    calibrated = probabilities(predictions.logits, predictions.task, points.temperature)
    for row, finding in most_certain(predictions, points, MOST):
        pairs.append(Pair(row, finding))
        probability = probability_text(float(calibrated[row, finding]))
        texts.append((predictions.keys[row], f"{printable(predictions.classes[finding])} {probability}"))
    if index is None or not pairs:
        on_phantoms = explainer.checked_on_phantoms()
        return Looked(on_phantoms if isinstance(on_phantoms, Checks) else None, why_not=why_not or "there are none")
    if any(index.keys([pair.row]) != [predictions.keys[pair.row]] for pair in pairs):
        raise InputError("the data set was prepared again since the run was tested")
    images, classes, maps = explainer.maps(index, pairs)
    checks = explainer.checked(images, classes, maps)
    if not with_images:
        return Looked(checks, why_not=why_not)
    pictures = [grey(index.encoded(pair.row).tobytes(), _SIDE) for pair in pairs]
    stored = [(int(index.height[pair.row]), int(index.width[pair.row])) for pair in pairs]
    placed = {method: explainer.placed(maps[method], stored, [one.shape for one in pictures]) for method in METHODS}
    shown = [
        Explained(texts[i], pictures[i], {method: placed[method][i] for method in METHODS}) for i in range(len(pairs))
    ]
    return Looked(checks, shown[: len(errors)], shown[len(errors) :])
