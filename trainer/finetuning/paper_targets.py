"""The seven targets of the paper: how a fine-tuning on each differs from one on any other set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.common.advice import quoted


@dataclass(frozen=True)
class PaperTarget:
    """One target. trained_whole: the paper holds nothing out for val; of the others val is kept for thresholds and
    temperature. oversampled: small in some classes, so the full set is sampled by class. xray_size: trained and tested
    as in the pre-training on X-rays, at this size in pixels; None: by BiT-HyperRule.

    Of the authors' program alone: bit_normalised: BiT's mean and standard deviation whatever the source has;
    fewer_than_shots: takes what there is of classes with fewer images; prepared: what the manifest of its data says,
    where `prepare` can do otherwise. It holds nothing out for val of any of the seven.
    """

    trained_whole: bool = False
    oversampled: bool = False
    xray_size: int | None = None
    bit_normalised: bool = False
    fewer_than_shots: bool = False
    prepared: Mapping[str, str] = field(default_factory=dict)


# By the names in their manifests. Source: arXiv:2106.00116, and its authors' program at commit fe6232b.
PAPER_TARGETS = {
    "cifar10": PaperTarget(trained_whole=True),
    "cifar100": PaperTarget(trained_whole=True),
    "pets": PaperTarget(trained_whole=True),
    "flowers102": PaperTarget(trained_whole=True, oversampled=True, prepared={"split": "authors"}),
    "covidx": PaperTarget(oversampled=True, prepared={"xray_cut": "whole"}),
    "tuberculosis": PaperTarget(prepared={"xray_cut": "whole", "split_by": "image"}),
    "padchest_cl": PaperTarget(
        xray_size=224, bit_normalised=True, fewer_than_shots=True, prepared={"split_by": "image"}
    ),
}
_OTHER = PaperTarget()
# What reports call what `prepare` decides.
PREPARED = {
    "prepared.split": "split of the data",
    "prepared.xray_cut": "part of the X-rays",
    "prepared.split_by": "test images drawn by",
}
# What manifests do not say.
_UNSAID = {"split": "official", "xray_cut": "square", "split_by": "patient"}


def paper_target(name: str) -> PaperTarget:
    """The target of that name; for a set that is none of the paper's, one with nothing special."""
    return PAPER_TARGETS.get(name, _OTHER)


def data_departures(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a prepared set has otherwise than the data of the authors' program, as `departures` of settings:
    {"prepared.split": {"used": "official", "protocol": "authors"}}."""
    pairs = {
        name: {"used": manifest.get(name) or _UNSAID[name], "protocol": value}
        for name, value in paper_target(manifest["name"]).prepared.items()
    }
    return {f"prepared.{name}": pair for name, pair in pairs.items() if pair["used"] != pair["protocol"]}


def data_warning(name: str, folder: Path, found: Mapping[str, Mapping[str, Any]]) -> str:
    """That the target in `folder` departs from the authors' data in what `data_departures` found, and the command that
    prepares theirs beside it."""
    said = [f"{PREPARED[key]}: {pair['used']} instead of {pair['protocol']}" for key, pair in found.items()]
    wanted = paper_target(name).prepared.items()
    options = [f"--{key.replace('_', '-')} {value}" for key, value in wanted if key != "xray_cut"]  # whole by default
    out = Path(f"{folder.resolve().parent}-authors", folder.name)
    given = " ".join(["--root DIR", *options, f"--out {quoted(out)}"])
    return (
        f"the authors' program has other data than {folder} ({'; '.join(said)}); for theirs: "
        f"python -m data_pipelines.prepare {name} {given}"
    )
