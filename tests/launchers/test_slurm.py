"""Jobs on a real SLURM: submitted, cancelled, out of time, bereft of a node, and ending with the same weights."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from slurm_cluster import Cluster, lacking, wait_until

from benchmarks.lib.network.profile import FOLDER
from benchmarks.lib.scaling.study import Scaling, scale
from data_pipelines.datasets.phantom import phantom
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from trainer import checkpoint
from trainer.run_folder.metric_logger import read_metrics

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVE_EVERY = 40, 25

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(lacking()), reason=lacking())]


@dataclass(frozen=True)
class User:
    """Somebody at a login node."""

    cluster: Cluster
    folder: Path

    def slow(self, run: str) -> Path:
        """While this file exists, each update of the run takes a second."""
        return self.folder / f"slow-{run}"

    def submit(self, *arguments: str | Path, run: str = "") -> subprocess.CompletedProcess[str]:
        environment = self.cluster.environment | {
            "PYTHONPATH": f"{Path(__file__).parent / 'slow'}:{ROOT}",
            "BITSCALE_TEST_SLOW": str(self.slow(run)),
        }
        return subprocess.run(
            [sys.executable, "-m", "launchers.submit", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def submit_run(self, run: str, *options: str, save_every: int = SAVE_EVERY) -> str:
        """The number of a job that trains in runs/RUN on two nodes."""
        trainer = ["--data.sets", self.folder / "phantom", "--data.image-size", "32", "--data.resize", "32"]
        trainer += ["--schedule.steps", str(STEPS), "--schedule.warmup-steps", "4"]
        trainer += ["--global-batch-size", "4", "--device", "cpu", "--threads", "1"]
        trainer += ["--eval-every", "1000", "--save-every", str(save_every), "--log-every", "1"]
        job = ["pretrain", "phantom", "--nodes", "2", "--site", "localhost", *options]
        done = self.submit(*job, "--", *trainer, "--out", f"runs/{run}", run=run)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def log(self, job: str) -> str:
        return "".join(path.read_text() for path in (self.folder / "logs").glob(f"*-{job}.out"))

    def status(self, run: str) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.folder / "runs" / run / "status.json").read_text())
        return status

    def wait_for(self, job: str, state: str, timeout_s: float = 120) -> None:
        def there() -> bool:
            found = self.cluster.state(job)
            assert found in ("PENDING", "RUNNING", "COMPLETING", state), f"{found}\n{self.log(job)}"
            return found == state

        wait_until(there, f"job {job} is {state}", timeout_s)

    def end_soon(self, job: str) -> None:
        """Make the job's time run out within 80 s, but not before it can be told."""
        ran = self.cluster.say("squeue", "-h", "-j", job, "-o", "%M")  # [HH:]MM:SS
        minutes, seconds = map(int, ran.split(":")[-2:])
        self.cluster.say("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 1 + (seconds > 40)}")

    def wait_for_start(self, job: str, run: str, ranks: int) -> None:
        """Until the newest start is one on so many ranks, and has saved a step."""

        def there() -> bool:
            assert self.cluster.state(job) in ("PENDING", "RUNNING"), self.log(job)
            folder = self.folder / "runs" / run
            starts = [(row["step"], row["world_size"]) for row in read_metrics(folder) if "world_size" in row]
            saved = max(map(checkpoint.step_of, checkpoint.numbered(folder)), default=0)
            return bool(starts) and starts[-1][1] == ranks and saved > starts[-1][0]

        try:
            wait_until(there, f"a start on {ranks} ranks", 120)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log(job)}") from None

    def wait_for_words(self, job: str, words: str) -> None:
        """Until the job's log says so."""

        def there() -> bool:
            assert self.cluster.state(job) in ("PENDING", "RUNNING"), self.log(job)
            return words in self.log(job)

        try:
            wait_until(there, words, 120)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log(job)}") from None

    def resumes_with(self, job: str) -> str:
        """The command that the job's log names."""
        found = re.findall(r"To resume runs/.* from step .*:\n  (.*)", self.log(job))
        assert found, self.log(job)
        return str(found[-1])

    def wait_for_step(self, job: str, run: str, step: int) -> None:
        def there() -> bool:
            assert self.cluster.state(job) in ("PENDING", "RUNNING"), self.log(job)
            return any(row["step"] >= step for row in read_metrics(self.folder / "runs" / run))

        wait_until(there, f"step {step}", 90)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    folder = tmp_path_factory.mktemp("user")
    prepare(phantom(images=60, size=32), Output(folder / "phantom"))
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    yield User(cluster, folder)
    cluster.close()


@pytest.fixture(scope="module")
def undisturbed(user: User) -> str:
    """The job of a run through to its end, which may still be on its way: two jobs find room on the nodes."""
    return user.submit_run("undisturbed")


