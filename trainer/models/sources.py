"""Finding weights: run folders, files, exported folders, and published names in the usual offline caches."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.common.advice import quoted
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest
from data_pipelines.common.program import retyped
from trainer.normalisation import BIT_MEAN, BIT_STD, IMAGENET_MEAN, IMAGENET_STD, PerChannel
from trainer.run_files import CHECKPOINTS, meant_instead

SCRATCH = "scratch"
"""The source that means random weights."""

_SIZES = ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")
_GOOGLE = "https://storage.googleapis.com/bit_models"
# Names in timm -> the file that Google published, which they were made from.
TIMM_NAMES = (
    {f"resnetv2_{size}_bit.goog_in21k": f"BiT-M-R{size}.npz" for size in _SIZES}
    | {f"resnetv2_{size}_bit.goog_in21k_ft_in1k": f"BiT-M-R{size}-ILSVRC2012.npz" for size in _SIZES}
    | {
        "resnetv2_50x1_bit.goog_distilled_in1k": "distill/R50x1_224.npz",
        "resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k": "distill/R152x2_T_224.npz",
        "resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k_384": "distill/R152x2_T_384.npz",
    }
)
# Names of Google's files that timm has no name for: pre-trained on ImageNet-1k.
GOOGLE_NAMES = {f"BiT-S-R{size}": f"BiT-S-R{size}.npz" for size in _SIZES} | {
    Path(file).stem: file for file in TIMM_NAMES.values()
}
# Looked for in this order where a folder is named; the last two are what the paper's program and exports call them.
FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.npz", "model.pth.tar")
_ENDINGS = re.compile(r"(\.(safetensors|npz|pth|pt|bin|tar|ckpt))+$")
_PREFIX = re.compile(r"(hf-hub:|local-dir:)")

_AUTHORS_NAME = re.compile(r"((?:imagenet1k|imagenet21k|chexpert|mimic|nih|padchest)(?:_[a-z]+)*)_bit(?:50x1|152x4)")
_AUTHORS_SETS = {"mimic": "mimic_cxr", "nih": "nih_cxr14"}


@dataclass(frozen=True)
class Origin:
    """Published weights: the sets they were trained on, by their names in `DATASETS`, and the mean and standard
    deviation of their inputs, for pixels in [0, 1]."""

    sets: tuple[str, ...]
    mean: PerChannel
    std: PerChannel


def locate(source: str) -> Path:
    """The weights file for a source. Raises InputError if there is none, with the command that downloads it if the name
    is known."""
    path, typed = _path(source), _typed_path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    source = _PREFIX.sub("", source)
    name = source.removeprefix("timm/")
    if name in TIMM_NAMES:
        return _cached(f"timm/{name}", TIMM_NAMES[name], f"hf download timm/{name}")
    if name in GOOGLE_NAMES:
        file = GOOGLE_NAMES[name]
        return _cached(None, file, f"curl --create-dirs -Lo {quoted(_in_torch_cache(file))} {_GOOGLE}/{file}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and _repository(source).is_dir():
        return _cached(source, None, f"hf download {source}")
    known = nearest(name, [*TIMM_NAMES, *GOOGLE_NAMES]) if re.match(r"resnetv2|bit", name, re.IGNORECASE) else ""
    hint = known or meant_instead(typed)
    if not hint and path.parent.is_dir():
        hint = retyped(f"; the runs there are listed by: bitscale status {quoted(typed.parent)}")
    raise InputError(f"{source} is not a file, a run folder or the name of published weights{hint}")


def require_weights(source: str) -> None:
    """Raise InputError, as `locate`, for a source of which nothing is there. Does not look into what is."""
    if not _path(source).exists():
        locate(source)


def absolute(source: str) -> str:
    """A path made absolute, and a published name unchanged: valid from any folder."""
    path = _path(source)
    return str(path) if path.exists() else source


def name_of(source: str) -> str:
    """A source's name in reports: its run folder, its file, or its repository; the folder's name for files that all
    have the same name."""
    path = _path(source)
    if not path.exists():
        return path.name
    if path.parent.name == CHECKPOINTS:
        return f"{path.parent.parent.name}-{path.stem}"
    if path.is_file() and path.name not in FILES:
        return _ENDINGS.sub("", path.name)
    folder = path.parent if path.is_file() else path
    if folder.parent.name == "snapshots":  # models--<owner>--<name>/snapshots/<commit>
        return folder.parent.parent.name.split("--")[-1]
    return folder.name


def origin_of(name: str) -> Origin | None:
    """What is known of weights by their name; None for others.

    Sources: BiT (arXiv:1912.11370) and its program; arXiv:2106.00116 and its program, which normalises photographs by
    ImageNet's mean and standard deviation and X-rays by 0.5.
    """
    if name in TIMM_NAMES or name in GOOGLE_NAMES:
        file = TIMM_NAMES.get(name) or GOOGLE_NAMES[name]
        on_21k, only_21k = "BiT-M" in file or "_T_" in file, "BiT-M" in file and "ILSVRC2012" not in file
        sets: tuple[str, ...] = ("imagenet1k", "imagenet21k") if on_21k else ("imagenet1k",)
        sets = ("imagenet21k",) if only_21k else sets
        return Origin(sets, BIT_MEAN, BIT_STD)
    match = _AUTHORS_NAME.fullmatch(name)
    if match is None:
        return None
    sets = tuple(sorted(_AUTHORS_SETS.get(part, part) for part in match[1].split("_")))
    return Origin(sets, IMAGENET_MEAN, IMAGENET_STD) if "imagenet" in name else Origin(sets, BIT_MEAN, BIT_STD)


def _path(source: str) -> Path:
    # Not resolved: in the cache of the Hugging Face hub files are links to blobs, away from what lies beside them.
    return Path(os.path.abspath(_typed_path(source)))


def _typed_path(source: str) -> Path:
    return Path(_PREFIX.sub("", source)).expanduser()


def _in_folder(folder: Path) -> Path:
    """Raises InputError for a folder without weights."""
    if not (folder / CHECKPOINTS).is_dir():
        for name in FILES:
            if (folder / name).is_file():
                return folder / name
    from trainer.checkpoint import best_or_latest  # comes with PyTorch, which a wrong name need not wait for

    return best_or_latest(folder)


def _cached(repository: str | None, file: str | None, download: str) -> Path:
    """A file of a repository of the Hugging Face hub, or one of Google's. Raises InputError if neither is there."""
    looked = []
    if repository is not None:
        looked.append(_repository(repository))
        candidates = [snapshot / name for snapshot in _snapshots(looked[0]) for name in FILES]
        found = next((path for path in candidates if path.is_file()), None)
        if found:
            return found
    if file is not None:
        looked.append(_in_torch_cache(file))
        if looked[-1].is_file():
            return looked[-1]
    raise InputError(
        f"these weights are not on this machine: not in {' or '.join(map(str, looked))}.\n"
        "Where there is a network, this downloads them (if this machine has none, run it on another one, and copy the "
        f"file or folder to its place here):\n  {download}"
    )


def _snapshots(repository: Path) -> list[Path]:
    """The snapshots of a repository in the cache: first the one that its main branch means, then the newest."""
    folder, main = repository / "snapshots", repository / "refs" / "main"
    commit = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda path: (path.name == commit, path.stat().st_mtime), reverse=True)


def _repository(name: str) -> Path:
    home = Path(os.environ.get("HF_HOME") or _user_cache() / "huggingface").expanduser()
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    return Path(hub).expanduser() / f"models--{name.replace('/', '--')}"


def _in_torch_cache(file: str) -> Path:
    home = os.environ.get("TORCH_HOME") or _user_cache() / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints" / Path(file).name


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
