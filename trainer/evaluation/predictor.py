"""A run's model for prediction, which prepares images as its checkpoint says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.hashes import digest_of, sha256_of
from data_pipelines.common.messages import logger
from data_pipelines.common.xray_storage import Depth, XrayCut, depth_of
from data_pipelines.image_files.dicom import is_dicom
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.views import Augmentation
from data_pipelines.preparation.part_writer import verified_or_reason
from data_pipelines.shards.columns import Array
from data_pipelines.shards.in_memory import in_memory_index
from data_pipelines.shards.index import Index
from trainer import checkpoint
from trainer.config import Precision, RuntimeConfig
from trainer.engines import ENGINES
from trainer.evaluation.calibration.novelty import PARTS, Novelty
from trainer.evaluation.calibration.operating import HEADS_KEY, KEY
from trainer.evaluation.outputs import describe
from trainer.evaluation.runs import Run
from trainer.evaluation.whole_index import outputs_of
from trainer.models.bit import BiTResNet, build_model


class Predictor:
    """One process with one device. precision: None for that of the run, which gives the logits of its evaluation.

    xray_size: for runs that do not say to what side their X-rays were shrunk; None goes by the run. bits: of the pixels
    of X-rays whose files hold them in more than 8, whatever these say; None: as `prepare` took those of the run's set.
    Raises InputError for a checkpoint that does not say what is needed, for bits where a run has no X-rays, or a device
    that cannot do it.
    """

    def __init__(
        self,
        run: Run,
        runtime: RuntimeConfig,
        precision: Precision | None = None,
        xray_size: int | None = None,
        bits: int | None = None,
    ) -> None:
        metadata = run.described()
        assert run.path is not None
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.task = metadata["task"]
        self.channels: int = metadata["channels"]
        self.xray_size: int | None = metadata.get("xray_size") if xray_size is None else xray_size
        self.xray_cut: XrayCut = metadata.get("xray_cut") or "square"
        _require_known_xrays(run.path, metadata, self.xray_size, bits)
        self.depth = depth_of(metadata) if bits is None else Depth(bits, is_given=True)
        self.views = Augmentation(metadata["eval_view"], metadata["image_size"], metadata["resize"], flip=False)
        self._shorter_side: int | None = metadata.get("shorter_side")
        self._upright: bool = metadata.get("upright", False) is not False
        if metadata.get("upright", False) is None:
            logger.warning(
                f"some sets of {run.path} hold photographs turned as a viewer shows them, and others as they "
                "are stored; new ones are turned"
            )
        self._runtime, self._path = runtime, run.path
        used = precision or metadata.get("precision") or run.settings.get("precision") or "fp32"
        self._engine = ENGINES["ddp"](runtime, used)
        self.precision, self.device = used, self._engine.device
        on_gpu, scaled_decode = self.device.type == "cuda", bool(metadata.get("scaled_decode"))
        self.loader_name, self._loader = pick_loader(runtime.loader, on_gpu, scaled_decode)
        self._model_name: str = metadata["model"]
        self._head = run.head
        self._metadata = metadata
        self.network = load_model(run, run.path, self._model_name, len(self.classes))
        found = run.novelty()
        self.why_no_novelty = found if isinstance(found, str) else ""
        """Why new images are not compared with the training images; empty where they are."""
        self._novelty = None if isinstance(found, str) else _fitting(found, self.network, run.path).to(self.device)
        blank = torch.zeros(1, metadata["image_size"], metadata["image_size"], self.channels, dtype=torch.uint8)
        self._engine.prepare(self.network, None, blank.permute(0, 3, 1, 2))

    def summary(self) -> str:
        """Model, head if there are several, precision, device and pixels as text."""
        head = f", head {self._head.name}," if self._head else ""
        return f"{self._model_name}{head} in {self.precision} on {self.device.type} at {self.views.size} px"

    def made_with(self) -> dict[str, str]:
        """What decides on outputs for an image, by its name in a message."""
        described = {name: value for name, value in self._metadata.items() if name not in (KEY, HEADS_KEY)}
        weights = self._metadata.get("weights") or sha256_of(self._path)  # earlier versions had no digests
        return {
            "weights": f"{weights} {self._head.name if self._head else ''}",
            "metadata of the checkpoint": digest_of(described),
            "precision": self.precision,
            "device": self.device.type,
            "loader": self.loader_name,
        }

    def verified(self, encoded: bytes, at_own_size: bool = False) -> EncodedImage | str:
        """The image of a file as `prepare` would store it, or the reason why it cannot. at_own_size: not shrunk."""
        if self.xray_size:
            size = None if at_own_size else self.xray_size
            xray = partial(verify_xray, size=size, depth=self.depth, cut=self.xray_cut)
            return verified_or_reason(lambda: encoded, partial(xray, upright=self._upright))
        if is_dicom(encoded[:132]):
            return "DICOM, and the run was trained on images that were not shrunk as X-rays are"
        shorter_side = None if at_own_size else self._shorter_side
        photo = partial(verify_image, shorter_side=shorter_side, upright=self._upright)
        return verified_or_reason(lambda: encoded, photo)

    def of_images(self, images: Sequence[EncodedImage]) -> Array:
        """Logits of verified images, float32 [N, C]."""
        return self.judge_images(images)[0]

    def seen(self, index: Index) -> Tensor:
        """What the network sees of every sample, uint8 [N, C, S, S] on its device, in the order of the index."""
        index = replace(index, channels=self.channels)
        requests = evaluation_order(len(index), 0, 1, self._runtime.eval_batch_size)
        batches = self._loader(index, requests, self.views, self.device, self._engine.threads)
        return torch.cat([batch.images for batch in batches])

    def judge_images(self, images: Sequence[EncodedImage]) -> tuple[Array, Array | None]:
        """Logits of verified images and their novelty, as from `judge`."""
        if not images:
            return np.zeros((0, len(self.classes))), None
        return self.judge(in_memory_index(images, self.channels))

    def judge(self, index: Index) -> tuple[Array, Array | None]:
        """Logits of every sample of an index, in its order, float32 [N, C], and its novelty, float32 [N, 3]; None for a
        run that does not know it. Raises RunError if any is not finite."""
        index = replace(index, channels=self.channels)
        width = len(self.classes)
        outputs = outputs_of(
            index,
            self._engine,
            self._loader,
            self.views,
            self._runtime,
            width + (0 if self._novelty is None else len(PARTS)),
            output_of=self._output_of,
        )
        if not outputs.isfinite().all():
            raise RunError(f"{self._path}: its outputs are not finite; try --precision fp32")
        found = outputs.cpu().numpy()
        return found[:, :width], None if self._novelty is None else found[:, width:]

    def _output_of(self, model: nn.Module, images: Tensor) -> Tensor:
        if self._novelty is None:
            return model(images)  # type: ignore[no-any-return]
        logits, description = describe(model, images)
        return torch.cat([logits, self._novelty.of(description)], dim=1)


def _fitting(novelty: Novelty, model: BiTResNet, path: Path) -> Novelty:
    """Raises InputError for one that was fitted to features of another model."""
    if len(novelty.normals[0].mean) != model.head.in_features:
        raise InputError(f"{path}: its novelty is of another model; take another checkpoint")
    return novelty


def _require_known_xrays(path: Path, metadata: Mapping[str, Any], size: int | None, bits: int | None) -> None:
    """Warn where the checkpoint of an earlier version does not say how X-rays were stored. size: of theirs, as it says
    or as is given. Raises InputError for bits of a run without X-rays."""
    if "xray_size" not in metadata and size is None and metadata["channels"] == 1:
        logger.warning(
            f"{path} does not say whether its grey images were X-rays that were shrunk; if so, "
            "bitscale predict needs their side: --xray-size"
        )
    if bits is not None and not size:
        remedy = "leave it out" if "xray_size" in metadata else "leave it out, or say their side with --xray-size"
        raise InputError(f"--bits is for X-rays, and {path} was not trained on such; {remedy}")
    if size and "bits" not in metadata:
        logger.warning(
            f"{path} is of a version that scaled pictures of more than 8 bits, and DICOM without a "
            "window, by the values of each: prepare and train again if the run saw such"
        )


def load_model(run: Run, path: Path, name: str, num_classes: int) -> BiTResNet:
    """The model with the weights of a checkpoint. Raises InputError where these do not fit."""
    model = build_model(name, num_classes, mean=run.mean, std=run.std)
    state = checkpoint.load(path, parts=("model",)).state["model"]
    if run.head is not None:
        state |= {name: tensor[run.head.columns] for name, tensor in state.items() if name.startswith("head.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path} does not fit the {name} that it says it is: {error}") from error
    return model
