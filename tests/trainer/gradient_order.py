"""In which order a backward pass makes gradients: its nodes are counted, not timed."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.models.bit import BiTResNet


def gradient_order(model: BiTResNet, loss: Tensor, backward: Callable[[Tensor], None]) -> dict[str, float]:
    """Name of each weight that gets a gradient, in the order in which they are ready -> the share of the backward
    pass's nodes that have run by then."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    nodes, todo, ran = {}, [loss.grad_fn], []
    while todo:
        node = todo.pop()
        if node is not None and node not in nodes:
            name = names.get(id(getattr(node, "variable", None)), "")
            nodes[node] = node.register_hook(lambda *_, name=name: ran.append(name))
            todo += [following for following, _ in node.next_functions]
    backward(loss)
    for handle in nodes.values():
        handle.remove()
    assert len(ran) == len(nodes)
    return {name: (place + 1) / len(ran) for place, name in enumerate(ran) if name}


def part_of(model: BiTResNet, name: str) -> int:
    """The number of the part of the model that a weight is in: the stem is 0, then come the units, last norm, head."""
    prefixes = ["stem.", *(f"{unit_name}." for unit_name, unit in model.named_modules() if unit in model.units)]
    return [name.startswith(prefix) for prefix in (*prefixes, "norm.", "head.")].index(True)


def assert_ready_part_by_part(model: BiTResNet, order: dict[str, float]) -> None:
    """Every weight has its gradient, those of a part are all there before those of the part before it, and after as
    much of the pass as the parts are of the model."""
    assert order.keys() == {name for name, _ in model.named_parameters()}
    parts = [part_of(model, name) for name in order]
    assert parts == sorted(parts, reverse=True), list(order)
    for name, share in order.items():
        last = len(model.units) + 1  # norm and head are one part here
        done = last + 1 - min(part_of(model, name), last)
        assert share <= done / (last + 1) + 0.15, (name, share)


def first_filters(order: dict[str, float]) -> float:
    """The share of the pass after which the first gradient of a convolution is there."""
    return min(share for name, share in order.items() if "conv" in name)


IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
