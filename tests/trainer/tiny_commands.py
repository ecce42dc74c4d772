"""Commands on a few of the embedded clothes."""

from collections.abc import Callable
from pathlib import Path

from trainer import pretrain, report, transfer

TINY = ["--global-batch-size", "16", "--save-every", "2", "--log-every", "1", "--device", "cpu", "--threads", "1"]


NO_WARMUP = ["--schedule.warmup-steps", "0"]
# Of the embedded clothes: on all of them, evaluation would take most of the time.
FEW = ["--data.classes", "Bag", "Coat", "--data.images", "100"]
MAINS = {"pretrain": pretrain.main, "transfer": transfer.main, "report": report.main}
Run = Callable[..., tuple[int, str, str]]


def pretrain_tiny(command: Run, run_dir: Path, *arguments: object, steps: int = 4) -> tuple[int, str, str]:
    few = [] if "--data.classes" in arguments else FEW
    options = ["--schedule.steps", steps, *NO_WARMUP, "--out", run_dir, *TINY, *few]
    return command("pretrain", "embedded", *options, *arguments)
