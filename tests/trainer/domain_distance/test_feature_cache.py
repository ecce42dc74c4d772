"""Features are computed once, and again where what was kept is damaged."""

from pathlib import Path

import numpy as np
import pytest

from trainer.domain_distance.feature_cache import cached, feature_folder
from trainer.domain_distance.moments import Features

FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refuse() -> Features:
    raise AssertionError("computed although it was kept")


def test_features_are_computed_once_for_a_key() -> None:
    assert cached("key", lambda: FEATURES) is FEATURES
    np.testing.assert_array_equal(cached("key", refuse), FEATURES)
    assert [path.name for path in feature_folder().iterdir()] == ["key.features"]
    np.testing.assert_array_equal(cached("other", lambda: FEATURES + 1), FEATURES + 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: old[:-1],
        lambda old: old[:-1] + bytes([old[-1] ^ 1]),
        lambda _: b"",
        lambda old: old[:40],
        lambda old: old[:32] + b"no array of numbers",
    ],
    ids=["cut", "one bit", "empty", "header cut", "other content"],
)
def test_damaged_features_are_computed_again(damage: object, capsys: pytest.CaptureFixture[str]) -> None:
    cached("key", lambda: FEATURES)
    path = feature_folder() / "key.features"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    np.testing.assert_array_equal(cached("key", lambda: FEATURES), FEATURES)
    assert f"note: {path} is damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(cached("key", refuse), FEATURES)


def test_a_place_that_cannot_be_written_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    feature_folder().parent.mkdir(parents=True, exist_ok=True)
    feature_folder().write_text("a file where the folder would be")
    assert cached("key", lambda: FEATURES) is FEATURES
    assert "note: features are not kept" in capsys.readouterr().err
