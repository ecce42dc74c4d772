"""Each test takes a device: "cpu" rehearses on any machine what "cuda" checks where there is a GPU."""

from pathlib import Path

import pytest
import torch

from data_pipelines.datasets.phantom import phantom
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param, 0) if request.param == "cuda" else torch.device("cpu")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared multi-label set of 90 phantoms of 32 pixels."""
    folder = tmp_path_factory.mktemp("phantoms") / "phantom"
    prepare(phantom(images=90, size=32), Output(folder))
    return folder
