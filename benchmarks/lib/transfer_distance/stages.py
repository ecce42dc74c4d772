"""The commands of the study, from raw images to fine-tunings, each timed. What is finished is kept."""

import resource
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lib.processes import child_environment, module_command
from benchmarks.lib.transfer_distance.raw_sets import SOURCES, TARGETS, StudySet
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import read_json, write_json
from trainer.reporting.names import FULL, SCRATCH

FEW_SHOTS, MANY_SHOTS = ("1", "5", "10"), ("50", FULL)
IMAGE_SIZE = 32
COMMON = "cifar10"  # the source in whose features all sets are compared
HYPOTHESES = Path(__file__).with_name("hypotheses.toml")
PROXIMITY, REPORT = "proximity", "report"


@dataclass(frozen=True)
class Size:
    """How much is trained. tuning_steps, seeds: with few and with many shots."""

    pretraining_steps: int = 300
    tuning_steps: tuple[int, int] = (40, 80)
    seeds: tuple[int, int] = (10, 5)
    threads: int = 1


@dataclass(frozen=True)
class Study:
    """A study in a folder of its own. real: folder of real images; None for the embedded ones alone."""

    folder: Path
    real: Path | None
    size: Size

    @property
    def data(self) -> Path:
        """Folder of the prepared sets."""
        return self.folder / "data"

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.folder / "runs"

    def sources(self) -> list[StudySet]:
        """The sources that can be made."""
        return [each for each in SOURCES if each.found(self.real) is not None]

    def targets(self) -> list[StudySet]:
        """The targets that can be made."""
        return [each for each in TARGETS if each.found(self.real) is not None]

    def prepare(self) -> None:
        """Prepare every set that is not there yet."""
        for each in (*self.sources(), *self.targets()):
            out = self.data / each.name
            if (out / "manifest.json").is_file():
                continue
            raw = self.folder / "raw" / each.name
            if each.write is not None:
                shutil.rmtree(raw, ignore_errors=True)
                place = each.found(self.real)
                assert place is not None
                each.write(place, raw)
            flags = [flag.format(raw=raw) for flag in each.flags]
            self.run("prepare", "prepare", *flags, "--out", str(out))

    def pretrain(self) -> None:
        """Pre-train on each source, for the same number of steps."""
        steps = self.size.pretraining_steps
        for each in self.sources():
            self.run(
                "pretrain",
                *("pretrain", "embedded", "--data.sets", each.name, "--out", f"runs/{each.name}"),
                *("--schedule.steps", str(steps), "--schedule.warmup-steps", str(steps // 12), "--eval-every", "None"),
                *("--optim.base-lr", "0.1"),
                *("--device", "cpu", "--threads", str(self.size.threads)),
            )

    def sweep(self) -> None:
        """Fine-tune each source on each target, the cheap shots with more seeds."""
        for shots, steps, seeds in zip((FEW_SHOTS, MANY_SHOTS), self.size.tuning_steps, self.size.seeds, strict=True):
            self.run("sweep", "sweep", *self.sweep_flags(shots, steps, seeds))

    def measure(self) -> None:
        """Measure how far each target lies from each source."""
        sources = [f"runs/{each.name}" for each in self.sources()]
        common = next((run for run in sources if run.endswith(COMMON)), sources[0])
        self.run(
            "proximity",
            *("proximity", "--sources", *sources, "--targets", *(each.name for each in self.targets())),
            *("--network", common, "--images", "1500", "--out", PROXIMITY, "--force"),
            *("--device", "cpu", "--threads", str(self.size.threads)),
        )

    def report(self) -> None:
        """Write the report, with the claims, the proximity and the laws."""
        self.run(
            "report",
            *("report", "runs", "--out", REPORT, "--force", "--claims", str(HYPOTHESES)),
            *("--laws", "--proximity", f"{PROXIMITY}/proximity.json"),
        )

    def sweep_flags(self, shots: Sequence[str], steps: int, seeds: int) -> list[str]:
        """What `bitscale sweep` is told."""
        return [
            *("--sources", *(f"runs/{each.name}" for each in self.sources()), SCRATCH),
            *("--targets", *(each.name for each in self.targets())),
            *("--shots", *shots, "--seeds", str(seeds), "--out", "runs/transfer", "--jobs", "1"),
            *("--data.image-size", str(IMAGE_SIZE), "--data.train-on", "train+val", "--global-batch-size", "16"),
            *("--schedule.steps", str(steps), "--save-every", str(steps), "--keep-checkpoints", "1"),
            *("--optim.base-lr", "0.1", "--precision", "fp32"),
            *("--device", "cpu", "--threads", str(self.size.threads)),
        ]

    def run(self, stage: str, *arguments: str) -> None:
        """Run `bitscale` with these arguments in the folder of the study. Its time is added to that of the stage.

        Raises RunError where it fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        began, used = time.perf_counter(), _seconds_of_children()
        environment = child_environment() | {"BITSCALE_DATA": str(self.data)}
        done = subprocess.run([*module_command("bitscale"), *arguments], cwd=self.folder, env=environment, check=False)
        self._add_minutes(stage, time.perf_counter() - began, _seconds_of_children() - used)
        if done.returncode:
            raise RunError(f"bitscale {' '.join(arguments)} failed with exit code {done.returncode} in {self.folder}")

    def minutes(self) -> dict[str, dict[str, float]]:
        """Minutes of each stage so far, over all starts: by the clock and of CPU time."""
        path = self.folder / "minutes.json"
        return dict(read_json(path)) if path.is_file() else {}

    def _add_minutes(self, stage: str, seconds: float, cpu_seconds: float) -> None:
        spent = self.minutes()
        before = spent.get(stage, {"clock": 0.0, "cpu": 0.0})
        spent[stage] = {"clock": before["clock"] + seconds / 60, "cpu": before["cpu"] + cpu_seconds / 60}
        write_json(self.folder / "minutes.json", spent)


def study_in(folder: Path, real: Path | None, size: Size) -> Study:
    """A study in a folder. Raises InputError for a folder of real images that has none of them."""
    if real is not None and not any(each.needs and each.found(real) for each in (*SOURCES, *TARGETS)):
        needed = sorted({each.needs for each in (*SOURCES, *TARGETS) if each.needs})
        raise InputError(f"{real} has none of {', '.join(needed)}; leave out --real to use the embedded sets alone")
    return Study(folder.resolve(), None if real is None else real.resolve(), size)


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
