"""The split of an image depends on its name alone, or on that of its patient, in every version."""

from data_pipelines.common.splits import hash_split


def test_splits_are_those_of_earlier_versions() -> None:
    """A set that is prepared again must not test on patients whom a run was trained on."""
    names = [
        "patient 1",
        "patient 2",
        "patient 3",
        "patient 4",
        "patient 5",
        "patient 6",
        "Zo\u00eb/7.dcm",
        "a\udcff.png",
    ]
    expected = ["train", "train", "train", "val", "train", "train", "val", "train"]
    assert [hash_split(name, 0.2, 0.2) for name in names] == expected
    assert [number for number in range(100) if hash_split(str(number), 0.05, 0.05) == "test"] == [39, 51, 55]


def test_another_fraction_for_val_leaves_test_as_it_is() -> None:
    names = [str(number) for number in range(500)]
    with_val = [hash_split(name, 0.3, 0.2) for name in names]
    without = [hash_split(name, 0.0, 0.2) for name in names]
    assert set(without) == {"train", "test"}
    assert [split == "test" for split in with_val] == [split == "test" for split in without]
