"""The config.json of an exported folder, which `timm.create_model("local-dir:...")` loads."""

from math import floor
from typing import Any

from torch import Tensor

from trainer.models.bit import MODELS
from trainer.models.filters import STANDARDISATION_EPS
from trainer.models.layouts import TIMM, scaled, standardised
from trainer.models.weights import Weights
from trainer.normalisation import BIT_MEAN, BIT_STD

ARCHITECTURES = {
    "r50x1": "resnetv2_50x1_bit",
    "r50x3": "resnetv2_50x3_bit",
    "r101x1": "resnetv2_101x1_bit",
    "r101x3": "resnetv2_101x3_bit",
    "r152x2": "resnetv2_152x2_bit",
    "r152x4": "resnetv2_152x4_bit",
}
# timm adds 1e-8 to the variance of filters where BiT adds 1e-10: to filters 10 times as large that is the same.
FILTERS_TIMES = 10.0
# Pixels, for weights that do not say on which size they were trained.
DEFAULT_SIZE = 224


def timm_tensors(
    model_name: str, tensors: dict[str, Tensor], as_stored: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in timm's layout, and what was done to the filters to make its logits ours."""
    if model_name not in ARCHITECTURES:
        return TIMM.to_external(standardised(tensors, STANDARDISATION_EPS)), {"filters": "standardised"}
    if as_stored:
        return TIMM.to_external(tensors), {"filters": "as stored"}
    return TIMM.to_external(scaled(tensors, FILTERS_TIMES)), {"filters": "scaled", "filters_times": FILTERS_TIMES}


def timm_config(weights: Weights, notes: list[str]) -> dict[str, Any]:
    """What timm needs to build the model and to prepare its images as our evaluation does."""
    depths, width_factor = MODELS[weights.model_name]
    is_known = weights.model_name in ARCHITECTURES
    size = weights.image_size or DEFAULT_SIZE
    config: dict[str, Any] = {
        # A model that timm has no name for: the residual network without standardisation, of any depth and width.
        "architecture": ARCHITECTURES[weights.model_name] if is_known else "resnetv2_50",
        "num_classes": weights.num_classes,
        "num_features": int(2048 * width_factor),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, size, size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            **_cropping(weights.eval_view, size, weights.resize or size),
            "mean": list(weights.mean or BIT_MEAN),
            "std": list(weights.std or BIT_STD),
            "num_classes": weights.num_classes,
            "pool_size": [-(-size // 32)] * 2,
            "first_conv": "stem.conv",
            "classifier": "head.fc",
            "notes": notes,
        },
    }
    if not is_known:
        config["model_args"] = {
            "layers": list(depths),
            "width_factor": width_factor,
            "stem_type": "fixed",
            "norm_layer": "groupnorm",
        }
    return config | ({"label_names": list(weights.classes)} if weights.classes else {})


def _cropping(view: str | None, size: int, resize: int) -> dict[str, Any]:
    if view != "center_crop":  # squash, the evaluation of BiT's transfer, where it is not known
        return {"crop_pct": 1.0, "crop_mode": "squash"}
    # timm resizes to floor(size / crop_pct), which rounding may put one pixel below.
    share = size / resize
    return {"crop_pct": share if floor(size / share) == resize else size / (resize + 0.5), "crop_mode": "center"}
