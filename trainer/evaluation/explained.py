"""Where a predictor looked: maps of its decisions, and what is measured of them for its run."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.progress import Progress
from data_pipelines.shards.columns import Array
from data_pipelines.shards.in_memory import in_memory_index
from data_pipelines.shards.index import Index
from trainer.evaluation.calibration.operating import OperatingPoints, probabilities
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import Run
from trainer.evaluation.statistics.predictions import scores_of
from trainer.explanation import (
    METHODS,
    NUMBER,
    PHANTOM_SET,
    Checks,
    Floats,
    Method,
    Scored,
    all_maps,
    check,
    on_picture,
    phantom_cases,
    point,
    require_captum,
)

Grey = npt.NDArray[np.uint8]
Maps = dict[Method, Floats]


class Pair(NamedTuple):
    """An image, by its row, and the class or finding whose map is drawn."""

    row: int
    finding: int


class Explainer:
    """Maps of a predictor's decisions. Raises InputError where Captum is missing."""

    def __init__(self, predictor: Predictor, run: Run, points: OperatingPoints) -> None:
        require_captum()
        self._predictor, self._run, self._points = predictor, run, points
        self._scored = Scored(predictor.network, predictor.task)

    def decided(self, logits: Array, most: int) -> list[list[int]]:
        """For each image, logits [N, C], the predicted class; or up to so many findings above their thresholds, the
        most probable first."""
        task, classes = self._predictor.task, self._predictor.classes
        if task == "single_label":
            return [[int(best)] for best in logits.argmax(axis=1)]
        thresholds = np.array([self._points.threshold(name) for name in classes])
        is_above = (scores_of(logits, task) >= thresholds[:, None]).T
        order = np.argsort(-probabilities(logits, task, self._points.temperature), axis=1, kind="stable")
        return [[int(c) for c in order[row] if is_above[row, c]][:most] for row in range(len(logits))]

    def maps(self, index: Index, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Maps]:
        """What the network sees of each pair, its class, and its maps, float32 [N, S, S] by method."""
        rows = sorted({pair.row for pair in pairs})
        seen = self._predictor.seen(index.take(np.array(rows, dtype=np.int64)))
        images = seen[[rows.index(pair.row) for pair in pairs]]
        classes = torch.tensor([pair.finding for pair in pairs], device=images.device)
        return images, classes, all_maps(self._scored, images, classes)

    def placed(self, maps: Floats, stored: Sequence[tuple[int, int]], shown: Sequence[tuple[int, int]]) -> list[Floats]:
        """Maps, [N, S, S], on pictures of `stored` height and width that are shown with others."""
        heights, widths = (np.array([size[axis] for size in stored], dtype=np.int64) for axis in (0, 1))
        views = self._predictor.views.views(np.arange(len(maps)), heights, widths)
        return [on_picture(maps[row], views, row, stored[row], shown[row]) for row in range(len(maps))]

    def checked(self, images: Tensor, classes: Tensor, maps: Maps) -> Checks:
        """What is measured of maps: on phantoms if the run was trained on such, else of these, of which there is one
        or more."""
        with Progress("check the maps"):
            on_phantoms = self.checked_on_phantoms()
            if isinstance(on_phantoms, Checks):
                return on_phantoms
            return check(self._scored, images, classes, maps, "the pictures shown here", on_phantoms)

    def checked_on_phantoms(self) -> Checks | str:
        """What is measured on phantoms, whose findings have known places; or why it cannot be."""
        predictor = self._predictor
        if PHANTOM_SET not in (self._run.metadata.get("sets") or ()):
            return "only of phantoms the places are known, and it was not trained on them"
        cases = list(phantom_cases(predictor.xray_size or predictor.views.size))
        images = [image for case in cases if isinstance(image := predictor.verified(case.encoded), EncodedImage)]
        assert len(images) == len(cases)
        index = in_memory_index(images, predictor.channels)
        names = predictor.classes
        found = self.decided(predictor.judge(index)[0], len(names))
        pairs = [Pair(row, c) for row, of_row in enumerate(found) for c in of_row if names[c] in cases[row].places]
        if not pairs:
            return f"it found none of the findings of {NUMBER} phantoms"
        pairs.sort(key=lambda pair: (pair.finding, pair.row))
        seen, classes, maps = self.maps(index, pairs)
        places = [cases[row].places[names[c]] for row, c in pairs]
        sizes = [(images[row].height, images[row].width) for row, _ in pairs]
        pointing = {
            method: point(self.placed(maps[method], sizes, sizes), places, [names[c] for _, c in pairs])
            for method in METHODS
        }
        return check(self._scored, seen, classes, maps, f"{NUMBER} phantoms that it was not trained on", "", pointing)


def grey(encoded: bytes, most: int | None = None) -> Grey:
    """The picture of a stored image, uint8 [H, W], at most so many pixels a side. Colours become grey: those of the
    map are the only ones."""
    with Image.open(io.BytesIO(encoded)) as picture:
        found = picture.convert("L")
        if most is not None:
            found.thumbnail((most, most))
        return np.asarray(found)
