"""Display names of sources, targets, models and metrics, as in the paper where it has them."""

import re
from collections.abc import Iterable, Sequence

from data_pipelines.common.message_parts import some_of
from trainer.metrics import METRIC_NAME

SCRATCH, FULL = "scratch", "full"
METRIC_TITLE: dict[str, str] = dict(METRIC_NAME) | {
    "top5": "top-5 accuracy",
    "ap": "mean average precision",
    "f1": "macro F1",
}
MODE_TITLE = {"finetune": "fine-tuning", "probe": "linear probe", "knn": "k-NN"}
SET_TITLE = {
    "imagenet1k": "ImageNet-1k",
    "imagenet21k": "ImageNet-21k",
    "chexpert": "CheXpert",
    "mimic_cxr": "MIMIC",
    "nih_cxr14": "NIH",
    "padchest": "PadChest",
    "brax": "BRAX",
}
TARGET_TITLE = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "flowers102": "Flowers-102",
    "pets": "Pets",
    "padchest_cl": "PadChest-Cl",
    "covidx": "COVIDx",
    "tuberculosis": "Tuberculosis",
    "rsna_pneumonia": "RSNA Pneumonia",
    "vindr_cxr": "VinDr-CXR",
}
NATURAL, XRAY, OTHER = DOMAINS = "natural images", "chest X-rays", "other images"
DOMAIN_OF_TARGET = dict.fromkeys(("cifar10", "cifar100", "flowers102", "pets"), NATURAL) | dict.fromkeys(
    ("padchest_cl", "covidx", "tuberculosis", "rsna_pneumonia", "vindr_cxr"), XRAY
)
_SHORTER = {"mimic": "mimic_cxr", "nih": "nih_cxr14"}  # as the paper's authors and the recipes name them
_SET_OF_TOKEN = {name: name for name in SET_TITLE} | _SHORTER
_NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")
_MODEL = re.compile(r"^r(\d+)x(\d+(?:\.\d+)?)$")
_NAMED_MODEL = re.compile(r"^(?P<source>.+)[_-](?:bit|r)(?P<size>\d+x\d+(?:\.\d+)?)$")


def split_source(name: str) -> tuple[str, str | None]:
    """A source's name without the model at its end, and that model: "imagenet1k_bit50x1" is ("imagenet1k", "r50x1")."""
    match = _NAMED_MODEL.match(name)
    return (match["source"], f"r{match['size']}") if match else (name, None)


def sets_in(name: str) -> tuple[str, ...]:
    """The known sets that a name strings together: ("chexpert", "mimic_cxr") of "chexpert_mimic"; () of other names."""
    found, rest = [], name
    while rest:
        token = max((token for token in _SET_OF_TOKEN if re.match(rf"{token}(_|\+|$)", rest)), key=len, default=None)
        if token is None:
            return ()
        found.append(_SET_OF_TOKEN[token])
        rest = rest[len(token) + 1 :]
    return tuple(found)


def source_title(name: str, model: str) -> str:
    """Display name of a source beside its model: from the known sets in its name, or else the name itself."""
    stem, named = split_source(name)
    stem = stem if named == model else name
    sets = sets_in(stem)
    return "+".join(SET_TITLE[name] for name in sets) if sets else stem


def target_title(target: str) -> str:
    """Display name of a target."""
    return TARGET_TITLE.get(target, target)


def domain(sets: Iterable[str]) -> str:
    """Kind of images that a source was pre-trained on, as far as the names of its sets tell."""
    known = set(sets)
    if known and known <= {"imagenet1k", "imagenet21k"}:
        return NATURAL
    return XRAY if known and known <= {"chexpert", "mimic_cxr", "nih_cxr14", "padchest", "brax"} else OTHER


def is_smaller(sets: Iterable[str], others: Iterable[str]) -> bool:
    """Whether a source is part of another: a proper subset of its sets, or ImageNet-1k of ImageNet-21k."""
    one, other = _with_parts(sets), _with_parts(others)
    return bool(one) and one < other


def _with_parts(sets: Iterable[str]) -> set[str]:
    found = set(sets)
    return found | {"imagenet1k"} if "imagenet21k" in found else found


def model_order(model: str) -> tuple[float, float, str]:
    """Sorts models by depth, then width; unknown names last."""
    match = _MODEL.match(model)
    return (float(match[1]), float(match[2]), model) if match else (float("inf"), 0.0, model)


def setting_order(setting: str) -> list[tuple[float, str]]:
    """Sorts settings such as "steps 500" by the words and the size of the numbers in them."""
    words = [word.rstrip(",") for word in setting.split()]
    return [(float(word), "") if _NUMBER.fullmatch(word) else (-1.0, word) for word in words]


def shots_order(shots: Iterable[str]) -> list[str]:
    """The different shot counts in ascending order, "full" last."""
    return sorted(set(shots), key=lambda s: float("inf") if s == FULL else int(s))


def shots_title(shots: str) -> str:
    """Column heading for a shot count."""
    return shots if shots == FULL else f"{shots}-shot"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Some names, and the number of the others."""
    return some_of(names, most)
