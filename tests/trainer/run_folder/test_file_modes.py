"""Who may read what the program leaves is for the umask to decide; only what hides patients is for its owner alone."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_results import transfer_result, write_results
from tiny_runs import prepare_films, train_tiny, write_films

from data_pipelines.preparation.pseudonymize import SALT_VARIABLE
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.evaluation.exporting.export_graph import export_graph
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.kernels import native
from trainer.models.export_weights import Export, export
from trainer.reporting.report_runs import Report, write_report

SECRET = 0o600


@pytest.fixture
def umask() -> Iterator[int]:
    """One that is no default, so that a fixed mode is found as well as a private one."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


@pytest.mark.slow
def test_the_umask_decides_who_may_read_what(umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films = write_films(tmp_path / "raw", 12)
    out = tmp_path / "out"
    monkeypatch.setenv(SALT_VARIABLE, str(out / "salt"))
    out.mkdir()
    run = train_tiny(prepare_films(films, out / "set"), out / "run")
    evaluate_run(Evaluate(run, device="cpu", resamples=100))
    predict_images(Predict(run, (films / "000.dcm",), out / "predictions.csv", device="cpu"))
    export(Export(str(run), out / "timm"))
    export(Export(str(run), out / "npz", format="npz"))
    export_graph(Export(str(run), out / "onnx", format="onnx"))
    results = write_results(tmp_path / "results", [transfer_result("x", "5", seed, 0.5) for seed in range(2)])
    write_report(Report((results,), out / "report"))
    found = modes(out)
    secrets = {name for name in found if name in ("salt", "set.keymap.csv")}
    assert {found[name] for name in secrets} == {SECRET}
    assert len(secrets) == 2
    assert len(found) > 40
    wrong = {
        name: oct(mode) for name, mode in found.items() if name not in secrets and mode & 0o666 != (0o666 & ~umask)
    }
    assert wrong == {}


def test_others_may_load_the_kernels(umask: int, tmp_path: Path) -> None:
    compiler = [sys.executable, "-c", "import sys; open(sys.argv[-1], 'wb').close()"]
    native._compile(compiler, tmp_path / "cpu.so")
    assert modes(tmp_path) == {"cpu.so": 0o666 & ~umask}
