"""The Python interface: trained classifiers, batches of prepared sets, weights and results."""

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from torch import nn

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from data_pipelines.common.printable import printable
from data_pipelines.common.splits import Split
from data_pipelines.common.tasks import Task
from data_pipelines.datasets.catalog import find
from data_pipelines.loading.batch import Batch
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.loading.views import Augmentation, PolicyName
from data_pipelines.shards.index import Index
from trainer.config import RuntimeConfig
from trainer.evaluation.calibration.coverages import require_coverage
from trainer.evaluation.calibration.operating import OperatingPoints, above_thresholds, probabilities
from trainer.evaluation.predicting.prediction_table import NOVELTY, OF_SET, parts_beyond, set_columns
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import open_run
from trainer.models.bit import BiTResNet, build_model
from trainer.models.weights import load_weights
from trainer.normalisation import BIT_MEAN, BIT_STD
from trainer.reporting.collect import collect

PathLike: TypeAlias = str | Path
Picture: TypeAlias = npt.NDArray[np.uint8] | PathLike


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of N images. logits: float32 [N, C]. probabilities: float64 [N, C], calibrated on val where the run
    had one; those of classes add up to 1, those of findings are independent. predicted: for each image its class, a
    text, or its findings above their thresholds, a tuple. classes: names of the C columns. names: for each image its
    path, or its place in the list.

    sets: for each image what is plausible, as often right as the classifier's coverage says: classes, a tuple, or by
    finding of "absent" and "present", a mapping without those of `Classifier.no_sets`; None where there is none.
    novelty: float32 [N], how unlike the training images each is, above 1 for 5% of images like those of val; None where
    `Classifier.no_novelty` says why. unlike: for each image in what that is above 1, of "features", "grey levels" and
    "layout"; None likewise.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float64]
    predicted: tuple[str, ...] | tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...] | tuple[Mapping[str, tuple[str, ...]], ...] | None = None
    novelty: npt.NDArray[np.float32] | None = None
    unlike: tuple[tuple[str, ...], ...] | None = None

    def to_frame(self) -> pd.DataFrame:
        """A table with a row for each image, by its name: the probability of each class, and behind them what is
        predicted, novelty and sets, as `predictions.csv` has them; without columns that would be empty."""
        frame = pd.DataFrame(self.probabilities, columns=list(self.classes), index=pd.Index(self.names, name="file"))
        columns = {"predicted": [each if isinstance(each, str) else "; ".join(each) for each in self.predicted]}
        for title, values in (columns | self._novelty_columns() | self._set_columns()).items():
            frame.insert(frame.shape[1], title, values, allow_duplicates=True)
        return frame

    def _novelty_columns(self) -> dict[str, Any]:
        if self.novelty is None or self.unlike is None:
            return {}
        values = (self.novelty, (self.novelty > 1).astype(int), ["; ".join(parts) for parts in self.unlike])
        return dict(zip(NOVELTY, values, strict=True))

    def _set_columns(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in self.sets or ():
            by_name = {f"{name} ": kinds for name, kinds in each.items()} if isinstance(each, Mapping) else {"": each}
            for name, kinds in by_name.items():
                for title, value in zip(OF_SET, set_columns(kinds), strict=True):
                    found.setdefault(f"{name}{title}", []).append(value)
        return found


class Classifier:
    """A trained run that predicts. Images are prepared as those of its training set were."""

    def __init__(self, predictor: Predictor, points: OperatingPoints, coverage: float | None = None) -> None:
        self._predictor, self._points = predictor, points
        self.classes: tuple[str, ...] = predictor.classes
        self.task: Task = predictor.task
        """single_label: one class per image; multi_label: any number of findings."""
        self._sets = points.set_rule(self.classes, self.task, coverage)
        self.coverage: float = self._sets.coverage
        """How often prediction sets hold the truth, in new patients like those of val."""
        self.no_sets: dict[str, str] = self._sets.missing
        """By class or finding, why it has no prediction sets."""
        self.no_novelty: str = predictor.why_no_novelty
        """Why images are not compared with the training images; empty where they are."""

    def predict(self, images: Sequence[Picture]) -> Predictions:
        """Predict images: arrays, uint8 [H, W, 3] (red, green, blue) or [H, W] (grey), or paths of files, DICOM
        included. Of any size. Raises InputError for an image that cannot be read, naming its place in the list, and for
        one image in place of a list."""
        if isinstance(images, np.ndarray) and images.ndim > 3:
            raise InputError("predict takes a list of images; make one of an array of several: predict(list(images))")
        if isinstance(images, str | bytes | Path | np.ndarray | torch.Tensor) or not isinstance(images, Iterable):
            raise InputError("predict takes a list of images; put one image in brackets: predict([image])")
        images = list(images)
        verified = [self._verified(number, image) for number, image in enumerate(images)]
        names = tuple(str(image) if isinstance(image, str | Path) else str(i) for i, image in enumerate(images))
        found, novelty = self._predictor.judge_images(verified)
        logits = np.asarray(found, dtype=np.float32)
        return Predictions(
            logits=logits,
            probabilities=probabilities(logits, self.task, self._points.temperature),
            predicted=self._predicted(logits),
            classes=self.classes,
            names=names,
            sets=self._sets_of(logits),
            novelty=None if novelty is None else novelty.max(axis=1),
            unlike=None if novelty is None else tuple(map(parts_beyond, novelty)),
        )

    def _sets_of(
        self, logits: npt.NDArray[np.float32]
    ) -> tuple[tuple[str, ...], ...] | tuple[Mapping[str, tuple[str, ...]], ...] | None:
        if len(self.no_sets) == len(self.classes):
            return None
        found = self._sets.sets_of(logits)
        if self.task == "single_label":
            return tuple(tuple(sets[""]) for sets in found)
        return tuple({name: tuple(kinds) for name, kinds in sets.items()} for sets in found)

    def _predicted(self, logits: npt.NDArray[np.float32]) -> tuple[str, ...] | tuple[tuple[str, ...], ...]:
        if self.task == "single_label":
            return tuple(self.classes[best] for best in logits.argmax(axis=1))
        above = above_thresholds(logits, self.task, self._points, self.classes)
        return tuple(tuple(np.array(self.classes)[row].tolist()) for row in above)

    def _verified(self, number: int, image: Picture) -> EncodedImage:
        try:
            encoded = Path(image).read_bytes() if isinstance(image, str | Path) else _as_png(image)
        except (OSError, ValueError) as error:
            raise InputError(f"image {number} cannot be read: {error}") from error
        found = self._predictor.verified(encoded)
        if isinstance(found, str):
            path = f", {printable(str(image))}," if isinstance(image, str | Path) else ""
            raise InputError(f"image {number}{path} cannot be read: {found}")
        return found


def open_classifier(
    run: PathLike,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 256,
    threads: int | None = None,
    head: str | None = None,
    coverage: float | None = None,
) -> Classifier:
    """Open a run folder, or one of its checkpoints, to predict with it. batch_size: images in one forward pass;
    threads: CPU threads, None: all cores. head: of a run with a head for each of its sets, the name of one. coverage:
    of the prediction sets, None: 0.9 where val is large enough for it. Warns of an unfinished run. Raises InputError if
    it is no run, one that keeps no model, or one without that head, and for a coverage that val cannot promise."""
    require_coverage(coverage, "coverage")
    opened = open_run(Path(run), head)
    if (state := opened.unfinished()) is not None:
        what = f"{printable(str(run))} is not finished ({state.progress})"
        logger.warning(f"{what}: thresholds are 0.5, and probabilities are not calibrated{state.remedy}")
    runtime = RuntimeConfig(device=device, threads=threads, eval_batch_size=batch_size)
    return Classifier(Predictor(opened, runtime), opened.points(), coverage)


def load_model(source: PathLike) -> BiTResNet:
    """The network of a run, or of weights of any format that is read, in evaluation mode, on the CPU.

    It takes uint8 [N, 3, H, W], or [N, 1, H, W] for grey, values 0 to 255, which it normalises, and returns logits
    [N, C], or features [N, F] where the weights have no head. Raises InputError for what holds no BiT ResNet; so does
    the network for pixels that are not uint8.
    """
    weights = load_weights(str(source))
    weights.require_normalisation(f"fix that in the metadata of {weights.path}")
    mean, std = weights.mean or BIT_MEAN, weights.std or BIT_STD
    model = build_model(weights.model_name, weights.num_classes or 1, mean=mean, std=std)
    model.load_state_dict(weights.tensors, strict=weights.num_classes is not None)
    if weights.num_classes is None:
        model.head = nn.Identity()  # type: ignore[assignment]
    model.register_forward_pre_hook(_require_pixels)
    return model.eval()


def _require_pixels(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
    if given and given[0].dtype != torch.uint8:
        raise InputError(
            f"the network takes uint8, 0 to 255, which it normalises, and was given {given[0].dtype}; give it the "
            "pixels as they are stored"
        )


def batches(
    name: PathLike,
    split: Split = "train",
    *,
    batch_size: int,
    image_size: int,
    view: PolicyName = "random_resized_crop",
    resize: int | None = None,
    flip: bool = True,
    seed: int = 0,
    steps: int | None = None,
    device: str = "cpu",
    threads: int = 1,
) -> Iterator[Batch]:
    """Batches of a prepared set as training sees them: the same for the same seed, without end
    unless `steps` says so.

    name: of a prepared set, or its folder. A batch has images, uint8 [B, C, S, S] in channels-last memory, values 0 to
    255; labels, int64 [B], or float32 [B, findings] with NaN where unlabelled; samples, rows of the set. image_size: S,
    in pixels; resize: side before the crop for views that resize first, None: 8/7 of it. Raises InputError for an
    unknown set, or a split that it has not.
    """
    index = Index.load(find(str(name)), split)
    resize = resize or round(image_size * 8 / 7)
    augmentation = Augmentation(view, image_size, resize, flip=flip and index.flip, seed=seed)
    order = BatchSampler(len(index), batch_size, seed=seed)
    _, loader = pick_loader("auto", torch.device(device).type == "cuda", augmentation=augmentation)
    requests = map(order.request, itertools.count() if steps is None else range(steps))
    return loader(index, requests, augmentation, torch.device(device), threads)


def read_results(*places: PathLike) -> pd.DataFrame:
    """All finished runs below some folders, or in results.csv of a report, one row each: model, source, target, shots,
    seed, metric, settings. Raises InputError where there is none."""
    return collect(tuple(map(Path, places))).runs


def _as_png(image: npt.NDArray[np.uint8]) -> bytes:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"it is {array.dtype} {list(array.shape)}; arrays are uint8 [H, W, 3] or [H, W], 0 to 255")
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=1)
    return buffer.getvalue()
