"""A value of each setting of an augmentation that is not its default: what switches it on, or changes what it does."""

from dataclasses import replace
from typing import Any

from data_pipelines.loading.views import AUTHORS_TRANSLATION, Augmentation

OTHER_VALUES: dict[str, Any] = {
    "policy": "random_resized_crop",
    "size": 40,
    "resize": 64,
    "seed": 6,
    "flip": False,
    "mixup_alpha": 0.3,
    "mixup_group": 64,
    "randaugment_ops": 2,
    "randaugment_magnitude": 20,
    "randaugment_space": "ildoonet",
    "randaugment_on": "image",
    "translation": AUTHORS_TRANSLATION,
    "border": "reflect",
}
# With these every setting but those of NEEDS has an effect.
BEFORE = Augmentation("xray_affine", 48, 56, seed=1, mixup_alpha=0.1, randaugment_ops=1)
NEEDS = {"resize": {"policy": "resize_random_crop"}}


def before_and_after(name: str) -> tuple[Augmentation, Augmentation]:
    """Two augmentations that differ in this setting alone, which has an effect in them."""
    before = replace(BEFORE, **NEEDS.get(name, {}))
    return before, replace(before, **{name: OTHER_VALUES[name]})
