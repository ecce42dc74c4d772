"""A configuration that cannot run is refused when it is made, with the flag and the fix."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, get_args

import pytest
import tyro

from data_pipelines.common.errors import InputError
from trainer.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    ScheduleConfig,
    ScheduleKind,
    differences,
)

SETS = DataConfig(sets=("fashion_mnist",))


def mixed(global_batch_size: int, micro_batch_size: Any) -> Config:
    data = DataConfig(sets=("fashion_mnist",), mixup_alpha=0.1)
    runtime = RuntimeConfig(micro_batch_size=micro_batch_size)
    return Config(global_batch_size=global_batch_size, data=data, runtime=runtime)


REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (DataConfig, {"image_size": 31}, "--data.image-size is 31; the smallest is 32"),
    (
        DataConfig,
        {"train_view": "random_resize_crop"},
        "train_view is 'random_resize_crop'; did you mean 'random_resized_crop'",
    ),
    (DataConfig, {"eval_view": "middle"}, "eval_view is 'middle'; known: center_crop"),
    (DataConfig, {"resize": 223}, "--data.resize is 223, below --data.image-size 224; raise it"),
    (
        DataConfig,
        {"train_view": "resize_random_crop", "eval_view": "squash", "resize": 200},
        "--data.resize is 200, below --data.image-size 224; raise it",
    ),
    (DataConfig, {"mixup_alpha": -0.1}, "--data.mixup-alpha is -0.1; it must not be negative"),
    (DataConfig, {"mixup_alpha": float("nan")}, "--data.mixup-alpha is nan; it must not be negative"),
    (
        DataConfig,
        {"train_view": "shorter_side_random_crop", "eval_view": "squash", "resize": 200},
        "--data.resize is 200, below --data.image-size 224; raise it",
    ),
    (DataConfig, {"translation": 1.0}, "--data.translation is 1; it must lie in "),
    (DataConfig, {"translation": -0.1}, "--data.translation is -0.1; it must lie in "),
    (DataConfig, {"translation": float("nan")}, "--data.translation is nan; it must lie in "),
    (DataConfig, {"border": "reflection"}, "border is 'reflection'; did you mean 'reflect'"),
    (DataConfig, {"mixup_weight": "pairs"}, "mixup_weight is 'pairs'; did you mean 'pair'"),
    (DataConfig, {"randaugment_space": "ildoone"}, "randaugment_space is 'ildoone'; did you mean 'ildoonet'"),
    (DataConfig, {"randaugment_on": "images"}, "randaugment_on is 'images'; did you mean 'image'"),
    (
        DataConfig,
        {"randaugment_ops": 2, "randaugment_on": "image", "scaled_decode": True},
        "full size; leave out --data.scaled-decode, or take --data.randaugment-on crop",
    ),
    (DataConfig, {"train_view": "xray_afine"}, "train_view is 'xray_afine'; did you mean 'xray_affine'"),
    (DataConfig, {"randaugment_ops": -1}, "--data.randaugment-ops is -1; it must not be negative"),
    (DataConfig, {"randaugment_magnitude": -1}, "--data.randaugment-magnitude is -1; it must lie in 0 to 30"),
    (DataConfig, {"randaugment_magnitude": 31}, "--data.randaugment-magnitude is 31; it must lie in 0 to 30"),
    (DataConfig, {"shuffle": "block"}, "shuffle is 'block'; did you mean 'blocks'"),
    (DataConfig, {"balance": "classes"}, "balance is 'classes'; did you mean 'class'"),
    (DataConfig, {"join": "intersect"}, "join is 'intersect'; did you mean 'intersection'"),
    (DataConfig, {"shots": 0}, "--data.shots is 0; it must be at least 1"),
    (DataConfig, {"images": 0}, "--data.images is 0; it must be at least 1"),
    (DataConfig, {"images": 9, "shots": 2}, "--data.shots 2 and --data.images 9 both .*; leave out one"),
    (DataConfig, {"images_per_set": "even"}, "--data.images-per-set even shares out --data.images; give that, too"),
    (DataConfig, {"join": "heads", "sets": ("a",)}, "of its own, and a is one; leave out --data.join"),
    *(
        (
            DataConfig,
            {"join": "heads", "sets": ("a", "b")} | other,
            f"{flag} does not go with it; leave out one of them",
        )
        for other, flag in (
            ({"classes": ("x",)}, "--data.classes"),
            ({"one_label": True}, "--data.one-label"),
            ({"shots": 1}, "--data.shots"),
            ({"mixup_alpha": 0.1}, "--data.mixup-alpha"),
            ({"balance": "class"}, "--data.balance class"),
        )
    ),
    (ModelConfig, {"name": "r50x2"}, "unknown model 'r50x2'; did you mean 'r50x"),
    (ModelConfig, {"name": "vit"}, "unknown model 'vit'; known: r101x1, r101x3, r14x0.5"),
    (ModelConfig, {"head_init": "ones"}, r"head_init is 'ones'; known: .*\bzero\b"),
    *(
        (ModelConfig, {"pretrained": "a", "frozen_stages": stages}, f"--model.frozen-stages is {stages}; .* 0 to 4")
        for stages in (-1, 5)
    ),
    (ModelConfig, {"frozen_stages": 2}, "--model.frozen-stages 2 would keep random filters.* with --model.pretrained"),
    (OptimConfig, {"base_lr": 0.0}, "--optim.base-lr is 0; it must be above 0"),
    (OptimConfig, {"base_lr": float("nan")}, "--optim.base-lr is nan; it must be above 0"),
    (OptimConfig, {"momentum": 1.0}, r"--optim.momentum is 1; it must lie in \[0, 1\)"),
    (OptimConfig, {"momentum": -0.1}, r"--optim.momentum is -0.1; it must lie in \[0, 1\)"),
    (OptimConfig, {"weight_decay": -1e-4}, "--optim.weight-decay is -0.0001; it must not be negative"),
    (OptimConfig, {"agc_clipping": -0.01}, "--optim.agc-clipping is -0.01; it must not be negative"),
    (ScheduleConfig, {"kind": "nosuch"}, f"kind is 'nosuch'; known: {', '.join(sorted(get_args(ScheduleKind)))}"),
    (ScheduleConfig, {"kind": "cosin"}, "kind is 'cosin'; did you mean 'cosine'"),
    (ScheduleConfig, {"steps": 0}, "--schedule.steps is 0; it must be at least 1"),
    (ScheduleConfig, {"epochs": 0}, "--schedule.epochs is 0; it must be above 0"),
    (ScheduleConfig, {"epochs": float("inf")}, "--schedule.epochs is inf; it must be above 0"),
    (ScheduleConfig, {"epochs": None}, "give --schedule.epochs or --schedule.steps"),
    (ScheduleConfig, {"warmup_steps": -1}, "--schedule.warmup-steps is -1; it must not be negative"),
    (
        ScheduleConfig,
        {"warmup_epochs": 15, "warmup_steps": 5000},
        "--schedule.warmup-epochs 15 and --schedule.warmup-steps 5000 both .* --schedule.warmup-epochs None for the "
        "steps, or --schedule.warmup-steps 0 for the epochs",
    ),
    *(
        (ScheduleConfig, {"warmup_epochs": epochs, "warmup_steps": 0}, "--schedule.warmup-epochs is .*; it must be 0")
        for epochs in (-1, float("inf"), float("nan"))
    ),
    *(
        (RuntimeConfig, {name: 0}, f"--{name.replace('_', '-')} is 0; it must be at least 1")
        for name in ("micro_batch_size", "eval_batch_size", "threads", "log_every", "save_every", "keep_checkpoints")
    ),
    (RuntimeConfig, {"micro_batch_size": "all"}, "--micro-batch-size is 'all', neither a number nor 'auto'"),
    (RuntimeConfig, {"checkpoint_stages": 5}, "--checkpoint-stages is 5; it must lie in 0 to 4"),
    (RuntimeConfig, {"cudnn_benchmark": "fast"}, "--cudnn-benchmark is 'fast'; it must be True, False or auto"),
    (RuntimeConfig, {"cudnn_benchmark": 1}, "--cudnn-benchmark is 1; it must be True, False or auto"),
    (RuntimeConfig, {"read_ahead": -1}, "--read-ahead is -1; it must lie in 0 to 1024"),
    (RuntimeConfig, {"device": "tpu"}, "device is 'tpu'; did you mean 'cpu'"),
    (RuntimeConfig, {"engine": "mpi"}, "engine is 'mpi'; known: .*ddp"),
    (RuntimeConfig, {"loader": "ffcv"}, "loader is 'ffcv'; known: auto, dali, torch"),
    (Config, {"data": SETS, "precision": "fp8"}, "precision is 'fp8'; known: bf16, fp16, fp32"),
    (Config, {"data": SETS, "precision": None}, "precision is None; known: bf16, fp16, fp32"),
    (Config, {"data": SETS, "mode": "prob"}, "mode is 'prob'; did you mean 'probe'"),
    (Config, {"data": SETS, "seed": -1}, "--seed is -1; it must not be negative"),
    (Config, {"data": SETS, "global_batch_size": 0}, "--global-batch-size is 0; it must be at least 1"),
    (Config, {"data": SETS, "eval_every": 0}, "--eval-every is 0; it must be at least 1"),
    (Config, {}, "no data set; name one with --data.sets"),
    (mixed, {"global_batch_size": 127, "micro_batch_size": None}, "pairs: --global-batch-size 127 must be even"),
    (mixed, {"global_batch_size": 128, "micro_batch_size": 7}, "pairs: --micro-batch-size 7 must be even"),
]


@pytest.mark.parametrize(("make", "values", "message"), REFUSED, ids=[str(values) for _, values, _ in REFUSED])
def test_refused_with_the_flag_and_the_fix(make: Callable[..., Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**values)


def test_values_at_the_edge_are_taken() -> None:
    DataConfig(image_size=32, resize=32, shots=1)
    DataConfig(image_size=224, resize=32, eval_view="squash")  # no view of these uses `resize`
    DataConfig(randaugment_ops=0, randaugment_magnitude=0)
    DataConfig(randaugment_ops=1, randaugment_magnitude=30)
    ModelConfig(frozen_stages=0)
    ModelConfig(pretrained="a", frozen_stages=4)
    DataConfig(translation=0.0, mixup_weight="step", randaugment_on="image", scaled_decode=True)
    RuntimeConfig(read_ahead=0)
    OptimConfig(momentum=0.0, weight_decay=0.0, agc_clipping=0.0)
    ScheduleConfig(steps=1, epochs=None, warmup_steps=0)
    ScheduleConfig(epochs=0.5)
    ScheduleConfig(warmup_epochs=0, warmup_steps=0)
    Config(seed=0, global_batch_size=127, eval_every=1, data=SETS)
    mixed(128, 8)
    mixed(128, "auto")


def test_the_command_line_passes_the_message_on_as_it_is() -> None:
    with pytest.raises(InputError, match=r"^--optim\.base-lr is 0; it must be above 0$"):
        tyro.cli(OptimConfig, args=["--base-lr", "0"])


def test_replacing_a_value_checks_it_too() -> None:
    with pytest.raises(InputError, match="precision is 'fp8'"):
        dataclasses.replace(Config(data=SETS), precision="fp8")
    with pytest.raises(InputError, match="--global-batch-size"):
        dataclasses.replace(Config(data=SETS), global_batch_size=-1)


def test_to_dict_is_json_and_holds_every_setting() -> None:
    config = mixed(128, None)
    plain = config.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert differences(plain, json.loads(json.dumps(plain))) == []
    parts = {"data": DataConfig, "model": ModelConfig, "optim": OptimConfig, "schedule": ScheduleConfig}
    parts["runtime"] = RuntimeConfig
    sections = {name: part(**_tuples(plain.pop(name))) for name, part in parts.items()}
    assert Config(**plain, **sections) == config


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def test_differences_name_nested_settings_and_leave_out_runtime() -> None:
    old = Config(data=SETS)
    new = dataclasses.replace(
        old,
        seed=3,
        data=dataclasses.replace(SETS, flip=False, shots=5, shuffle="blocks", balance="class", join="union"),
        optim=OptimConfig(base_lr=0.01),
        runtime=RuntimeConfig(device="cpu", threads=1, save_every=7, read_ahead=0, cache_dir="/dev/shm"),
    )
    assert differences(old.to_dict(), old.to_dict()) == []
    assert differences(old.to_dict(), new.to_dict()) == [
        "data.balance: none -> class",
        "data.flip: True -> False",
        "data.join: intersection -> union",
        "data.shots: None -> 5",
        "data.shuffle: full -> blocks",
        "optim.base_lr: 0.03 -> 0.01",
        "seed: 0 -> 3",
    ]


def test_differences_show_numbers_as_they_are_typed() -> None:
    before = {"schedule": {"epochs": 60, "warmup_epochs": 3.0}, "model": {"mean": [0.5, 1.0]}}
    after = {"schedule": {"epochs": 4.0, "warmup_epochs": 0.25}, "model": {"mean": [0.0, 1e-07]}}
    assert differences(before, after) == [
        "model.mean: [0.5, 1] -> [0, 1e-07]",
        "schedule.epochs: 60 -> 4",
        "schedule.warmup_epochs: 3 -> 0.25",
    ]
    assert differences({"a": 1e300, "b": True}, {"a": float("inf"), "b": "1.0"}) == [
        "a: 1e+300 -> inf",
        "b: True -> 1.0",
    ]


def test_differences_name_settings_that_only_one_side_has() -> None:
    assert differences({"a": 1, "data": {"x": 1, "runtime": 1}}, {"b": 2, "data": {"x": 1, "runtime": 2}}) == [
        "a: 1 -> absent",
        "b: absent -> 2",
        "data.runtime: 1 -> 2",
    ]


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(InputError, match=r"--optim.nesterov needs momentum; .*--optim.no-nesterov"):
        OptimConfig(nesterov=True, momentum=0.0)
    assert OptimConfig(nesterov=False, momentum=0.0).momentum == 0
