"""Names are split into sources and models, and sources are ordered by their data."""

import pytest

from data_pipelines.datasets.registry import PRETRAINING_SETS, TARGET_SETS
from trainer.reporting.names import (
    DOMAIN_OF_TARGET,
    NATURAL,
    OTHER,
    SET_TITLE,
    TARGET_TITLE,
    XRAY,
    domain,
    is_smaller,
    listed,
    model_order,
    sets_in,
    shots_order,
    source_title,
    split_source,
)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("chexpert_mimic_nih_bit50x1", ("chexpert_mimic_nih", "r50x1")),
        ("imagenet21k_bit152x4", ("imagenet21k", "r152x4")),
        ("imagenet1k_r50x1", ("imagenet1k", "r50x1")),
        ("embedded-r14x0.5", ("embedded", "r14x0.5")),
        ("embedded", ("embedded", None)),
        ("r50x1", ("r50x1", None)),
        ("mine_r50x1_again", ("mine_r50x1_again", None)),
    ],
)
def test_source_and_model_of_a_name(name: str, parts: tuple[str, str | None]) -> None:
    assert split_source(name) == parts


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("chexpert_mimic_nih_padchest", ("chexpert", "mimic_cxr", "nih_cxr14", "padchest")),
        ("chexpert+mimic_cxr+nih_cxr14", ("chexpert", "mimic_cxr", "nih_cxr14")),
        ("imagenet21k", ("imagenet21k",)),
        ("imagenet21", ()),
        ("chexpert_mine", ()),
        ("nihilism", ()),
        ("", ()),
    ],
)
def test_sets_of_a_name(name: str, sets: tuple[str, ...]) -> None:
    assert sets_in(name) == sets


def test_titles_omit_the_model_only_where_it_is_the_runs_own() -> None:
    assert source_title("imagenet21k_r50x1", "r50x1") == "ImageNet-21k"
    assert source_title("chexpert_mimic", "r50x1") == "CheXpert+MIMIC"
    assert source_title("mine_r50x1", "r50x1") == "mine"
    assert source_title("mine_r50x1", "r101x3") == "mine_r50x1"
    assert source_title("scratch", "r50x1") == "scratch"


def test_a_source_is_smaller_if_it_is_part_of_the_other() -> None:
    assert is_smaller(["imagenet1k"], ["imagenet21k"])
    assert not is_smaller(["imagenet21k"], ["imagenet1k"])
    assert is_smaller(["chexpert", "mimic_cxr"], ["mimic_cxr", "padchest", "chexpert"])
    assert not is_smaller(["chexpert"], ["chexpert"])
    assert not is_smaller(["chexpert", "padchest"], ["chexpert", "mimic_cxr"])
    assert not is_smaller([], ["chexpert"])
    assert not is_smaller(["imagenet1k"], ["chexpert"])


def test_every_set_has_a_title_and_a_domain() -> None:
    untitled = [*(PRETRAINING_SETS.keys() - SET_TITLE.keys()), *(TARGET_SETS.keys() - TARGET_TITLE.keys())]
    assert untitled == [], "add them to SET_TITLE or TARGET_TITLE of trainer/reporting/names.py"
    assert TARGET_SETS.keys() - DOMAIN_OF_TARGET.keys() == set(), "add them to DOMAIN_OF_TARGET there"
    without = [name for name in PRETRAINING_SETS if domain([name]) == OTHER]
    assert without == [], "domain() of trainer/reporting/names.py says what they show"


def test_domains_and_orders() -> None:
    assert [domain(sets) for sets in (["imagenet1k"], ["nih_cxr14"], ["imagenet1k", "nih_cxr14"], [], ["mine"])] == [
        NATURAL,
        XRAY,
        OTHER,
        OTHER,
        OTHER,
    ]
    assert sorted(["r152x4", "mine", "r50x3", "r14x0.5", "r50x1"], key=model_order) == [
        "r14x0.5",
        "r50x1",
        "r50x3",
        "r152x4",
        "mine",
    ]
    assert shots_order(["100", "full", "5", "5", "10"]) == ["5", "10", "100", "full"]
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