def _content(path: Path) -> str:
    """Of a file that may go at any time."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(checkpoint.path_of(run_dir, STEPS)).state["model"]
    return state


def test_cancelled_out_of_time_and_bereft_of_a_node(user: User, undisturbed: str) -> None:
    cluster, run = user.cluster, "disturbed"
    user.slow(run).touch()

    job = user.submit_run(run, "--launcher", "srun")
    user.wait_for_step(job, run, 2)
    cluster.say("scancel", job)
    wait_until(lambda: not cluster.say("squeue", "-h", "-j", job), "cancelled", 60)
    status = user.status(run)
    assert (status["state"], status["reason"]) == ("resumable", "stopped by SIGTERM")
    cancelled_at = status["step"]
    assert 2 <= cancelled_at < SAVE_EVERY  # saved where it was, not at the next planned checkpoint
    assert checkpoint.step_of(checkpoint.numbered(user.folder / "runs" / run)[-1]) == cancelled_at
    assert "bitscale submit pretrain phantom " in user.resumes_with(job)

    job = user.submit_run(run)
    user.wait_for_step(job, run, cancelled_at + 1)
    user.end_soon(job)
    wait_until(lambda: "queues itself again" in user.log(job), "out of time and queued again", 120)
    status = user.status(run)
    assert (status["state"], status["reason"]) == ("resumable", "stopped by SIGUSR1")
    timed_out_at = status["step"]
    assert cancelled_at < timed_out_at < STEPS
    assert "bitscale submit pretrain phantom " in user.resumes_with(job)

    wait_until(lambda: cluster.state(job) == "PENDING", "pending", 60)
    cluster.say("scontrol", "update", f"JobId={job}", "StartTime=now+3", "TimeLimit=60")
    user.wait_for_step(job, run, timed_out_at + 1)
    user.wait_for(undisturbed, "COMPLETED")
    cluster.kill_node("n2")
    user.slow(run).unlink()
    wait_until(lambda: cluster.state(job) == "PENDING", "queued again because a node died", 90)
    cluster.start_node("n2")
    wait_until(cluster.is_idle, "both nodes back", 60)
    cluster.say("scontrol", "update", f"JobId={job}", "StartTime=now+3")
    user.wait_for(job, "COMPLETED")
    assert user.status(run)["state"] == "finished"

    expected, found = weights(user.folder / "runs/undisturbed"), weights(user.folder / "runs" / run)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_two_nodes_to_the_end(user: User, undisturbed: str) -> None:
    user.wait_for(undisturbed, "COMPLETED")
    assert user.status("undisturbed")["state"] == "finished"
    environment = json.loads((user.folder / "runs/undisturbed/environment.json").read_text())
    assert environment["world_size"] == 2
    assert "ended with 0" in user.log(undisturbed)


def test_a_failed_node_is_done_without_and_another_joins(user: User, undisturbed: str) -> None:
    """In the job's own allocation; SLURM takes the failed node away, so the one that joins is a further job's."""
    cluster, run = user.cluster, "elastic"
    user.wait_for(undisturbed, "COMPLETED")
    user.slow(run).write_text("3")  # seconds: lost nodes are missed, and others asked for, at intervals
    job = user.submit_run(run, "--nodes", "1:2", save_every=1)
    user.wait_for_start(job, run, 2)
    cluster.kill_node("n2")
    # Which slurmctld would find by itself, later.
    cluster.say("scontrol", "update", "NodeName=n2", "State=down", "Reason=killed")
    user.wait_for_start(job, run, 1)
    assert "NodeList=n1 " in cluster.say("scontrol", "show", "job", job).replace("\n", " ")
    cluster.start_node("n2")
    cluster.say("scontrol", "update", "NodeName=n2", "State=resume")
    user.wait_for_start(job, run, 2)
    user.slow(run).unlink()
    user.wait_for(job, "COMPLETED")
    assert "a node was lost; one that joins is asked for as job" in user.log(job)
    wait_until(lambda: not cluster.say("squeue", "-h"), "the job that joined has ended, too", 30)
    assert user.status(run)["state"] == "finished"
    expected, found = weights(user.folder / "runs/undisturbed"), weights(user.folder / "runs" / run)
    for name in expected:  # on one rank, sums are made in another order
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-3)


def test_an_elastic_job_goes_on_in_the_same_processes(user: User, undisturbed: str) -> None:
    """Without the failed node, and with one that joins: no start, no step lost; nobody else can read the secret."""
    cluster, run = user.cluster, "in-process"
    user.wait_for(undisturbed, "COMPLETED")
    user.slow(run).write_text("2")
    job = user.submit_run(run, "--nodes", "1:2", "--elastic")
    user.wait_for_step(job, run, 2)
    (secret,) = (user.folder / "logs").glob("*.secret")
    words, mode = secret.read_text(), secret.stat().st_mode & 0o777
    assert (mode, len(words)) == (0o600, 64)
    cluster.say("scontrol", "update", "NodeName=n2", "State=drain", "Reason=service")
    before = max(row["step"] for row in read_metrics(user.folder / "runs" / run))
    user.wait_for_step(job, run, before + 2)  # jobs on a node that is drained go on
    assert "NumNodes=2" in cluster.say("scontrol", "show", "job", job)
    cluster.say("scontrol", "update", "NodeName=n2", "State=resume")
    cluster.kill_node("n2")
    cluster.say("scontrol", "update", "NodeName=n2", "State=down", "Reason=killed")
    user.wait_for_words(job, "1 rank at step")
    cluster.start_node("n2")
    cluster.say("scontrol", "update", "NodeName=n2", "State=resume")
    user.wait_for_words(job, "2 ranks at step")
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if words in _content(path)]
    user.slow(run).unlink()
    user.wait_for(job, "COMPLETED")
    wait_until(lambda: not cluster.say("squeue", "-h"), "the job that joined has ended, too", 30)
    logs = "".join(path.read_text() for path in (user.folder / "logs").glob("*.out"))
    assert "resuming" not in user.log(job)
    assert words not in logs
    assert not secret.exists()
    assert user.status(run)["state"] == "finished"
    losses = [row["step"] for row in read_metrics(user.folder / "runs" / run) if "train/loss" in row]
    assert losses == list(range(1, STEPS + 1))
    expected, found = weights(user.folder / "runs/undisturbed"), weights(user.folder / "runs" / run)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-3)


def test_scaling_plan_on_one_and_two_nodes(user: User) -> None:
    """Each count is a job of its own size; what they leave is collected as measured, and nothing runs twice."""
    nodes = (FOLDER / "localhost.toml").read_text().replace("nodes = { value = 1,", "nodes = { value = 2,")
    profile = user.folder / "two-nodes.toml"
    profile.write_text(nodes.replace("ranks_per_node = { value = 8,", "ranks_per_node = { value = 1,"))
    asked = Scaling(
        gpus="1,2",
        device="cpu",
        profile=str(profile),
        batch_size=2,
        window_steps=1,
        measure=False,
        out=user.folder / "scaling",
    )
    scale(asked)
    plan = [str(asked.out / "plan.json"), "--site", "localhost", "--time", "00:10:00", "--no-requeue"]
    done = user.submit(*plan)
    assert "2 tasks, 0 done, 2 to run" in done.stderr
    one, two = done.stdout.split()
    for job in (one, two):
        user.wait_for(job, "COMPLETED", 240)
    assert "NumNodes=2" in user.cluster.say("scontrol", "show", "job", two)
    scale(replace(asked, collect=(asked.out,)))
    rows = [row for row in csv.DictReader((asked.out / "scaling.csv").open()) if row["kind"] == "measured"]
    assert [(row["gpus"], row["note"], row["base"]) for row in rows] == [("1", "", "1"), ("2", "", "1")]
    assert all(float(row["images_per_s"]) > 0 for row in rows)
    assert "2 tasks, 2 done, 0 to run" in user.submit(*plan).stderr


def test_plan_runs_what_is_left(user: User) -> None:
    """The first task is done before, the third fails until it is mended: nothing runs twice."""
    write = "import json, pathlib, sys; p = pathlib.Path(sys.argv[1]); p.with_suffix('.ran').open('a').write('x'); "
    write += (
        "json.dump({'from': sys.argv[2]}, p.open('w')) if sys.argv[2] != 'c' or pathlib.Path('mended').exists() else 0"
    )
    tasks = [
        {
            "name": name,
            "command": ["python", "-c", write, f"{name}'s $(x) file.json", name],
            "done": f"{name}'s $(x) file.json",
        }
        for name in "abcd"
    ]
    (user.folder / "plan.json").write_text(json.dumps({"name": "a sweep", "tasks": tasks, "gpus_per_task": 0}))
    (user.folder / "a's $(x) file.json").write_text("{}")
    (user.folder / "b's $(x) file.json").write_text('{"half')

    def run() -> str:
        done = user.submit(
            "plan.json", "--site", "localhost", "--time", "00:05:00", "--max-parallel", "2", "--no-requeue"
        )
        assert done.returncode == 0, done.stderr
        wait_until(lambda: not user.cluster.say("squeue", "-h"), "all tasks", 60)
        return done.stderr

    assert "4 tasks, 1 done, 3 to run" in run()
    (user.folder / "mended").touch()
    assert "4 tasks, 3 done, 1 to run" in run()
    assert "4 tasks, 4 done, 0 to run" in run()
    ran = {name: (user.folder / f"{name}'s $(x) file.ran") for name in "abcd"}
    assert {name: path.read_text() for name, path in ran.items() if path.exists()} == {"b": "x", "c": "xx", "d": "x"}
