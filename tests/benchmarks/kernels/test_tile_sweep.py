"""The sweep over tiles times whole samples, and takes no tile that computes something else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.lib.kernels import tile_sweep
from benchmarks.lib.kernels.group_norm import layers
from benchmarks.lib.kernels.tile_sweep import SHIPPED, TileSweep, measure, table, tiles, time_layer
from data_pipelines.common.errors import InputError, RunError
from trainer.kernels import group_norm_relu as kernel
from trainer.kernels.tiling import Tile, tile

CPU = torch.device("cpu")
SHAPE = (2, 1024, 14, 14)


def test_tiles_hold_whole_samples_and_all_groups() -> None:
    for shape in layers("r50x1", 2, 224):
        _, channels, height, width = shape
        for each in tiles(shape).values():
            assert each.block_s >= height * width
            assert each.channels.groups * each.channels.blocks >= 32
            assert each.channels.block_c >= each.channels.groups * channels // 32


def test_the_shipped_tile_is_among_them() -> None:
    shipped = tile("forward", 14 * 14, 32, 1024 // 32, 2)
    assert shipped is not None
    assert shipped[:3] in [each[:3] for each in tiles(SHAPE).values()]


def step_of(result: Callable[[Tile | None], Tensor]) -> Callable[[], Tensor]:
    return lambda: result(kernel.tile("forward", 14 * 14, 32, 32, 2))


def test_each_tile_is_timed_and_one_that_does_not_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(chosen: Tile | None) -> Tensor:
        if chosen is not None and chosen.num_warps == 16:
            raise RuntimeError("out of resource: shared memory\nmore")
        return torch.ones(3)

    monkeypatch.setattr(tile_sweep, "steps", lambda *_: {"forward": step_of(result)})
    found = {name: ms for _, name, ms in time_layer(SHAPE, CPU)}
    assert found.keys() == {SHIPPED, *tiles(SHAPE)}
    for name, ms in found.items():
        assert ms == "out of resource: shared memory" if "16 warps" in name else isinstance(ms, float)


def test_a_tile_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(chosen: Tile | None) -> Tensor:
        return torch.ones(3) * (1.1 if chosen is not None and chosen.num_warps == 4 else 1.0)

    monkeypatch.setattr(tile_sweep, "steps", lambda *_: {"forward": step_of(result)})
    with pytest.raises(RunError, match=r"differs by 0\.1 from the shipped"):
        list(time_layer(SHAPE, CPU))


def test_the_table_sums_over_the_layers() -> None:
    ms = {SHIPPED: 2.0, "64x64, 4 warps": 1.0, "64x128, 4 warps": "out of registers"}
    row = {"shape": SHAPE, "layers": 3, "ms": {"forward": ms, "backward": ms}}
    about = {"machine": {"gpu": "a GPU", "cpu": "a CPU"}, "arguments": {"model": "r50x1:2"}, "copy_gb_per_s": 1.0}
    text = table(about | {"layers": [row], "left_out": [SHAPE]})
    assert "forward 6.00 -> 3.00 ms, backward 6.00 -> 3.00 ms" in text
    assert "1 layers were left out" in text


def test_a_cpu_has_the_interpreter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "INTERPRETED", False)
    with pytest.raises(InputError, match="TRITON_INTERPRET=1"):
        measure(TileSweep(), CPU)


@pytest.mark.parametrize("model", ["r50:8", "r50x1", "r50x1:0"])
def test_models_that_are_none(model: str) -> None:
    with pytest.raises(InputError, match="MODEL:BATCH"):
        TileSweep(model=model)
