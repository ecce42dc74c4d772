"""What operators promise beside their values, which the kernels' own tests and opcheck hold."""

import pytest
import torch
from torch import Tensor

from trainer.kernels.group_norm_relu import kernel_works
from trainer.kernels.operators import operator


@operator("bitscale_test::twice")
def twice(x: Tensor) -> Tensor:
    return x * 2


def test_an_operator_without_gradients_says_so_in_the_backward_pass() -> None:
    x = torch.ones(2, requires_grad=True)
    assert torch.equal(twice(x), torch.full((2,), 2.0))
    with pytest.raises(RuntimeError, match="no backward pass"):
        twice(x).sum().backward()


def test_the_compiler_takes_whether_kernels_work_for_a_constant() -> None:
    def marked(device: torch.device) -> bool:
        return device.type == "cpu"

    assert vars(torch.compiler.assume_constant_result(marked)).items() <= vars(kernel_works).items()
    assert vars(marked)
