"""BiT-HyperRule, with the edges of its published code."""

import pytest

from trainer.optim.hyperrule import hyperrule, hyperrule_lr, stretched

SMALL = (100, 200, 300, 400, 500)
MEDIUM = (500, 3000, 6000, 9000, 10_000)
LARGE = (500, 6000, 12_000, 18_000, 20_000)


@pytest.mark.parametrize(
    ("num_images", "schedule", "mixup_alpha"),
    [
        (1, SMALL, 0.0),
        (19_999, SMALL, 0.0),
        (20_000, MEDIUM, 0.1),
        (499_999, MEDIUM, 0.1),
        (500_000, LARGE, 0.1),
        (14_000_000, LARGE, 0.1),
    ],
)
def test_schedule_and_mixup_follow_the_number_of_images(
    num_images: int, schedule: tuple[int, ...], mixup_alpha: float
) -> None:
    rule = hyperrule(num_images, 32, 32)
    assert (rule.schedule, rule.mixup_alpha) == (schedule, mixup_alpha)


@pytest.mark.parametrize(
    ("height", "width", "resize", "size"),
    [
        (32, 32, 160, 128),
        (95, 96, 160, 128),
        (92, 100, 160, 128),
        (96, 96, 512, 480),
        (96, 97, 512, 480),
        (1024, 9, 512, 480),
    ],
)
def test_resolution_follows_the_area(height: int, width: int, resize: int, size: int) -> None:
    for rule in (hyperrule(1000, height, width), hyperrule(1000, width, height)):
        assert (rule.resize, rule.size) == (resize, size)


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.0),
        (1, 3e-5),
        (99, 2.97e-3),
        (100, 3e-3),
        (200, 3e-3),
        (201, 3e-4),
        (300, 3e-4),
        (301, 3e-5),
        (400, 3e-5),
        (401, 3e-6),
        (499, 3e-6),
    ],
)
def test_learning_rate(step: int, lr: float) -> None:
    assert hyperrule_lr(step, 3e-3, SMALL) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize("total_steps", range(1, 40))
def test_the_shortest_runs_reach_the_peak_too(total_steps: int) -> None:
    for rule in (SMALL, MEDIUM):
        rates = [hyperrule_lr(step, 1.0, stretched(rule, total_steps)) for step in range(total_steps)]
        assert max(rates) == 1


def test_schedules_stretch_in_proportion() -> None:
    assert stretched(SMALL, 100) == (20, 40, 60, 80, 100)
    assert stretched(MEDIUM, 10_000) == MEDIUM
    assert stretched(MEDIUM, 1000) == (50, 300, 600, 900, 1000)
