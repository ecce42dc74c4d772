"""`import bitscale`: what its functions return, and that they agree with the commands."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bitscale
from data_pipelines.common.errors import InputError
from data_pipelines.loading.sampler import BatchSampler
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.training.run import LaunchOptions, run

PICTURES = [np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8) for seed in range(3)]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on some of the embedded clothes."""
    config = Config(
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=("fashion_mnist",), image_size=32, resize=32, classes=("Bag", "Coat"), images=100),
        model=ModelConfig(name="r14x0.5"),
        optim=OptimConfig(base_lr=0.1),
        schedule=ScheduleConfig(kind="cosine", epochs=None, steps=2, warmup_steps=1),
        runtime=RuntimeConfig(device="cpu", threads=1),
    )
    folder = tmp_path_factory.mktemp("api") / "run"
    engine = ENGINES["ddp"](config.runtime, config.precision)
    run(config, LaunchOptions(folder), engine, {"kind": "pretrain"})
    return folder


@pytest.mark.slow
def test_arrays_are_predicted_as_their_files_are(run_dir: Path, tmp_path: Path) -> None:
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    classifier = bitscale.open_classifier(run_dir, device="cpu", threads=1)
    found = classifier.predict(PICTURES)
    assert found.logits.dtype == np.float32
    assert found.logits.shape == (3, 2)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert list(found.predicted) == [found.classes[best] for best in found.logits.argmax(axis=1)]
    by_path = classifier.predict([tmp_path / f"{number}.png" for number in range(3)])
    np.testing.assert_array_equal(by_path.logits, found.logits)
    assert found.to_frame().index.tolist() == ["0", "1", "2"]
    frame = by_path.to_frame()
    assert frame.index.tolist() == [str(tmp_path / f"{number}.png") for number in range(3)]
    assert frame["predicted"].tolist() == list(found.predicted)
    np.testing.assert_array_equal(frame[list(found.classes)], found.probabilities)
    predict_images(Predict(run_dir, (tmp_path,), tmp_path / "out.csv", device="cpu", threads=1))
    rows = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [row.split(",")[3] for row in rows] == list(found.predicted)


@pytest.mark.slow
def test_sets_and_novelty_are_those_of_the_table(run_dir: Path, tmp_path: Path) -> None:
    for number, picture in enumerate([*PICTURES, np.full((28, 28), 3, dtype=np.uint8)]):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.glob("*.png"))
    predict_images(Predict(run_dir, (tmp_path,), tmp_path / "out.csv", device="cpu", threads=1, coverage=0.8))
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classifier = bitscale.open_classifier(run_dir, device="cpu", threads=1, coverage=0.8)
    found = classifier.predict(paths)
    assert (classifier.coverage, classifier.no_sets, classifier.no_novelty) == (0.8, {}, "")
    assert ["; ".join(each) for each in found.sets or ()] == [row["set"] for row in rows]
    assert found.novelty is not None
    assert (found.novelty.dtype, found.novelty.shape) == (np.float32, (4,))
    np.testing.assert_allclose(found.novelty, [float(row["novelty"]) for row in rows], rtol=1e-3)
    assert found.unlike is not None
    assert ["; ".join(each) for each in found.unlike] == [row["unlike in"] for row in rows]
    frame = found.to_frame()
    for title in ("predicted", "unlike training", "unlike in", "set", "set size"):
        assert frame[title].astype(str).tolist() == [row[title] for row in rows], title
    assert len(classifier.predict([]).to_frame()) == 0


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((4, 4, 3)), r"image 1 .* float64 \[4, 4, 3\]"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"uint8 \[3, 8, 8\]; arrays are uint8 \[H, W, 3\]"),
        ("absent.png", "image 1 cannot be read: .*absent.png"),
        (Path(__file__), "image 1, .*test_python_api.py, cannot be read"),
    ],
)
def test_what_is_no_image_is_refused_by_its_place(run_dir: Path, image: object, reason: str) -> None:
    classifier = bitscale.open_classifier(run_dir, device="cpu", threads=1)
    with pytest.raises(InputError, match=reason):
        classifier.predict([PICTURES[0], image])  # type: ignore[list-item]


