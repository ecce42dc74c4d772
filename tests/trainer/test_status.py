"""The table of runs says of each what its folder allows to say."""

import json
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nasty_names import NAMES

from data_pipelines.common.printable import printable
from trainer import status
from trainer.run_files import LOCK
from trainer.run_folder import heartbeat_file, lock_file
from trainer.run_folder.metric_logger import MetricLogger
from trainer.run_folder.processes import Process, _process, machine
from trainer.run_folder.run_status import run_folders, run_status, write_status
from trainer.status import table

NOW = time.time()


def run_of(folder: Path, state: str | None, reason: str = "", age_s: float = 5.0, **beat: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if state is not None:
        content = {"state": state, "step": 40, "total_steps": 100, "reason": reason, "time": NOW - age_s}
        (folder / "status.json").write_text(json.dumps(content))
    if beat:
        known = {"step": 55, "time": NOW - age_s, "step_s": 2.0, "host": "elsewhere", "pid": 1, "folder": "/job"}
        (folder / "heartbeat.json").write_text(json.dumps(known | {"command": "python run"} | beat))
    return folder


@pytest.mark.parametrize(
    ("name", "state", "options", "expected"),
    [
        ("running", "running", {"step": 55}, ("running", 55, 90.0, "", None)),
        ("silent", "running", {"age_s": 1000.0, "step": 55}, ("stalled", 55, 90.0, "no sign", "cd /job && python run")),
        (
            "killed",
            "running",
            {"host": platform.node(), "pid": 2**22 + 1},
            ("resumable", 55, 90.0, "gone without a word", "cd /job && python run"),
        ),
        ("alive", "running", {"host": platform.node(), "pid": os.getpid()}, ("running", 55, 90.0, "", None)),
        ("stopped", "resumable", {"reason": "by SIGTERM", "step": 55}, ("resumable", 40, 120.0, "by SIGTERM", "cd")),
        ("failed", "failed", {"reason": "the loss", "step": 55}, ("failed", 40, 120.0, "the loss", "cd /job &&")),
        ("old", "running", {}, ("running", 40, None, "", None)),
        ("begun", None, {}, ("unknown", 0, None, "cannot be read", None)),
        (
            "odd",
            "ruined",
            {"step": "many", "time": "now", "pid": [], "step_s": "fast", "command": 7},
            ("unknown", 40, None, "", None),
        ),
    ],
)
def test_state_of_a_run(tmp_path: Path, name: str, state: str | None, options: dict, expected: tuple) -> None:
    found = run_status(run_of(tmp_path / name, state, **options), 900.0, NOW)
    kind, step, left_s, error, command = expected
    assert (found.state, found.step) == (kind, step)
    assert found.left_s == (None if left_s is None else pytest.approx(left_s))
    assert error in found.reason
    assert (found.command is None) if command is None else found.command.startswith(command)


def test_the_remedy_at_the_end_of_a_reason_is_shown(tmp_path: Path) -> None:
    reason = f"{'the loss of step 40 is not finite, ' * 5}lower the learning rate\nand more"
    lines = table([run_status(run_of(tmp_path / "run", "failed", reason=reason), 900.0, NOW)]).splitlines()
    lines = [line for line in lines[2:-1] if "resume with" not in line]
    assert all(line.startswith("    ") and len(line) <= 104 for line in lines)
    assert " ".join(line.strip() for line in lines).endswith("lower the learning rate (status.json has more)")


def test_finished_needs_its_result(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "finished")
    assert run_status(run, 900.0, NOW).state == "resumable"
    (run / "result.json").write_text("{}")
    found = run_status(run, 900.0, NOW)
    assert (found.state, found.left_s, found.command) == ("finished", None, None)


def test_progress_says_what_a_run_lacks_after_its_last_step(tmp_path: Path) -> None:
    def progress(step: int) -> str:
        write_status(tmp_path, 0, "resumable", step, 1200)
        return run_status(tmp_path, 900, time.time()).progress

    assert [progress(step) for step in (1100, 1200)] == [
        "step 1,100 of 1,200",
        "step 1,200 of 1,200, its evaluation is missing",
    ]


def test_runs_of_sweeps_are_found_and_links_are_not_followed(tmp_path: Path) -> None:
    names = [
        "pretrain",
        "pretrain/films/full-shot-seed-0",
        "transfer/source/digits/5-shot-seed-0",
        "transfer/source/digits/full-shot-seed-1",
    ]
    runs = [run_of(tmp_path / name, "running") for name in names]
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list(run_folders(tmp_path)) == runs
    assert list(run_folders(runs[2])) == runs[2:3]
    run_of(runs[0] / "checkpoints" / "kept", "running")
    assert list(run_folders(runs[0])) == runs[:2]


def test_command_prints_a_table_or_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path / "a", "failed", "line one\x1b[31m\nline two", step=55)
    run_of(tmp_path / "b", "running", step=55)
    monkeypatch.setattr(status.time, "time", lambda: NOW)
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path)])
    status.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in (lines[1], lines[4])] == ["failed", "running"]
    assert lines[2:4] == ["    line one\\x1b[31m (status.json has more)", "    resume with: cd /job && python run"]
    assert lines[-1] == "1 failed, 1 running"
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path), "--json"])
    status.main()
    assert [run["step"] for run in json.loads(capsys.readouterr().out)] == [40, 55]
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="2"):
        status.main()
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "holder", "beat", "expected"),
    [
        ("running", {"process": 7}, {"pid": 7}, "process 7 on node7 since {since} (SLURM job 5)"),
        ("running", {"process": 8}, {"pid": 7, "time": NOW - 90}, "process 8 on node7 since {since} (SLURM job 5)"),
        ("running", {"process": 8}, {"pid": 7}, "(SLURM job 5), and process 7 on node7 as well: stop one of them"),
        ("resumable", {"process": 7}, {"pid": 7}, None),  # left behind
        pytest.param(
            "resumable",
            {"process": os.getpid(), "here": True},
            {"pid": 7, "time": NOW - 90},
            f"process {os.getpid()} on",
            id="resumable-this process",  # workers have to agree on the name
        ),
        ("running", {"process": 2**22 + 1, "here": True}, {"pid": 7}, None),
        ("finished", {"process": os.getpid(), "here": True}, {}, None),
    ],
)
def test_who_is_at_work_on_a_run(
    state: str, holder: dict[str, Any], beat: dict[str, Any], expected: str | None, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", state, **{"host": "node7"} | beat)
    (run / "result.json").write_text("{}")
    known = replace(
        lock_file.this_start(run),
        host="node7",
        job="SLURM job 5",
        since=NOW - 60,
        process=_process(holder["process"]) if "here" in holder else Process(holder["process"], None),
        machine=machine() if "here" in holder else "another",
    )
    lock_file.create(run / LOCK, known)
    found = run_status(run, 900.0, NOW)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW - 60))
    if expected is None:
        assert found.holder is None
    else:
        assert expected.format(since=since) in str(found.holder)
        assert f"\n    {found.holder}" in table([found])
    (run / LOCK).write_text('{"host": "\x1b[31m"}')
    assert "\x1b" not in table([run_status(run, 900.0, NOW)])


