"""Parts of a set, prepared in any order, give the set; a missing one is done, another number of them refused."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, permutations
from pathlib import Path

import pytest
from made_sets import MakeSet, Reads, StopAt, samples_of, stored_in

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawImage, Repeatable
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare

pytestmark = pytest.mark.usefixtures("three_images_to_a_shard")


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_parts_in_any_order_give_the_same_samples(
    make_set: MakeSet, tmp_path: Path, reads: Reads, order: tuple[int, ...]
) -> None:
    raw = make_set(range(20), num_val=2)
    prepare(raw, Output(tmp_path / "at once"))
    for part in order:
        reads.clear()
        assert prepare(raw, Output(tmp_path / "out", part=(part, 3))) is None
        assert sorted(reads) == sorted(image.key for image in islice(raw.images, part, None, 3))
        assert not (tmp_path / "out").exists()
    reads.clear()
    manifest = prepare(raw, Output(tmp_path / "out"))
    assert manifest
    assert not reads
    for split in ("train", "val"):
        assert sorted(samples_of(tmp_path / "out", split)) == sorted(samples_of(tmp_path / "at once", split))
    names = [shard["file"] for shard in manifest["splits"]["train"]["shards"]]
    assert names == sorted(path.name for path in (tmp_path / "out" / "train").glob("*.tar"))
    assert {name[:4] for name in names} == {"000-", "001-", "002-"}
    assert sorted(stored_in(tmp_path / "out")) == sorted(stored_in(tmp_path / "at once"))


def test_without_a_part_what_is_missing_is_done(make_set: MakeSet, tmp_path: Path, reads: Reads) -> None:
    raw = make_set(range(11))
    prepare(raw, Output(tmp_path / "out", part=(1, 3)))
    reads.clear()
    prepare(raw, Output(tmp_path / "out"))
    assert sorted(reads) == [image.key for image in raw.images if int(image.key[:2]) % 3 != 1]
    assert len(samples_of(tmp_path / "out")) == 11


def test_another_number_of_parts_is_refused(make_set: MakeSet, tmp_path: Path, stop_at: StopAt) -> None:
    raw = make_set(range(6))
    prepare(raw, Output(tmp_path / "out", part=(1, 3)))
    with pytest.raises(InputError, match="interrupted preparation with other parts; go on with its command"):
        prepare(raw, Output(tmp_path / "out", part=(1, 4)))
    assert stop_at(raw, Output(tmp_path / "whole"), key="04-4")
    with pytest.raises(InputError, match="interrupted preparation with other parts"):
        prepare(raw, Output(tmp_path / "whole", part=(1, 3)))


def test_sets_can_bring_parts_of_their_own(make_set: MakeSet, tmp_path: Path) -> None:
    whole = make_set(range(10))

    def listed() -> Iterator[RawImage]:
        raise AssertionError("the whole listing is not needed for a part")

    def part(number: int, parts: int) -> Iterator[RawImage]:
        assert parts == 2
        yield from islice(whole.images, number * 5, number * 5 + 5)

    raw = replace(whole, images=Repeatable(listed), part=part)
    prepare(raw, Output(tmp_path / "out", part=(1, 2)))
    prepare(raw, Output(tmp_path / "out"))
    assert [key for key, *_ in samples_of(tmp_path / "out")] == [image.key for image in whole.images]
