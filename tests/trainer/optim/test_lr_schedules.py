"""Learning rates of pre-training at the steps that matter."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.common.flag_parser import flag_parser
from trainer.config import Config, DataConfig, ScheduleConfig, ScheduleKind
from trainer.finetuning.settings import Settings
from trainer.optim.lr_schedules import (
    late_warmup,
    learning_rate,
    make_schedule,
    num_steps,
    num_warmup_steps,
    rescaled,
    shorter_warmup,
)

PEAK = 0.16
KINDS = [kind for kind in get_args(ScheduleKind) if kind != "hyperrule"]  # which has steps of its own


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0), (1, 1 / 5000), (2500, 0.5), (4999, 4999 / 5000), (5000, 1)],
)
@pytest.mark.parametrize("schedule", KINDS)
def test_warmup_is_linear_from_zero(schedule: str, step: int, share: float) -> None:
    assert learning_rate(step, PEAK, schedule, 100_000, 5000) == pytest.approx(PEAK * share, abs=1e-15)


def test_an_unknown_schedule_is_no_step_schedule() -> None:
    with pytest.raises(ValueError, match="'hyperrule'"):
        learning_rate(6000, PEAK, "hyperrule", 100_000, 5000)


# Steps a run of so many has at each of the four learning rates: 30, 30, 20 and 10 ninetieths of them.
@pytest.mark.parametrize(
    ("total_steps", "lengths"),
    [
        (90, (30, 30, 20, 10)),
        (9, (3, 3, 2, 1)),
        (900, (300, 300, 200, 100)),
        (100, (33, 34, 22, 11)),
        (307_620, (102_540, 102_540, 68_360, 34_180)),
    ],
)
def test_steps_decay_by_ten_after_30_60_and_80_ninetieths(total_steps: int, lengths: tuple[int, ...]) -> None:
    first = 0
    for decays, length in enumerate(lengths):
        for step in (first, first + length - 1):
            assert learning_rate(step, PEAK, "step", total_steps, 0) == pytest.approx(PEAK * 0.1**decays)
        first += length
    assert first == total_steps


def test_cosine_falls_from_the_peak_to_zero() -> None:
    def at(step: int) -> float:
        return learning_rate(step, PEAK, "cosine", 1100, 100)

    expected = {100: 1, 100 + 250: 0.8535533905932737, 600: 0.5, 100 + 750: 0.14644660940672627, 1100: 0}
    for step, share in expected.items():
        assert at(step) == pytest.approx(PEAK * share, abs=1e-12)
    assert all(at(step) > at(step + 1) for step in range(100, 1100))


def test_a_run_of_warmup_alone_has_a_learning_rate() -> None:
    assert learning_rate(10, PEAK, "cosine", 10, 10) == PEAK


@pytest.mark.parametrize("schedule", KINDS)
def test_a_run_of_one_step_is_at_the_peak(schedule: str) -> None:
    assert learning_rate(0, PEAK, schedule, total_steps=1, warmup_steps=0) == PEAK


@pytest.mark.parametrize("total_steps", [2, 3, 5])
def test_a_short_run_begins_at_the_peak_and_never_rises(total_steps: int) -> None:
    rates = [learning_rate(step, PEAK, "step", total_steps, 0) for step in range(total_steps)]
    assert rates[0] == PEAK
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("batch", "lr"), [(256, 0.03), (4096, 0.48), (128, 0.015)])
def test_learning_rate_is_per_256_images(batch: int, lr: float) -> None:
    assert rescaled(0.03, batch) == pytest.approx(lr)


def config_of(schedule: ScheduleConfig, batch: int = 1024) -> Config:
    return Config(global_batch_size=batch, data=DataConfig(sets=("any",)), schedule=schedule)


# CheXpert's train.csv has 223,414 rows: 218.2 steps of 1,024 an epoch.
def test_warm_up_in_epochs_becomes_steps() -> None:
    config = config_of(ScheduleConfig("step", epochs=90, warmup_epochs=15, warmup_steps=0))
    assert (num_steps(config, 223_414), num_warmup_steps(config, 223_414)) == (19_636, 3273)
    rate = make_schedule(config, 19_636, 223_414, 223_414)
    assert [rate(step) for step in (0, 3273, 6544, 6545)] == pytest.approx([0, 0.12, 0.12, 0.012])
    assert num_warmup_steps(config_of(ScheduleConfig(warmup_steps=7)), 223_414) == 7
    assert num_warmup_steps(config_of(ScheduleConfig(warmup_epochs=0, warmup_steps=0)), 223_414) == 0


@given(st.sampled_from(KINDS), st.integers(1, 3000), st.integers(0, 3000))
def test_what_is_not_late_reaches_the_peak_and_decays(kind: str, total_steps: int, warmup_steps: int) -> None:
    schedule = ScheduleConfig(kind, epochs=None, steps=total_steps, warmup_steps=warmup_steps)
    rate = make_schedule(config_of(schedule), total_steps, 1000, 1000)
    rates = [rate(step) for step in range(total_steps)]
    peak = rescaled(0.03, 1024)
    is_late = late_warmup(schedule, total_steps, warmup_steps) is not None
    assert is_late == (max(rates) < peak)
    if not is_late and total_steps > warmup_steps + 1 and total_steps > 1:
        assert rates[-1] < peak


@given(st.sampled_from(KINDS), st.integers(1, 10**6), st.sampled_from([None, 15]))
def test_the_shorter_warm_up_is_never_late(kind: str, total_steps: int, warmup_epochs: float | None) -> None:
    schedule = ScheduleConfig(kind, warmup_epochs=warmup_epochs, warmup_steps=0 if warmup_epochs else 5000)
    *_, steps = shorter_warmup(schedule, total_steps).split()
    assert late_warmup(ScheduleConfig(kind), total_steps, int(steps)) is None


def test_the_rule_of_bit_has_a_warm_up_of_its_own() -> None:
    schedule = ScheduleConfig("hyperrule", epochs=None, steps=10)
    assert late_warmup(schedule, 10, 5000) is None


@pytest.mark.parametrize(("settings", "flag"), [(ScheduleConfig, "--kind"), (Settings, "--schedule.kind")])
def test_help_says_what_each_kind_is(settings: type, flag: str) -> None:
    (text,) = [action.help or "" for action in flag_parser(settings)._actions if flag in action.option_strings]
    assert [kind for kind in get_args(ScheduleKind) if f"{kind}: " not in text] == []
