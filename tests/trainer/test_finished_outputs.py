"""What is finished is replaced only with --force; a table of predictions goes on with a folder that grew."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import seeds, write_results
from tiny_pictures import ABOUT, picture
from tiny_weights import save_run, tensors_of

from data_pipelines import inspect
from trainer import predict, report
from trainer.evaluation.predicting.kept_outputs import SUFFIX
from trainer.evaluation.predicting.prediction_table import NOVELTY, OF_SET

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two."""
    for seed in range(2):
        picture(tmp_path / "photos" / f"{seed}.png", seed)
    return tmp_path / "photos"


@pytest.fixture
def predicting(tmp_path: Path, photos: Path, run_main: Run) -> Run:
    """A function that predicts the folder with a run; exit code, output and error."""
    save_run(tmp_path / "run", tensors_of(), **ABOUT)

    def run(*options: str, source: Path = photos) -> tuple[int, str, str]:
        words = [tmp_path / "run", source, "--out", tmp_path / "out.csv", "--device", "cpu", "--threads", "1"]
        return run_main(predict.main, "predict", *words, *options)

    return run


def files_in(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["file"] for row in csv.DictReader(file)]


def test_predict_goes_on_with_a_folder_that_grew(predicting: Run, photos: Path, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    picture(photos / "2.png", 2)
    code, _, error = predicting()
    assert code == 0, error
    assert f"note: replaced the earlier {tmp_path / 'out.csv'}" in error
    assert files_in(tmp_path / "out.csv") == ["0.png", "1.png", "2.png"]


def test_predict_goes_on_with_a_table_of_an_earlier_version(predicting: Run, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    later = {"cat threshold", "dog threshold", "fish threshold", *NOVELTY, *OF_SET}
    kept = [place for place, name in enumerate(header) if name not in later]
    assert len(kept) == len(header) - 8
    with (tmp_path / "out.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row[place] for place in kept] for row in (header, *rows))
    code, _, error = predicting()
    assert code == 0, error
    assert "cat threshold" in (tmp_path / "out.csv").read_text(encoding="utf-8")


def test_predict_keeps_what_is_of_other_images(predicting: Run, photos: Path, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    (tmp_path / f"out.csv{SUFFIX}").unlink()  # as earlier versions left it
    (photos / "0.png").unlink()
    code, _, error = predicting()
    assert (code, "has predictions of images that are not in" in error, "--force" in error) == (2, True, True)
    assert files_in(tmp_path / "out.csv") == ["0.png", "1.png"]
    assert predicting("--force")[0] == 0
    assert files_in(tmp_path / "out.csv") == ["1.png"]


@pytest.mark.parametrize("of_an_earlier_version", [False, True])
def test_predict_keeps_what_is_of_another_run(predicting: Run, tmp_path: Path, of_an_earlier_version: bool) -> None:
    assert predicting()[0] == 0
    if of_an_earlier_version:
        (tmp_path / f"out.csv{SUFFIX}").unlink()
    before = (tmp_path / "out.csv").read_bytes()
    shutil.rmtree(tmp_path / "run")
    other = {name: tensor + 0.5 for name, tensor in tensors_of().items()}
    save_run(tmp_path / "run", other, **ABOUT)
    for _ in range(2):  # nor by what the first attempt has computed
        code, _, error = predicting()
        assert (code, "it is of another run; replace it with --force" in error) == (2, True)
        assert "note: replace" not in error
        assert (tmp_path / "out.csv").read_bytes() == before


@pytest.mark.parametrize("content", [b"years\xffof work", b"", b"\n\n", b"\nfile,error\n"])
def test_predict_keeps_a_file_that_is_no_table(predicting: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.csv").write_bytes(content)
    code, _, error = predicting()
    assert (code, "is not a table of this run's predictions" in error) == (2, True), error
    assert (tmp_path / "out.csv").read_bytes() == content


def test_predict_keeps_a_table_whose_logits_are_no_numbers(predicting: Run, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    (tmp_path / f"out.csv{SUFFIX}").unlink()  # so that the table is compared
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    rows[1][header.index("dog logit")] = "1,5"
    with (tmp_path / "out.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    before = (tmp_path / "out.csv").read_bytes()
    code, _, error = predicting()
    assert (code, "has logits of 1.png that are no numbers; replace it with --force" in error) == (2, True), error
    assert (tmp_path / "out.csv").read_bytes() == before


def test_an_old_flag_is_noted(predicting: Run) -> None:
    code, _, error = predicting("--batch-size", "1")
    assert (code, error.count("note: --batch-size is now --eval-batch-size")) == (0, 1)


@pytest.mark.parametrize(
    ("main", "words", "finished"),
    [
        (report.main, ("report", "runs"), "report/report.md"),
        (inspect.main, ("inspect", "fashion_mnist", "--images", "1", "--loader", "torch", "--size", "32"), "page.png"),
    ],
)
def test_other_outputs_are_replaced_by_force(
    main: Callable[[], None],
    words: tuple[str, ...],
    finished: str,
    tmp_path: Path,
    run_main: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "runs", seeds("mine", (0.5, 0.6)))
    (tmp_path / finished).parent.mkdir(exist_ok=True)
    (tmp_path / finished).write_text("of yesterday")
    code, _, error = run_main(main, *words)
    assert (code, f"{finished} exists; replace it with --force, or choose another --out" in error) == (2, True)
    assert (tmp_path / finished).read_bytes() == b"of yesterday"
    assert run_main(main, *words, "--force")[0] == 0
    assert (tmp_path / finished).read_bytes() != b"of yesterday"
