"""Starts on several ranks that cannot work say so, on rank 0, in seconds."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_ranks import free_port, run_ranks

from data_pipelines.common.errors import InputError
from trainer.config import Config, DataConfig, ModelConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES, rendezvous
from trainer.run_files import CHECKPOINTS
from trainer.run_folder import describe_environment, write_environment, write_status
from trainer.training import preflight as preflight_module
from trainer.training.job import make_job
from trainer.training.preflight import preflight
from trainer.training.run import LaunchOptions, run

ROOT = Path(__file__).resolve().parents[3]
CPU = RuntimeConfig(device="cpu", threads=1, loader="torch", connect_timeout_s=20)


def config_of(data: str, lr_seed: int = 0, micro_batch_size: int | None = None) -> Config:
    return Config(
        seed=lr_seed,
        global_batch_size=16,
        precision="fp32",
        data=DataConfig(sets=(data,), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        schedule=ScheduleConfig("cosine", epochs=None, steps=1, warmup_steps=0),
        runtime=replace(CPU, micro_batch_size=micro_batch_size),
    )


def checks(data: str, run_dir: Path) -> dict[str, str]:
    """What this rank is told in a job that is well, and in jobs where rank 1 differs or the disk is full."""
    told = {"one GPU": refused_for_one_gpu()}
    engine: Any = ENGINES["ddp"](CPU, "fp32")

    def check(name: str, config: Config, **changed: Any) -> None:
        job = make_job(config, run_dir)
        environment = describe_environment(engine, "torch") | (changed if engine.rank == 1 else {})
        try:
            preflight(engine, job, config.to_dict(), environment)
            told[name] = ""
        except InputError as error:
            told[name] = str(error)

    check("well", config_of(data))
    check("seed", config_of(data, lr_seed=engine.rank))
    check("unequal work", config_of(data, micro_batch_size=3 + engine.rank))
    check("commit", config_of(data), commit="0123abc")
    check("versions", config_of(data), packages={"torch": "2.11.0", "bitscale": "0.1.0"})
    preflight_module.checkpoint_bytes = lambda *_: 1 << 60
    check("disk", config_of(data))
    engine.close()
    return told


def refused_for_one_gpu() -> str:
    """What a job is told in which each rank uses the same GPU."""
    facts = rendezvous._facts
    rendezvous._facts = lambda device: facts(device) | {"gpu": "GPU-1"}
    try:
        ENGINES["ddp"](CPU, "fp32")
    except InputError as error:
        return str(error)
    finally:
        rendezvous._facts = facts
    return ""


@pytest.mark.slow
def test_differences_are_named_on_rank_0_and_end_all(phantoms: Path, tmp_path: Path) -> None:
    first, second = run_ranks(2, checks, str(phantoms), tmp_path / "run")
    assert first["well"] == second["well"] == ""
    assert "config: " in first["seed"]
    assert "micro_batches: 2 on" in first["unequal work"]
    assert "3 on the others" in first["unequal work"]
    assert "(rank 1)" in first["commit"]
    assert "commit: 0123abc on" in first["commit"]
    assert "torch: 2.11.0 on" in first["versions"]
    assert "needs 2305843009.21 GB for 2 more checkpoints" in first["disk"]
    for told in (first, second):  # before NCCL would hang
        assert "ranks 0, 1 on" in told["one GPU"]
        assert "share the GPU GPU-1" in told["one GPU"]
    assert [second[name] for name in ("seed", "commit", "versions", "disk")] == [
        "pre-flight failed, see the message of rank 0"
    ] * 4


@pytest.mark.parametrize(
    ("kept", "best", "free_gb", "refused", "warned"),
    [
        (0, False, 1.9, "needs 2.00 GB for 2 more checkpoints", ""),  # the old one stays until the new one is whole
        (0, False, 4.9, "", "needs 5.00 GB for 5 more checkpoints"),  # three, the best one, and one being written
        (0, False, 5.0, "", ""),
        (3, True, 1.0, "", ""),  # all that it keeps is there
        (3, True, 0.9, "needs 1.00 GB for 1 more checkpoint", ""),
        (1, False, 3.9, "", "needs 4.00 GB for 4 more checkpoints"),
    ],
)
def test_room_is_needed_for_what_is_not_there_yet(
    kept: int, best: bool, free_gb: float, refused: str, warned: str, phantoms: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(preflight_module, "checkpoint_bytes", lambda *_: 10**9)
    job = make_job(config_of(str(phantoms)), tmp_path)
    assert job.config.runtime.keep_checkpoints == 3
    problems, warnings = preflight_module._room(job, int(free_gb * 1e9), kept, best)
    assert [refused in message for message in problems] == [True] * bool(refused)
    assert [warned in message for message in warnings] == [True] * bool(warned)


def test_what_a_killed_save_left_counts_as_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next save deletes it; without it a run on a full disk could not go on."""
    (tmp_path / CHECKPOINTS).mkdir()
    (tmp_path / CHECKPOINTS / ".step_00000005.safetensors.tmp").write_bytes(bytes(1000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=7))
    assert preflight_module._free_bytes(tmp_path) == 1007


