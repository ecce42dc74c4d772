"""Parsers that `tests.fuzz` tries with names: of folders, files, table cells, members of tars, classes and runs.

Their input is a file of names with a zero byte between each two, for that alone cannot be in the name of a file.
"""

import csv
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from fuzz_parser import Parser
from made_results import transfer_result, write_results

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.registry import DATASETS
from data_pipelines.image_files.png import encode_png
from data_pipelines.preparation.join_parts import set_summary
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index
from trainer.document.blocks import Paragraph, Title
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.evaluation.predicting.inputs import inputs_of
from trainer.reporting.collect import collect
from trainer.reporting.compose import ComposedReport, write
from trainer.reporting.tables import with_titles
from trainer.reporting.target_tables import few_shot_table
from trainer.run_files import CONFIG, PREDICTIONS, RESULT

NAMES = (
    *(b"cat", b"$5_$10", b"_no_legend", b"-rf", b"Katze \xfc", "\u732b".encode(), "Cafe\u0301".encode(), b"k" * 120),
    *(b"a|b,c;d\"e'f", b"line\nbreak\ttab", b"%s {0} \\n", b"<b>&amp;", b"[x](y) **z**", b"#1. `id` $(id)"),
)
_WHOLE = (
    *(b"nan", b"None", b"NULL", b"NA", b" ", b"train", b"VAL", b"testing", b".hidden", b"__MACOSX", b"@eaDir", b"CON"),
    *(
        b"1",
        b"1.0",
        b"01",
        b"Cat",
        b"cat ",
        b"\xfc",
        b"\xff\xfe",
        "Caf\u00e9".encode(),
        b"k" * 300,
        b"a.b",
        b"a_b",
        b"-",
    ),
)
WORDS = (
    *(b"\0%s\0" % name for name in _WHOLE),
    *(b"\0", b"/", b"..", b".", b"Thumbs.db", b"~", b"--out", b"*", b"\\", b"\xff", b"\xc3\x28", b"\xed\xa0\x80"),
    *(b"\x1b[31m", b"\r\n", b"\r", b"\x7f", b"\x85", "\u202e\u2028\ufeff".encode(), "\U0001f600".encode(), b"$", b"^{"),
    *(b"$(touch outside)", b"`id`", b'"', b",", b"=1+1", b".jpg", b".dcm", b".gif", b".tar", b".png.png", b"x" * 260),
    *(b"<script>alert(1)</script>", b"|", b"_", b"&", b"\\frac{", b"%"),
)
_MOST_NAMES, _MOST_BYTES = 16, 240  # of a name, which gets a suffix: file systems take 255
_MOST_SOURCES = 5
_NO_SPLITS = {"val_fraction": 0.0, "test_fraction": 0.0}
_STEERS_A_TERMINAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def decoded(name: bytes) -> str:
    """As a name on a disk is to be read under every locale."""
    return name.decode(errors="surrogateescape")


def parts_of(name: bytes) -> list[bytes]:
    """The folders and the file that can be made of a name."""
    found = [part[:_MOST_BYTES] for part in name.split(b"/")]
    return [part for part in found if part not in (b"", b".", b"..")][:3]


@cache
def picture(number: int) -> bytes:
    """One of some different small pictures, as a PNG file."""
    return encode_png(np.random.default_rng(number).integers(256, size=(8, 8), dtype=np.uint8))


def make_class_folders(root: Path, names: Sequence[bytes]) -> None:
    """For each name a class folder that is called so, with a picture, and a picture of that name in the class all."""
    for number, name in enumerate(names):
        parts = parts_of(name)
        for place in ([*parts, b"one.png"], [b"all", b"-".join(parts)[:_MOST_BYTES] + b".png"]) if parts else ():
            with suppress(OSError):  # a file that is to be a folder
                _put(root, b"/".join(place), picture(number))


def _put(root: Path, name: bytes, content: bytes) -> None:
    path = root / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _of_names(folder: Path, read: Callable[[list[bytes]], object], names: Sequence[bytes] = NAMES) -> Parser:
    path = folder / "names"
    path.write_bytes(b"\0".join(names))

    def read_names(path: Path) -> None:
        with redirect_stderr(io.StringIO()):
            read(path.read_bytes().split(b"\0")[:_MOST_NAMES])

    return Parser(folder, [path], read_names, words=WORDS)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def folder_names(folder: Path) -> Parser:
    """Class folders and files, prepared and predicted."""
    root = folder / "raw"

    def read(names: list[bytes]) -> None:
        make_class_folders(_emptied(root), names)
        predicted = _predicted(root)
        raw = DATASETS["image-folder"](root=root, **_NO_SPLITS)
        for image in raw.images:
            assert isinstance(image.image, Path)
            name = decoded(os.fsencode(image.image.relative_to(root)))
            assert name.split("/")[0] == raw.classes[image.label], "a picture of another class"
            assert predicted[name] == image.image.read_bytes(), "predict reads another file"
        _prepared(folder, raw)

    return _of_names(folder, read)


