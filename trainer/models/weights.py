"""Loading pre-trained weights: files of several programs converted to our names, checked, and put into a model.

Read: our checkpoints, timm's state dicts (safetensors and PyTorch), BiT's NumPy files, and the PyTorch files of BiT's
and of the paper's program.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError
from data_pipelines.shards.heads import choose_head, heads_of, refuse_head
from trainer import checkpoint
from trainer.models.bit import MODELS, BiTResNet, build_model
from trainer.models.layouts import HEAD, LAYOUTS, STEM, is_filter, layout_of
from trainer.models.sources import locate, name_of, origin_of
from trainer.models.weight_files import WeightMetadata, own_metadata, parse_metadata, read_weights
from trainer.normalisation import BIT_MEAN, BIT_STD

_SHOWN = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Weights(WeightMetadata):
    """A pre-trained model: `tensors` in our names, fp32, with or without `head.*`, and what is known of it.

    digest: equal for equal weights, in whichever file they lie.
    """

    path: Path
    model_name: str
    tensors: dict[str, Tensor] = field(repr=False)
    digest: str

    @property
    def num_classes(self) -> int | None:
        """Outputs of the head; None without one."""
        return len(self.tensors[HEAD[0]]) if HEAD[0] in self.tensors else None


def load_weights(source: str) -> Weights:
    """Read weights by path or by published name, see `sources.locate`. Raises InputError for weights that are absent or
    damaged, that are no BiT ResNet, or one of a size that is not in `MODELS`."""
    path = locate(source)
    if _is_checkpoint(path):
        loaded = checkpoint.load(path, parts=("model",))
        content, metadata, digest = (
            loaded.state["model"],
            _metadata_of(path, loaded.metadata),
            loaded.metadata.get("weights"),
        )
    else:
        content, metadata = read_weights(path)
        digest = None
    layout = layout_of(content)
    if layout is None:
        stems = ", ".join(layout.outside[STEM] for layout in LAYOUTS[:-1])
        raise InputError(f"{path} holds no BiT ResNet: none of {stems} is among its tensors; it has {_few(content)}")
    _require_floating(content, path)
    tensors = {name: tensor.float() for name, tensor in layout.from_external(content).items()}
    model_name = identify(tensors, path)
    _require_finite(tensors, path)
    if metadata.filters_times != 1:
        tensors |= {name: tensor / metadata.filters_times for name, tensor in tensors.items() if is_filter(name)}
    head = tensors.get(HEAD[0])
    if head is None or len(metadata.classes) != len(head):
        metadata = replace(metadata, classes=(), heads={})
    return _weights(path, model_name, tensors, digest or checkpoint.fingerprint(tensors), metadata)


def with_head(weights: Weights, name: str | None) -> Weights:
    """The weights with one of their heads, where sets have one each; else as they are. Raises InputError for a name
    that they have not, for none where they have heads, and for one where they have not."""
    if not weights.heads:
        refuse_head(name, weights.path)
        return weights
    head = choose_head(heads_of(weights.heads), name, weights.path)
    tensors = weights.tensors | {part: weights.tensors[part][head.columns].clone() for part in HEAD}
    digest = checkpoint.fingerprint(tensors)
    return replace(weights, tensors=tensors, digest=digest, classes=head.classes, heads={})


def describe_weights(source: str) -> Weights:
    """Like `load_weights`, without the tensors; of our own checkpoints only the header is read."""
    path = locate(source)
    if _is_checkpoint(path):
        header = checkpoint.describe(path)
        if "model" in header and "weights" in header:
            return _weights(path, str(header["model"]), {}, str(header["weights"]), _metadata_of(path, header))
    status = path.stat()
    return _described(str(path), status.st_mtime_ns, status.st_size)


@lru_cache
def _described(path: str, mtime_ns: int, size: int) -> Weights:
    return replace(load_weights(path), tensors={})


def _weights(path: Path, model_name: str, tensors: dict[str, Tensor], digest: str, metadata: WeightMetadata) -> Weights:
    """By its own word, else by what is known of its published name."""
    origin = origin_of(name_of(str(path)))
    if origin:
        metadata = replace(metadata, sets=metadata.sets or origin.sets)
    if origin and metadata.mean is None and not metadata.unusable:
        metadata = replace(metadata, mean=origin.mean, std=origin.std)
    return Weights(path=path, model_name=model_name, tensors=tensors, digest=digest, **vars(metadata))


def _is_checkpoint(path: Path) -> bool:
    return own_metadata(path).get("format", "").startswith(checkpoint.FAMILY)


def _metadata_of(path: Path, header: dict[str, Any]) -> WeightMetadata:
    try:
        # Earlier versions knew no other mean and standard deviation.
        return parse_metadata(header, {str(path): {"mean": BIT_MEAN, "std": BIT_STD} | header})
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error} in its header") from error


def install(weights: Weights, model: BiTResNet, name: str, classes: Sequence[str], keep_head: bool) -> list[str]:
    """Put weights into a freshly built model of `MODELS`; its head stays as it is unless `keep_head`.

    Returns warnings for the user. Raises InputError where they do not fit; a head that is kept is reordered to
    `classes` if its own are known.
    """
    if weights.model_name != name:
        raise InputError(
            f"{weights.path} holds a {weights.model_name}, not a {name}; take {flag('--model.name')} "
            f"{weights.model_name}"
        )
    tensors = dict(weights.tensors)
    warnings = _normalisation(weights, model)
    if keep_head:
        tensors |= _kept_head(weights, classes)
        if not weights.classes:
            warnings.append(
                f"{weights.path} does not name its classes; its outputs are taken to be, in this order, {_few(classes)}"
            )
    else:
        for part in HEAD:
            tensors.pop(part, None)
    missing = model.load_state_dict(tensors, strict=False)
    assert set(missing.missing_keys) <= set(HEAD)
    assert not missing.unexpected_keys
    return warnings


def _kept_head(weights: Weights, classes: Sequence[str]) -> dict[str, Tensor]:
    remedy = f"leave out {flag('--model.keep-head')} to train a new head"
    count = weights.num_classes
    if count is None:
        raise InputError(f"{weights.path} has no head to keep; {remedy}")
    if count != len(classes):
        raise InputError(
            f"the head of {weights.path} has {count} outputs, the data have {len(classes)} classes; {remedy}"
        )
    if not weights.classes:
        return {part: weights.tensors[part] for part in HEAD}
    lacking = [name for name in classes if name not in weights.classes]
    if lacking:
        raise InputError(
            f"the head of {weights.path} lacks {len(lacking)} of the {len(classes)} classes: {_few(lacking)}; its own "
            f"are {_few(weights.classes)}; {remedy}"
        )
    rows = torch.tensor([weights.classes.index(name) for name in classes])
    return {part: weights.tensors[part][rows] for part in HEAD}


def _normalisation(weights: Weights, model: BiTResNet) -> list[str]:
    if weights.mean is None or (weights.mean, weights.std) == (model.mean, model.std):
        return []
    return [
        f"{weights.path} was trained on inputs normalised by mean {weights.mean} and standard deviation {weights.std}; "
        f"here they are normalised by {model.mean} and {model.std}, by the settings of this run (mean and std of the "
        "model in config.json), so its features are not quite those that it learnt"
    ]


def identify(tensors: dict[str, Tensor], path: Path) -> str:
    """The model of `MODELS` that has these shapes. Raises InputError that lists what differs."""
    stem = tensors[STEM]
    units = [name.split(".") for name in tensors if name.startswith("stages.") and name.endswith(".conv1.weight")]
    depths = tuple(sum(unit[1] == str(stage) for unit in units) for stage in range(4))
    width = stem.shape[0] / 64 if stem.ndim else 0
    name = next((name for name, (own, factor) in MODELS.items() if own == depths and factor == width), None)
    if name is None:
        raise InputError(
            f"{path} holds a ResNet of {depths} units and width {width:g}, which is none of {', '.join(MODELS)}; if it "
            "is one of them, its file is not whole"
        )
    wrong = tensor_differences(shapes_of(name, len(tensors.get(HEAD[0], ()))), tensors)
    if wrong:
        raise InputError(f"{path} differs from {name} in {len(wrong)} tensors: {_few(wrong, '; ')}")
    return name


def shapes_of(name: str, num_classes: int) -> dict[str, torch.Size]:
    """The shapes of a model's tensors; without a head for no classes."""
    with torch.device("meta"):
        state = build_model(name, max(num_classes, 1)).state_dict()
    return {key: tensor.shape for key, tensor in state.items() if num_classes or key not in HEAD}


def tensor_differences(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor]) -> list[str]:
    """One line per tensor that is missing, unknown or of another shape."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            lines.append(f"{name} is missing")
        elif name not in expected:
            lines.append(f"{name} is unknown")
        elif found[name].shape != expected[name]:
            lines.append(f"{name} is {_shape(found[name].shape)}, not {_shape(expected[name])}")
    return lines


def _require_floating(tensors: Mapping[str, Tensor], path: Path) -> None:
    other = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if other:
        raise InputError(f"{path} has tensors that are not floating point: {_few(other)}")


def _require_finite(tensors: dict[str, Tensor], path: Path) -> None:
    norms = torch.stack(torch._foreach_norm(list(tensors.values())))
    broken = [name for name, finite in zip(tensors, norms.isfinite().tolist(), strict=True) if not finite]
    if broken:
        raise InputError(f"{path} has weights that are not finite: {_few(broken)}")


def _few(names: Iterable[str], separator: str = ", ") -> str:
    names = list(names)
    more = f"{separator}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more


def _shape(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
