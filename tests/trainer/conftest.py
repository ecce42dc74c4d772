"""Small prepared sets, shared by the tests that train."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_commands import MAINS, Run

from data_pipelines.datasets.phantom import phantom
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared multi-label set of 90 phantoms of 32 pixels; about a fifth of the labels are withheld."""
    folder = tmp_path_factory.mktemp("phantoms") / "phantom"
    prepare(phantom(images=90, size=32), Output(folder))
    return folder


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs a `main` in this process, by its name and arguments: exit code, standard output, error."""

    def run(main: Callable[[], None], name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        output = capfd.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture(scope="session", autouse=True)
def freed_memory_of_the_tests() -> Iterator[None]:
    """Goes back to the system: what the engine of one test has freed is not kept through all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.engines.replica.keep_freed_memory", lambda: None)
        yield


@pytest.fixture
def command(run_main: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A function that runs an entry point in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITSCALE_DATA", raising=False)
    return lambda name, *arguments: run_main(MAINS[name], name, *arguments)
