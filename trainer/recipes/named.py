"""Named runs, each a function that returns its configuration."""

from collections.abc import Callable
from functools import partial

from trainer.config import Config
from trainer.recipes.demos import embedded, phantom
from trainer.recipes.paper import (
    CHEST_XRAYS,
    MICRO_BATCH_SIZE,
    chest_xray,
    imagenet1k,
    imagenet1k_r50x1_120,
    imagenet21k,
)

RECIPES: dict[str, Callable[[], Config]] = {"embedded": embedded, "phantom": phantom}
for _model in MICRO_BATCH_SIZE:
    RECIPES[f"imagenet1k_{_model}"] = partial(imagenet1k, _model)
    RECIPES[f"imagenet21k_{_model}"] = partial(imagenet21k, _model)
    for _name, _sets in CHEST_XRAYS.items():
        RECIPES[f"{_name}_{_model}"] = partial(chest_xray, _name, _sets, _model)
RECIPES["imagenet1k_r50x1_120"] = imagenet1k_r50x1_120
