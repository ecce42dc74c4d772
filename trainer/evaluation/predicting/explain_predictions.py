"""`predict --explain`: a map of each decision as a picture at the resolution of its file, a table, and a page."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.file_names import own_file_name_of
from data_pipelines.common.files import atomic_file, write_atomically
from data_pipelines.common.printable import printable
from data_pipelines.common.progress import Progress
from data_pipelines.image_files.png import encode_png
from data_pipelines.shards.columns import Array
from data_pipelines.shards.in_memory import in_memory_index
from trainer.document.blocks import Block, Paragraph, Title
from trainer.document.html_page import as_page
from trainer.document.text import Code
from trainer.evaluation.calibration.operating import OperatingPoints, probabilities, probability_text
from trainer.evaluation.explained import Explainer, Grey, Maps, Pair, grey
from trainer.evaluation.predicting.inputs import Input, inputs_of_all
from trainer.evaluation.predicting.judged_inputs import read_again
from trainer.evaluation.predicting.predict_settings import Predict
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import Run
from trainer.explanation import (
    METHODS,
    PHANTOM_SET,
    TITLES,
    Explained,
    Floats,
    Method,
    gallery,
    intro,
    legend,
    overlay,
    peak,
    scale,
)

PAGE, TABLE = "maps.html", "maps.csv"
MOST_IMAGES = 100
"""Of more, the user says how many are explained."""
MOST_FINDINGS = 4  # of one image, the most probable
_ON_PAGE, _ON_PAGE_SIDE = 24, 512
_MEASURED = 64  # pairs of image and class that are kept to be measured
_HEADER = ("file", "class", "probability", "method", "map", "x", "y", "remark")
NOTHING = "no finding is above its threshold"
_NO_PEAK = "nothing speaks for it"
_ONE_PLACE = "the last stage sees one place"


def require_explainable(settings: Predict) -> None:
    """Raise InputError for a folder with other maps, or for more images than anybody wants maps of."""
    assert settings.explain is not None
    if settings.explain.exists() and not settings.explain.is_dir():
        raise InputError(f"{settings.explain} is not a folder; choose another --explain")
    for folder in (path for path in settings.input if path.is_dir()):
        if not settings.explain.resolve().is_relative_to(folder.resolve()):
            continue
        raise InputError(
            f"{settings.explain} lies in {folder}, so that its maps would be images next time; choose another --explain"
        )
    if (settings.explain / PAGE).exists() and not settings.force:
        raise InputError(f"{settings.explain} has maps; replace them with --force, or choose another --explain")
    if settings.explain_images is not None:
        return
    each = inputs_of_all(settings.input, settings.path_column).each
    if sum(1 for _ in islice(each, MOST_IMAGES + 1)) > MOST_IMAGES:
        raise InputError(
            f"{', '.join(map(str, settings.input))}: these are more than {MOST_IMAGES} images, and maps take far "
            "longer than predictions; say for how many of the first to draw them, such as "
            f"--explain-images {MOST_IMAGES}"
        )


@dataclass(eq=False)
class _Kept:
    """What is measured and shown at the end. seen: uint8 [C, S, S] each."""

    seen: list[Tensor] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    maps: list[dict[Method, Floats]] = field(default_factory=list)
    shown: list[Explained] = field(default_factory=list)


class MapWriter:
    """Writes the maps of the first images of a prediction, then their table and page."""

    def __init__(self, settings: Predict, predictor: Predictor, run: Run, points: OperatingPoints) -> None:
        assert settings.explain is not None
        self._folder, self._predictor, self._points = settings.explain, predictor, points
        self.left = MOST_IMAGES if settings.explain_images is None else settings.explain_images
        """How many images it takes yet."""
        self._explainer = Explainer(predictor, run, points)
        self._run, self._input = run, ", ".join(map(str, settings.input))
        self._rows: list[list[Any]] = []
        self._kept = _Kept()
        self._count = 0

    def add(self, read: Sequence[tuple[Input, EncodedImage]], logits: Array) -> None:
        """Write the maps of some images, at most `left`, logits [N, C]. Raises InputError where they cannot be."""
        self.left -= len(read)
        if not read:
            return
        decided = self._explainer.decided(logits, len(self._predictor.classes))
        calibrated = probabilities(logits, self._predictor.task, self._points.temperature)
        with Progress("maps", self._count + len(read), "image", initial=self._count) as bar:
            for row, (item, image) in enumerate(read):
                self._count += 1
                self._add_one(item, image, decided[row], calibrated[row])
                bar.update()

    def _add_one(self, item: Input, image: EncodedImage, decided: Sequence[int], calibrated: Array) -> None:
        """The rows and maps of one image. decided: its findings, the most probable first."""
        if not decided:
            self._rows.append([item.name, *[""] * 6, NOTHING])
            return
        for finding in decided[MOST_FINDINGS:]:
            remark = f"no map: the {MOST_FINDINGS} most probable have one"
            name, probability = self._predictor.classes[finding], float(calibrated[finding])
            self._rows.append([item.name, name, probability, *[""] * 4, remark])
        with self._writable():
            self._draw(item, image, decided[:MOST_FINDINGS], calibrated)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Make the folder; what cannot be written is an InputError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise InputError(f"{self._folder} cannot be written ({error}); choose another --explain") from error

    def _draw(self, item: Input, image: EncodedImage, findings: Sequence[int], calibrated: Array) -> None:
        index = in_memory_index([image], self._predictor.channels)
        seen, _, maps = self._explainer.maps(index, [Pair(0, finding) for finding in findings])
        picture = grey(read_again(self._predictor, item, at_own_size=True).encoded)
        for number, finding in enumerate(findings):
            of_one = {method: maps[method][number : number + 1] for method in METHODS}
            self._write(item.name, finding, float(calibrated[finding]), image, picture, of_one)
            if len(self._kept.seen) < _MEASURED:
                self._kept.seen.append(seen[number].cpu())
                self._kept.classes.append(finding)
                self._kept.maps.append({method: of_one[method][0] for method in METHODS})

    def _write(
        self, name: str, finding: int, probability: float, image: EncodedImage, picture: Grey, maps: Maps
    ) -> None:
        """The pictures and rows of one finding of an image."""
        label, stored = self._predictor.classes[finding], [(image.height, image.width)]
        for method in METHODS:
            (placed,) = self._explainer.placed(maps[method], stored, [picture.shape])
            place = peak(placed)
            row: list[Any] = [name, label, probability, TITLES[method]]
            if place is None:
                remark = _ONE_PLACE if np.isnan(maps[method]).all() else _NO_PEAK
                self._rows.append([*row, "", "", "", remark])
                continue
            file = f"{own_file_name_of(name)}.{own_file_name_of(label)}.{method}.png"
            with atomic_file(self._folder / file) as opened:
                opened.write(encode_png(overlay(picture, placed)))
            self._rows.append([*row, file, *place, ""])
        if len(self._kept.shown) < _ON_PAGE:
            small = Image.fromarray(picture)
            small.thumbnail((_ON_PAGE_SIDE, _ON_PAGE_SIDE))
            pixels = np.asarray(small)
            placed_small = {m: self._explainer.placed(maps[m], stored, [pixels.shape])[0] for m in METHODS}
            texts = (printable(name), f"{printable(label)} {probability_text(probability)}")
            self._kept.shown.append(Explained(texts, pixels, placed_small))

    def finish(self) -> Path:
        """Write table, legend and page, which is the last; returns its path. Raises InputError where it cannot."""
        with TemporaryDirectory() as drawn:
            page = as_page(self._blocks(Path(drawn)), Path(drawn))
            legend(Path(drawn), also_png=True)
            image = (Path(drawn) / "legend.png").read_bytes()
        with self._writable():
            write_atomically(self._folder / "legend.png", lambda path: path.write_bytes(image))
            write_atomically(self._folder / TABLE, self._write_table)
            write_atomically(self._folder / PAGE, lambda path: path.write_text(page, encoding="utf-8"))
        return self._folder / PAGE

    def _write_table(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.writer(file)
            table.writerow(_HEADER)
            table.writerows(self._rows)

    def _blocks(self, folder: Path) -> list[Block]:
        kept = self._kept
        what = ("Model: ", Code(str(self._run.path)), "; pictures: ", Code(self._input), ".")
        page: list[Block] = [Title("Where the model looked", 1), Paragraph(what)]
        if self._predictor.xray_size and self._run.metadata.get("sets") != [PHANTOM_SET]:
            page.append(Paragraph("Contains pictures of patients: as confidential as they are.", warning=True))
        if not kept.shown:
            return [*page, Paragraph(f"There are no maps: {TABLE} says why.")]
        maps: Maps = {method: np.stack([one[method] for one in kept.maps]) for method in METHODS}
        device = self._predictor.device
        classes = torch.tensor(kept.classes, device=device)
        page += intro(self._explainer.checked(torch.stack(kept.seen).to(device), classes, maps))
        drawn = sum(bool(row[4]) for row in self._rows)
        text = f"{drawn:,} maps of {self._count:,} images are in this folder; {TABLE} names them as the predictions do."
        page += [Paragraph(text), *scale(folder)]
        caption = "The predicted class, or the findings above their thresholds, in the order of the predictions."
        return [*page, gallery(kept.shown, folder, "maps", caption)]
