"""Names of classes and sets that are joined: near misses, many of them, and the same name twice."""

from collections.abc import Callable

import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.shards.concat import concat, near_misses
from data_pipelines.shards.index import Index


@pytest.mark.parametrize(
    ("classes", "named", "not_named"),
    [
        (
            [("Effusion", "Mass"), ("Pleural Effusion",)],
            ["'Effusion' and 'Pleural Effusion'"],
            ["Mass"],
        ),
        ([("pneumonia",), ("PNEUMONIA", "PNEUMONIAS")], ["'pneumonia' and 'PNEUMONIA'"], ["'PNEUMONIA' and"]),
        (
            [("Pleural Effusion", "Pleural Thickening"), ("Pleural_Thickening", "Pleural Other")],
            ["'Pleural Thickening' and 'Pleural_Thickening'"],
            ["'Pleural Effusion' and 'Pleural Thickening'", "'Pleural_Thickening' and 'Pleural Other'"],
        ),
    ],
)
def test_names_that_may_mean_the_same_are_shown(
    classes: list[tuple[str, ...]], named: list[str], not_named: list[str], load: Callable[..., Index]
) -> None:
    findings = [load([[1] * len(names)], names) for names in classes]
    with pytest.raises(InputError, match="no finding in common; these may mean the same and need the same name") as no:
        concat(findings)
    assert all(pair in str(no.value) for pair in named)
    assert not any(pair in str(no.value) for pair in not_named)
    animals = [load([0], names) for names in classes]
    with pytest.raises(InputError, match=r"only if they have the same classes; .* may mean the same") as no:
        concat(animals)
    assert all(pair in str(no.value) for pair in named)


def test_near_misses_of_sets_that_can_be_joined(load: Callable[..., Index]) -> None:
    named = [
        ("Mass", "Effusion", "Lung Opacity"),
        ("Mass", "effusion", "Lung opacities"),
        ("Mass", "Effusion", "Hernia"),
    ]
    sets = [load([[1, 0, 1]], names) for names in named]
    assert near_misses(sets) == ["'Effusion' and 'effusion'", "'Lung Opacity' and 'Lung opacities'"]
    assert near_misses(sets[:1]) == near_misses([sets[0], sets[0]]) == []
    assert near_misses([sets[0], sets[2]]) == []


def test_messages_about_many_names_stay_short(load: Callable[..., Index]) -> None:
    many = load([[0.0] * 400], [f"finding {number:03d}" for number in range(400)])
    fewer = load([[0.0] * 300], [f"Finding {number:03d}." for number in range(300)])
    for indexes in ([many, fewer], [many, load([[0]], ("zygote",))]):
        with pytest.raises(InputError, match="no finding in common") as no:
            concat(indexes)
        assert 60 < len(str(no.value)) < 800


def test_sets_of_one_name_are_told_apart(load: Callable[..., Index]) -> None:
    joined = concat([load([0, 1, 1], ("cat", "dog")), load([0, 1, 0, 0, 1, 0], ("cat", "dog"))])
    assert joined.origins == ("small", "small (2)")
    weights = joined.weights("set")
    assert weights is not None
    assert weights.tolist() == [1.5] * 3 + [0.75] * 6
