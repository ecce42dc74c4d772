"""Export the weights of a run for timm, or in BiT's own format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import utf8_path, write_json
from data_pipelines.common.messages import logger
from data_pipelines.common.whole_folder import write_folder
from trainer.models.export_settings import EXPORTED_FILES, NPZ, SAFETENSORS, Export
from trainer.models.layouts import BIT_NPZ
from trainer.models.timm_folder import ARCHITECTURES, DEFAULT_SIZE, timm_config, timm_tensors
from trainer.models.weight_files import CONFIG, OWN_KEY
from trainer.models.weights import Weights, load_weights, with_head


def export(settings: Export) -> list[str]:
    """Write the folder atomically, and return notes on it. Raises InputError for a source that cannot be read, or a
    folder that exists already or cannot be written."""
    weights = with_head(load_weights(settings.source), settings.head)
    head = f", head {settings.head}," if settings.head else ""
    logger.info(
        f"export {weights.path}: {weights.model_name}{head} in the format of {settings.format}, to {settings.out}"
    )
    weights.require_normalisation("fix it there first")
    if weights.num_classes is None:
        raise InputError(f"{weights.path} has no head; fine-tune it first and export that run")
    notes = _notes(weights)
    metadata: dict[str, Any] = {
        "model": weights.model_name,
        "weights": weights.digest,
        "classes": weights.classes,
        **({"head": settings.head} if settings.head else {}),
        "sets": weights.sets,
        "set_digests": dict(weights.set_digests),
        "image_size": weights.image_size,
        "resize": weights.resize,
        "eval_view": weights.eval_view,
        "channels": weights.channels,
        "mean": weights.mean,
        "std": weights.std,
    }
    if settings.format == "npz":
        config = {OWN_KEY: metadata, "label_names": weights.classes, "notes": notes}
        _write(settings, config, lambda folder: _save_npz(folder / NPZ, weights.tensors))
        return notes
    if settings.as_stored and weights.model_name not in ARCHITECTURES:
        raise InputError(f"timm cannot build a {weights.model_name} from filters as they are; leave out --as-stored")
    tensors, filters = timm_tensors(weights.model_name, weights.tensors, settings.as_stored)
    metadata |= filters
    notes += _notes_on_filters(weights.model_name, filters["filters"])
    config = timm_config(weights, notes) | {OWN_KEY: metadata}
    header = {"format": "pt", OWN_KEY: json.dumps(metadata)}
    _write(settings, config, lambda folder: _save_safetensors(folder / SAFETENSORS, tensors, header))
    return notes


def _save_safetensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    path.touch()
    mode = path.stat().st_mode
    with utf8_path(path) as name:
        save_file(tensors, name, metadata=header)  # which leaves a file that nobody else may read, whatever the umask
    path.chmod(mode)


def _save_npz(path: Path, tensors: dict[str, Tensor]) -> None:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in BIT_NPZ.to_external(tensors).items()}
    np.savez(path, **arrays)


def _notes(weights: Weights) -> list[str]:
    notes = []
    if weights.channels == 1:
        notes.append("Trained on grey images, which the model sees three times: load them as RGB.")
    if weights.image_size is None:
        notes.append(f"The size of its images is not known; {DEFAULT_SIZE} pixels are a guess.")
    if weights.mean is None:
        notes.append("How its inputs were normalised is not known; a mean and standard deviation of 0.5 are a guess.")
    if not weights.classes:
        notes.append("The names of its classes are not known.")
    return notes


def _notes_on_filters(model_name: str, filters: str) -> list[str]:
    if filters == "standardised":
        return [
            f"timm cannot build a {model_name} with weight standardisation (it can {', '.join(ARCHITECTURES)}): this "
            "is the same network with its filters standardised once and for all. Its logits are the same, but "
            "fine-tuning it gives other results."
        ]
    if filters == "scaled":
        return [
            "Filters are multiplied by 10, which their standardisation undoes and which makes up for timm's larger "
            "epsilon; to fine-tune in timm as in BiT, export --as-stored."
        ]
    return ["Filters are as BiT has them; timm's epsilon of 1e-8 instead of 1e-10 changes the logits a little."]


def _write(settings: Export, config: dict[str, Any], save: Callable[[Path], object]) -> None:
    def fill(folder: Path) -> None:
        save(folder)
        write_json(folder / CONFIG, config)

    write_folder(settings.out, EXPORTED_FILES, settings.force, fill)