def test_damaged_checkpoints_are_named_where_room_lacks(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = tmp_path / CHECKPOINTS / "step_00000005.safetensors.damaged"
    aside.parent.mkdir()
    aside.touch()
    monkeypatch.setattr(preflight_module, "checkpoint_bytes", lambda *_: 10**9)
    problems, _ = preflight_module._room(make_job(config_of(str(phantoms)), tmp_path), 0, 1, True)
    assert problems[0].endswith(f"; the damaged ones may be deleted: {aside}")


def test_a_node_of_another_commit_does_not_join_a_run(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a launcher of MIN:MAX nodes asks before its ranks meet the others, whom theirs would end."""
    run_dir, config = tmp_path / "run", config_of(str(phantoms))
    engine = ENGINES["ddp"](config.runtime, "fp32")
    environment = describe_environment(engine, "torch")
    run_dir.mkdir()
    write_environment(run_dir, environment | {"commit": "another"})

    def check() -> None:
        run(config, LaunchOptions(run_dir, preflight_only=True), engine, {"kind": "test"})

    monkeypatch.setattr("trainer.training.run.preflight", lambda *_: None)
    write_status(run_dir, 0, "running", 3, 9)
    check()  # a start of all nodes may well bring a new commit
    monkeypatch.setenv("BITSCALE_JOINS", "1")
    with pytest.raises(InputError, match=re.escape(f"commit: {environment['commit']} here, another there")):
        check()
    write_status(run_dir, 0, "resumable", 3, 9)
    check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "deepspeed", "zero_stage": 3}, "--zero-stage 3 parts the weights too"),
        ({"engine": "ddp", "zero_stage": 2}, "--engine ddp has no --zero-stage 2; it has 0, 1"),
        ({"engine": "horovod", "zero_stage": 1}, "--engine horovod has no --zero-stage 1"),
        ({"engine": "horovod", "gradient_compression": "bf16"}, "Horovod cannot add up bf16"),
        ({"engine": "ddp", "bucket_mb": 0}, "--bucket-mb 0 is for horovod"),
        ({"engine": "deepspeed", "zero_stage": 2, "micro_batch_size": "auto"}, "give --micro-batch-size as a number"),
        ({"engine": "dp"}, "engine is 'dp'; did you mean 'ddp'?"),
        ({"timeout_s": 0}, "--timeout-s is 0"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        RuntimeConfig(**options)


@pytest.mark.parametrize(
    ("engine", "message"),
    [("horovod", "build it for this torch with launchers/install_horovod.sh"), ("deepspeed", "pip install deepspeed")],
)
def test_an_engine_that_is_not_installed(engine: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    for name in [name for name in sys.modules if name.startswith(f"{engine}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=message):
        ENGINES[engine](RuntimeConfig(device="cpu", engine=engine, threads=1), "fp32")


def test_a_horovod_of_another_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "horovod" / "torch"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package.parent / "metadata.json").write_text(json.dumps({"pytorch": "1.0"}))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "horovod"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r"was built for torch 1\.0, this is"):
        ENGINES["horovod"](RuntimeConfig(device="cpu", engine="horovod", threads=1), "fp32")


@pytest.mark.slow
def test_preflight_only_as_srun_starts_it(tmp_path: Path) -> None:
    """Two tasks as srun would start them, without any other launcher."""
    shared = {
        "SLURM_JOB_ID": str(free_port()),  # which decides the port
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "localhost",
    }
    command = [sys.executable, ROOT / "trainer" / "pretrain.py", "--preflight-only", "--global-batch-size", "16"]
    command += ["--device", "cpu", "--out", tmp_path / "run"]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "SLURM_NODEID": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert "pre-flight: 2 ranks on 1 host, ddp, Gloo over lo, all-reduce" in outputs[0]
    assert outputs[1] == ""
    assert not (tmp_path / "run").exists()
