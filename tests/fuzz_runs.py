"""Parsers of what runs read and leave: weights, checkpoints, results, tables, run folders, profiles and plans."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fuzz_parser import Parser
from made_results import authors_row, transfer_result, write_authors, write_results
from tiny_weights import save_npz, save_paper, save_run, save_timm, tensors_of

from data_pipelines.common.errors import InputError
from launchers.job import read_plan, state
from launchers.profiles import UsageError, load_site
from trainer import checkpoint
from trainer.domain_distance.proximity_file import Distances, Pair, read_distances, write_distances
from trainer.evaluation.predicting.kept_outputs import Judged, KeptOutputs
from trainer.evaluation.statistics import predictions
from trainer.models.weights import describe_weights, load_weights
from trainer.reporting.analysis.claim_file import read_claims
from trainer.reporting.analysis.verdicts import judge
from trainer.reporting.collect import collect
from trainer.reporting.proximity_words import value_text
from trainer.run_files import CHECKPOINTS, LOCK
from trainer.run_folder.csv_log import CsvLog
from trainer.run_folder.lock_file import after, holder_of, this_start, to_bytes
from trainer.run_folder.run_lock import in_use
from trainer.run_folder.run_status import run_folders, run_status
from trainer.status import table


def _weights(path: Path) -> None:
    load_weights(str(path))
    describe_weights(str(path))


def _tensors() -> dict[str, Any]:
    return {name: tensor[:1] if tensor.ndim == 4 else tensor[:2] for name, tensor in tensors_of().items()}


def weights_npz(folder: Path) -> Parser:
    return Parser(folder, [save_npz(folder / "weights.npz", _tensors())], _weights, is_part=True)


def weights_pth_tar(folder: Path) -> Parser:
    return Parser(folder, [save_paper(folder / "model.pth.tar", _tensors())], _weights, is_part=True)


def weights_safetensors(folder: Path) -> Parser:
    return Parser(folder, [save_timm(folder / "model.safetensors", _tensors())], _weights, is_part=True)


def checkpoints(folder: Path) -> Parser:
    run = save_run(folder / "run", _tensors())
    files = sorted(path for path in (run / CHECKPOINTS).iterdir() if path.is_file())

    def read(_: Path) -> None:
        path = checkpoint.best_or_latest(run)
        checkpoint.describe(path)
        checkpoint.load(path)

    return Parser(folder, files, read)


def result_json(folder: Path) -> Parser:
    results = [transfer_result(source, "5", seed, 0.5 + seed / 10) for source in ("a", "b") for seed in (0, 1)]
    write_results(folder / "runs", results)
    return Parser(folder, sorted((folder / "runs").rglob("result.json")), lambda _: collect((folder / "runs",)))


def authors_csv(folder: Path) -> Parser:
    rows = [authors_row("imagenet1k_r50x1", "5", seed, 0.5 + seed / 10) for seed in (0, 1)]
    path = write_authors(folder / "authors.csv", rows)
    return Parser(folder, [path], lambda path: collect((path,)))


def proximity_json(folder: Path) -> Parser:
    pairs = [Pair("a", "b", "common", "kernel", 0.5, 0.25, 0.75), Pair("a", "b", "own", "knn", 0.5)]
    networks = [{"name": "a", "fingerprint": "f", "kind": "common"}]
    described = {"images": 5, "fingerprint": "g"}
    write_distances(Distances(networks, {"a": described}, {"b": described}, pairs), folder / "proximity.json")

    def read(path: Path) -> None:
        for pair in read_distances(path).pairs:
            assert value_text(pair)

    return Parser(folder, [folder / "proximity.json"], read)


def predictions_npz(folder: Path) -> Parser:
    arrays = {
        "classes": np.array(["a", "b"]),
        "test_keys": np.array(["x", "y", "z"]),
        "test_logits": np.zeros((3, 2), dtype=np.float32),
        "test_labels": np.array([[0, 1], [1, np.nan], [0, 0]], dtype=np.float32),
        "test_patients": np.array([0, 0, 1]),
        "test_fact_sex": np.array(["F", "M", ""]),
    }
    np.savez(folder / "predictions.npz", **arrays)

    def read(_: Path) -> None:
        predictions.saved_splits(folder)
        predictions.load_predictions(folder, "test")

    return Parser(folder, [folder / "predictions.npz"], read)


def kept_outputs(folder: Path) -> Parser:
    """What a damaged record still tells of a picture is what was written of it."""
    table, made_with = folder / "predictions.csv", {"weights": "x", "precision": "fp32"}
    judged = {
        "a.png": Judged(5, remark="grey", logits=[0.1, -2.5], novelty=[0.1, 0.2, 0.3]),
        "b\udce9.png": Judged(6, logits=[1.0, 1e-9]),
        "c.png": Judged(7, error="cannot be decoded", logits=[]),
    }
    states = {name: (number, 2, 3, 4) for number, name in enumerate(judged)}
    with KeptOutputs(table, made_with, [folder]) as kept:
        kept.add((name, states[name], one) for name, one in judged.items())
        kept.add_table()

    def read(_: Path) -> None:
        with KeptOutputs(table, made_with, [folder]) as kept:
            for name, one in judged.items():
                found = kept.of_name(name), kept.of_state(states[name]), kept.of_content(one.content)
                assert all(each in (None, one) for each in found), "outputs that nobody wrote"
                kept.add([(name, states[name], one)])
        with KeptOutputs(table, made_with, [folder]) as kept:
            assert all(kept.of_name(name) == one for name, one in judged.items()), "what was added is lost"

    return Parser(folder, [kept.path], read)


def site_profile(folder: Path) -> Parser:
    source = Path(__file__).resolve().parents[1] / "launchers" / "slurm" / "sites" / "generic.toml"
    shutil.copy(source, folder / "mine.toml")

    def read(path: Path) -> None:
        try:
            load_site(str(path))
        except UsageError as error:  # the launchers' own kind of message
            raise InputError(str(error)) from error

    return Parser(folder, [folder / "mine.toml"], read)


def claims_toml(folder: Path) -> Parser:
    (folder / "claims.toml").write_text(
        'title = "t"\n[source_images]\na = 5\nb = 7\n[[claim]]\nid = "c"\ntext = "A"\nmargin = 1.5\npaired = true\n'
        'cells = { source = ["a", "b"], model = "m", target = "t", shots = [1, "full"] }\ndirection = "equal"\n'
        'first = { source_size = "largest" }\nsecond = { source_size = "smallest" }\n'
    )
    runs = [
        {"source": source, "model": "m", "target": "t", "shots": shots, "seed": seed, "test": (seed + len(shots)) / 9}
        for source in "ab"
        for shots in ("1", "full")
        for seed in range(3)
    ]
    table = pd.DataFrame(runs).assign(metric="top1", not_a_number=False, overlap="", shares_images=False)

    def read(path: Path) -> None:
        assert all(judged.text for judged in judge(read_claims(path), table))

    return Parser(folder, [folder / "claims.toml"], read)


def plan_json(folder: Path) -> Parser:
    tasks = [{"name": f"t{i}", "command": ["python", "-c", "1"], "done": f"{i}.json", "nodes": 1} for i in range(3)]
    (folder / "plan.json").write_text(json.dumps({"name": "p", "tasks": tasks, "gpus_per_task": 1}))

    def read(path: Path) -> None:
        try:
            read_plan(path)
        except ValueError as error:
            if not str(error).startswith(str(path)):
                raise
            raise InputError(str(error)) from error

    return Parser(folder, [folder / "plan.json"], read)


def run_folder(folder: Path) -> Parser:
    """What `trainer.status`, `submit` and a resumed run read."""
    run = folder / "run"
    run.mkdir()
    status = {"state": "running", "step": 4, "total_steps": 9, "reason": "", "time": 1.0}
    beat = {"step": 5, "time": 1.0, "step_s": 0.5, "host": "h", "pid": 1, "folder": "/", "command": "python x"}
    for name, content in (("config", {}), ("status", status), ("heartbeat", beat)):
        (run / f"{name}.json").write_text(json.dumps(content))
    (run / "skipped_steps.csv").write_text("step,key\n1,a\n2,b\n")

    def read(_: Path) -> None:
        table([run_status(found, 900.0, 2.0) for found in run_folders(folder)])
        state(run, 0.0)
        CsvLog(run / "skipped_steps.csv", ("step", "key"), enabled=True).truncate(2)

    files = [run / "status.json", run / "heartbeat.json", run / "skipped_steps.csv"]
    return Parser(folder, files, read)


def lock_files(folder: Path) -> Parser:
    """What a start finds in the folder of a run that another one has."""
    run = folder / "run"
    run.mkdir()
    mine = this_start(run)
    holder = replace(mine, process=next(iter(mine.ancestors), mine.process))  # of another process that lives
    former = replace(holder, token="f0", host="h", machine="another")
    files = [run / LOCK, after(run, former)]
    for path, content in zip(files, (former, holder), strict=True):
        path.write_bytes(to_bytes(content))

    def read(_: Path) -> None:
        in_use(run, 900.0)
        found = holder_of(run)
        assert found is None or found.summary()

    return Parser(folder, files, read)


RUN_PARSERS: dict[str, Callable[[Path], Parser]] = {
    "weights .npz": weights_npz,
    "weights .pth.tar": weights_pth_tar,
    "weights safetensors": weights_safetensors,
    "checkpoint": checkpoints,
    "predictions.npz": predictions_npz,
    "kept outputs": kept_outputs,
    "result.json": result_json,
    "proximity.json": proximity_json,
    "authors' csv": authors_csv,
    "site profile": site_profile,
    "claims": claims_toml,
    "plan": plan_json,
    "run folder": run_folder,
    "lock": lock_files,
}
