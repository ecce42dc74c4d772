"""What holds for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipelines.common import advice, cli
from data_pipelines.preparation.pseudonymize import SALT_VARIABLE

pytest_plugins = ["tests.suite"]
TELL = cli.tell


@pytest.fixture(scope="session", autouse=True)
def salt_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A salt of their own: nothing is written to the home of whoever runs them."""
    path = tmp_path_factory.mktemp("salt") / "salt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SALT_VARIABLE, str(path))
        yield path


@pytest.fixture(autouse=True)
def errors_told_by_each_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ran in this process, for a test or a fixture, does not decide how later errors are printed."""
    monkeypatch.setattr(cli, "tell", TELL)


@pytest.fixture(autouse=True)
def advice_of_pretrain() -> Iterator[None]:
    """What one test parses does not decide which flags the messages of the next one name."""
    advice.belong_to(None)
    yield
    advice.belong_to(None)
