"""Small prepared sets, shared by the tests that train."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipelines.datasets.phantom import phantom
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared multi-label set of 90 phantoms of 32 pixels; about a fifth of the labels are withheld."""
    folder = tmp_path_factory.mktemp("phantoms") / "phantom"
    prepare(phantom(images=90, size=32), Output(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def freed_memory_of_the_tests() -> Iterator[None]:
    """Goes back to the system: what the engine of one test has freed is not kept through all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.engines.replica.keep_freed_memory", lambda: None)
        yield
