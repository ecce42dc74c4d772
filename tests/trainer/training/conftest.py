"""Small sets and runs."""

from pathlib import Path

import numpy as np
import pytest
from saved_runs import trained
from tiny_sets import tiny_set

from trainer.training import saver as saving


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 18 images, one is a cat, five are dogs and twelve are eels."""
    return tiny_set(tmp_path_factory.mktemp("sets") / "skewed", [0] + [1] * 5 + [2] * 12, ("cat", "dog", "eel"))


@pytest.fixture(scope="module")
def lungs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sets of two and six X-rays with two findings in common."""
    root = tmp_path_factory.mktemp("sets")
    one = tiny_set(root / "one", [[1, 0, np.nan], [0, 1, 1]], ("mass", "edema", "hernia"), name="one")
    other = tiny_set(root / "other", [[1, 0, np.nan]] * 6, ("edema", "nodule", "mass"), name="other")
    return [one, other]


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "LAST_PAUSES_S", (0.0, 0.0))


@pytest.fixture(scope="session")
def undisturbed(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    trained(phantoms, folder)
    return folder
