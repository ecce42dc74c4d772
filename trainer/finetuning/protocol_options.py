"""Command-line options for the single settings of the fine-tuning protocol."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from data_pipelines.common.errors import InputError
from data_pipelines.loading.views import Border, MixUpWeight
from trainer.config import AgcHead, Config, DataConfig, ModelConfig, OptimConfig, Precision
from trainer.models.bit import FilterInit, HeadInit
from trainer.normalisation import PerChannel, require_mean, require_std

Part = TypeVar("Part", DataConfig, ModelConfig, OptimConfig)


@dataclass(frozen=True)
class ProtocolOptions:
    """Single settings, each of which beats --match-authors. None: as BiT-HyperRule and the paper have it, or with that
    switch as the authors' program has it."""

    precision: Precision | None = None
    """None: bf16; authors: fp32."""
    head_init: HeadInit | None = None
    """Initial weights of the new head. None: zero; authors: torch, which is random."""
    filter_init: FilterInit | None = None
    """Initial weights of the convolutions of "scratch". None: kaiming; authors: torch."""
    nesterov: bool | None = None
    """Nesterov momentum. None: no; authors: yes."""
    agc_head: AgcHead | None = None
    """What gradient clipping leaves out: the head by its name, or what has its shape. None: name; authors: shape."""
    keep_aspect: bool | None = None
    """Resize the shorter side and keep the aspect before the random crop. None: no, squash; authors: yes."""
    border: Border | None = None
    """What warped X-rays show outside the picture. None: black; authors: reflect."""
    translation: float | None = None
    """Largest shift of X-rays along each axis, as a fraction of the side. None: 0.15; authors: 0.25."""
    mixup_weight: MixUpWeight | None = None
    """MixUp draws a weight for each pair, or one per step. None: pair; authors: step."""
    mean: PerChannel | None = None
    """Mean of the channels, for pixels in [0, 1]. None: that of the pre-trained weights; authors: 0.5 for
    padchest_cl."""
    std: PerChannel | None = None
    """Standard deviation of the channels, for pixels in [0, 1]. None: as for the mean."""

    def __post_init__(self) -> None:
        if self.translation is not None and not 0 <= self.translation < 1:
            raise InputError(f"--translation is {self.translation}; it must lie in [0, 1)")
        if self.mean is not None:
            require_mean(self.mean, "--mean:")
        if self.std is not None:
            require_std(self.std, "--std:")

    def applied(self, config: Config) -> Config:
        """The configuration with these options applied."""
        data = {name: getattr(self, name) for name in ("border", "translation", "mixup_weight")}
        if self.keep_aspect is not None and config.data.train_view != "xray_affine":
            data["train_view"] = "shorter_side_random_crop" if self.keep_aspect else "resize_random_crop"
        return replace(
            config,
            precision=self.precision or config.precision,
            model=_with(
                config.model, head_init=self.head_init, filter_init=self.filter_init, mean=self.mean, std=self.std
            ),
            optim=_with(config.optim, nesterov=self.nesterov, agc_head=self.agc_head),
            data=_with(config.data, **data),
        )

    def without_effect(self, config: Config) -> list[str]:
        """Options that are given but change nothing in a run of this configuration, with the reason."""
        is_xray, view = config.data.train_view == "xray_affine", config.data.train_view
        frozen = f"--mode {config.mode} trains no model"
        reasons = {
            **dict.fromkeys(("border", "translation"), "" if is_xray else f"training images are seen by {view}"),
            "keep_aspect": f"training images are seen by {view}" if is_xray else "",
            "mixup_weight": "" if config.data.mixup_alpha else "there is no MixUp",
            "head_init": "the head is kept" if config.model.keep_head else "",
            "filter_init": "" if config.model.pretrained is None else "the convolutions are pre-trained",
        }
        if config.mode != "finetune":
            known = ("precision", "filter_init", "mean", "std")
            reasons |= {entry.name: frozen for entry in fields(self) if entry.name not in known}
        return [
            f"--{name.replace('_', '-')} has no effect: {reason}"
            for name, reason in reasons.items()
            if reason and getattr(self, name) is not None
        ]


def _with(part: Part, **given: Any) -> Part:
    """The part of a configuration with those values that are not None."""
    return replace(part, **{name: value for name, value in given.items() if value is not None})