def test_a_classifier_of_an_unfinished_run_is_warned_of(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bitscale.open_classifier(run_dir, device="cpu", threads=1)
    assert "warning" not in capsys.readouterr().err
    stopped = shutil.copytree(run_dir, tmp_path / "stopped")
    (stopped / "result.json").unlink()
    (stopped / "status.json").write_text('{"state": "resumable", "step": 1, "total_steps": 2}')
    bitscale.open_classifier(stopped, device="cpu", threads=1)
    assert "stopped is not finished (step 1 of 2): thresholds are 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "image",
    ["a.jpg", b"\xff\xd8", Path("a.jpg"), PICTURES[0], Image.fromarray(PICTURES[0]), torch.zeros(3, 8, 8), None],
    ids=lambda image: type(image).__name__,
)
def test_one_image_in_place_of_a_list_is_refused(run_dir: Path, image: Any) -> None:
    classifier = bitscale.open_classifier(run_dir, device="cpu", threads=1)
    with pytest.raises(InputError, match="takes a list of images"):
        classifier.predict(image)


def test_a_wrong_coverage_is_named_as_it_was_given(run_dir: Path) -> None:
    with pytest.raises(InputError, match=r"^coverage is 2; it must be"):
        bitscale.open_classifier(run_dir, coverage=2)


def test_a_list_of_one_and_an_array_of_several(run_dir: Path) -> None:
    classifier = bitscale.open_classifier(run_dir, device="cpu", threads=1)
    several = np.stack([PICTURES[0], PICTURES[0]])
    alone = classifier.predict([PICTURES[0]])
    assert (len(alone.predicted), alone.logits.shape) == (1, (1, 2))
    with pytest.raises(InputError, match=r"predict\(list\(images\)\)"):
        classifier.predict(np.stack([several] * 3, axis=-1))  # type: ignore[arg-type]
    both = classifier.predict(iter(several))  # type: ignore[arg-type]
    np.testing.assert_array_equal(both.predicted, alone.predicted * 2)
    assert both.names == ("0", "1")
    assert classifier.predict([]).logits.shape == (0, 2)


def test_the_model_alone_gives_the_same_logits(run_dir: Path) -> None:
    model = bitscale.load_model(run_dir)
    images = torch.stack([torch.from_numpy(np.array(Image.fromarray(p).resize((32, 32)))) for p in PICTURES])
    with torch.no_grad():
        logits = model(images[:, None])
    assert logits.shape == (3, 2)
    assert not model.training
    with pytest.raises(InputError, match=r"takes uint8, 0 to 255, which it normalises, and was given torch\.float32"):
        model(images[:, None] / 255)


def test_batches_are_those_of_the_training_order() -> None:
    found = list(bitscale.batches("fashion_mnist", batch_size=8, image_size=32, seed=5, steps=3))
    again = list(bitscale.batches("fashion_mnist", batch_size=8, image_size=32, seed=5, steps=3))
    order = BatchSampler(9000, 8, seed=5)
    for step, (batch, same) in enumerate(zip(found, again, strict=True)):
        assert batch.images.shape == (8, 1, 32, 32)
        assert batch.images.dtype == torch.uint8
        assert torch.equal(batch.images, same.images)
        assert batch.samples.tolist() == order.request(step).samples.tolist()


def test_batches_without_an_end_go_on() -> None:
    stream = bitscale.batches("fashion_mnist", "val", batch_size=150, image_size=32, view="squash")
    assert len({tuple(next(stream).samples.tolist()) for _ in range(3)}) == 3


def test_results_are_a_table(run_dir: Path) -> None:
    (row,) = bitscale.read_results(run_dir).to_dict("records")
    assert (row["kind"], row["model"]) == ("pretrain", "r14x0.5")


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys, bitscale; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules); bitscale.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "module 'bitscale' has no attribute 'nothing'" in done.stderr