@pytest.mark.parametrize(("number", "state"), [(os.getpid(), "running"), (2**22 + 1, "unknown")], ids=["alive", "gone"])
def test_a_run_without_status_is_starting_while_it_is_held(number: int, state: str, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", None)
    lock_file.create(run / LOCK, replace(lock_file.this_start(run), process=_process(number) or Process(number, None)))
    found = run_status(run, 900.0, NOW)
    assert (found.state, found.reason == "starting") == (state, state == "running")


def test_tracker_leaves_what_status_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_file, "EVERY_S", 0.0)
    (tmp_path / "config.json").write_text("{}")
    metric_logger = MetricLogger(tmp_path, 0, 10, 100, "demo")
    write_status(tmp_path, 0, "running", 10, 100)
    for _ in range(5):
        metric_logger.advance()
    metric_logger.close()
    found = run_status(tmp_path, 900.0, time.time())
    assert (found.state, found.step, found.total_steps) == ("running", 15, 100)
    assert found.left_s is not None
    assert "1/1" not in table([found])
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert (beat["pid"], beat["folder"]) == (os.getpid(), os.getcwd())
    assert "python" in beat["command"]


def test_a_folder_that_nobody_may_read_hides_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "closed", "z"):
        run_of(tmp_path / name, "failed")
    is_file = Path.is_file

    def refused(path: Path) -> bool:
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    assert [run.name for run in run_folders(tmp_path)] == ["a", "z"]
    assert f"warning: {tmp_path / 'closed'} cannot be read (Permission denied)" in capsys.readouterr().err


def test_runs_of_any_name_are_on_lines_of_their_own(tmp_path: Path) -> None:
    names = [name for name in NAMES if len(name) < 100 and "/" not in name]
    for name in names:
        run_of(tmp_path / name, "failed", command=f"python '{name}'")
    lines = table([run_status(run, 900.0, NOW) for run in run_folders(tmp_path)])
    lines.encode("utf-8")
    assert len(lines.splitlines()) == 2 + 2 * len(names)
    assert all(printable(str(tmp_path / name)) in lines for name in names)