def table_names(folder: Path) -> Parser:
    """A table whose cells are names: of files, of classes and of patients."""
    root, table = folder / "raw", folder / "raw" / "table.csv"

    def read(names: list[bytes]) -> None:
        cells = [(b"/".join(parts_of(name)) + b".png", name) for name in names if parts_of(name)]
        _emptied(root)
        for number, (file, _) in enumerate(cells):
            with suppress(OSError):
                _put(root, file, picture(number))
        with table.open("w", newline="", encoding="utf-8", errors="surrogateescape") as out:
            rows = [(decoded(file), decoded(name), f"p {decoded(name)}") for file, name in cells]
            csv.writer(out).writerows([("path", "label", "patient"), *rows])
        read_table = partial(DATASETS["csv"], root=root, table=table, label_column="label", **_NO_SPLITS)
        read_table(patient_column="patient")
        raw = read_table()
        label_of = {picture(number): decoded(name).strip() for number, (_, name) in enumerate(cells)}
        for image in raw.images:
            assert label_of[image.read()] == raw.classes[image.label], "a file with the label of another"
        _prepared(folder, raw)
        _predicted(table)

    return _of_names(folder, read, [name for name in NAMES if b"\xfc" not in name])  # tables are UTF-8


def tar_names(folder: Path) -> Parser:
    """A tar whose members are called so, and whose labels are these names."""
    root = folder / "raw"
    root.mkdir()

    def read(names: list[bytes]) -> None:
        with tarfile.open(root / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for number, name in enumerate(names):
                for suffix, content in ((b".png", picture(number)), (b".cls", name)):
                    member = tarfile.TarInfo(decoded(name + suffix))
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        _predicted(root)
        _prepared(folder, DATASETS["webdataset"](root=root, **_NO_SPLITS))

    return _of_names(folder, read, [name for name in NAMES if b"." not in name])  # where the key of a sample ends


def _prepared(folder: Path, raw: RawSet) -> None:
    """Write the set; what is read from it must be what was listed."""
    out = folder / "out"
    for former in (out, folder / ".out.partial"):
        shutil.rmtree(former, ignore_errors=True)
    manifest = prepare(raw, Output(out, max_bad=1.0))
    assert manifest is not None
    assert set_summary(manifest, out)
    assert manifest["classes"] == list(raw.classes)
    index, listed = Index.load(out, "train"), list(raw.images)
    assert np.asarray(index.labels).tolist() == [image.label for image in listed], "an image with another label"
    assert index.keys(np.arange(len(index))) == [image.key for image in listed], "an image with another key"


def _predicted(source: Path) -> dict[str, bytes]:
    """The bytes of all that `predict` would read, by name."""
    found = {}
    for item in inputs_of(source).each:
        with suppress(OSError, ValueError):
            found[item.name] = item.read()
    return found


def reported_names(folder: Path) -> Parser:
    """Names of runs, targets and sources, in all that a report writes but its figures."""

    def read(names: list[bytes]) -> None:
        texts = _texts(names)
        results = [
            transfer_result(text, "5", seed, 0.5, target=texts[0]) for text in texts[:_MOST_SOURCES] for seed in (0, 1)
        ]
        runs = collect((write_results(_emptied(folder / "runs"), results),)).runs
        out = _emptied(folder / "report")
        write(
            ComposedReport([Title(texts[0], 1), *map(Paragraph, texts), few_shot_table(with_titles(runs))], ()),
            runs,
            out,
        )
        for path in out.iterdir():
            _require_harmless(path)

    return replace(_of_names(folder, read), is_slow=True)


def evaluated_names(folder: Path) -> Parser:
    """Names of classes, sets, facts and a run, in all that evaluate writes, with its figures."""

    def read(names: list[bytes]) -> None:
        texts = _texts(names)
        run = _emptied(folder / "run")
        of_image = np.array([texts[number % len(texts)] for number in range(4 * len(texts))])
        logits = np.random.default_rng(0).normal(size=(len(of_image), len(texts))).astype(np.float32)
        columns: dict[str, Any] = {"keys": np.strings.add("key ", of_image), "logits": logits, "fact_site": of_image}
        columns["labels"] = np.arange(len(of_image)) % len(texts)
        np.savez(run / PREDICTIONS, classes=np.array(texts), **{f"test_{name}": each for name, each in columns.items()})
        result = transfer_result(texts[1], "5", 0, 0.5, target=texts[0], run=texts[1])
        write_json(run / RESULT, result)
        write_json(run / CONFIG, {"name": texts[1], "data": {"sets": [texts[0]]}})
        with patch("tempfile.tempdir", str(folder)), patch("trainer.evaluation.evaluate_run.commit", return_value=None):
            evaluate_run(Evaluate(run, by="site", force=True, images=False, resamples=100, device="cpu", threads=1))
        for path in (path for path in run.rglob("*") if path.suffix in (".html", ".md")):
            _require_harmless(path)

    return replace(_of_names(folder, read), is_slow=True)


def _texts(names: Sequence[bytes]) -> list[str]:
    texts = list(dict.fromkeys(decoded(name) for name in names if name))
    if len(texts) < 2:
        raise InputError("a model has two classes or more")
    return texts


def _require_harmless(path: Path) -> None:
    text = path.read_bytes().decode()
    if path.suffix != ".csv":  # which has the names themselves
        assert not _STEERS_A_TERMINAL.search(text), f"a control character in {path.name}"
    assert path.suffix != ".html" or "<script" not in text, "a script on the page"


NAME_PARSERS: dict[str, Callable[[Path], Parser]] = {
    "folder names": folder_names,
    "table names": table_names,
    "tar names": tar_names,
    "reported names": reported_names,
    "evaluated names": evaluated_names,
}
