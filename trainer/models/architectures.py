"""The models by name, and how their weights may begin. Without PyTorch, which help and configuration do not need."""

from typing import Literal

HeadInit = Literal["zero", "fan_in", "torch"]
FilterInit = Literal["kaiming", "torch"]

NUM_STAGES = 4

# name -> (units per stage, width factor), as in BiT; r26x1 and r14x0.5 are ours.
MODELS: dict[str, tuple[tuple[int, ...], float]] = {
    "r50x1": ((3, 4, 6, 3), 1),
    "r50x3": ((3, 4, 6, 3), 3),
    "r101x1": ((3, 4, 23, 3), 1),
    "r101x3": ((3, 4, 23, 3), 3),
    "r152x2": ((3, 8, 36, 3), 2),
    "r152x4": ((3, 8, 36, 3), 4),
    "r26x1": ((2, 2, 2, 2), 1),
    "r14x0.5": ((1, 1, 1, 1), 0.5),
}
