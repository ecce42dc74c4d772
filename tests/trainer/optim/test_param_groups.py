"""Which parameters are clipped: all but the head, found by its name or by its first dimension."""

from typing import Literal

import torch
from torch import nn

from trainer.optim.sgd_agc import SGDAGC, param_groups


def grouped_names(num_classes: int, agc_head: Literal["name", "shape"]) -> list[tuple[float, list[str]]]:
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 10, 3),
            "norm": nn.GroupNorm(2, 10),
            "headroom": nn.Linear(10, 4, bias=False),
            "head": nn.Linear(4, num_classes),
        }
    )
    names = {p: name for name, p in model.named_parameters()}
    groups = param_groups(model, num_classes, 0.01, agc_head)
    return [(group["agc_clipping"], [names[p] for p in group["params"]]) for group in groups]


def test_the_head_is_left_out_by_name() -> None:
    assert grouped_names(10, "name") == [
        (0.01, ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "headroom.weight"]),
        (0.0, ["head.weight", "head.bias"]),
    ]


def test_paper_code_exempts_by_first_dimension_clips_head_bias() -> None:
    assert grouped_names(10, "shape") == [
        (0.01, ["conv.bias", "norm.weight", "norm.bias", "headroom.weight", "head.bias"]),
        (0.0, ["conv.weight", "head.weight"]),
    ]


def test_a_model_without_head_has_one_group() -> None:
    (group,) = param_groups(nn.Conv2d(3, 4, 1), 10, 0.01)
    assert group["agc_clipping"] == 0.01
    assert len(group["params"]) == 2


def test_a_head_of_zeros_moves_at_full_speed() -> None:
    model = nn.ModuleDict({"head": nn.Linear(4, 3)}).double()
    nn.init.zeros_(model["head"].weight)
    optimizer = SGDAGC(param_groups(model, 3, 0.01), lr=0.5)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(model["head"].weight, torch.full((3, 4), -0.5, dtype=torch.float64))
