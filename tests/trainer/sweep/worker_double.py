"""Stands in for trainer.sweep.worker in tests: the same lines in and out, and no training. The name of its target, or
$FATES, says what becomes of a run."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def tell(**event: object) -> None:
    print(json.dumps(event), flush=True)


def main() -> None:
    if os.environ.get("BROKEN"):
        sys.exit("no torch here")
    tell(event="ready")
    for line in sys.stdin:
        task = json.loads(line)
        words = task["arguments"]
        folder = Path(task["log"]).parent
        fates = json.loads(os.environ.get("FATES", "{}"))
        fate = fates.get("/".join(folder.parts[-3:]), words[words.index("--target") + 1])
        if fate == "held" and not task["waits"]:
            tell(event="held", reason="it is in use")
            continue
        with Path(task["log"]).open("a") as log:
            log.write(
                json.dumps({"process": os.getpid(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "words": words})
            )
            log.write("\n")
        if fate == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "unnamed":
            os.kill(os.getpid(), signal.SIGRTMIN + 3)  # which has no name
        if fate == "long":
            (folder / "metrics.jsonl").write_text('{"step": 3}\n')
            sys.stdin.read()  # until the sweep lets go
            time.sleep(0.2)
            (folder / "status.json").write_text('{"state": "resumable", "reason": "stopped by SIGTERM"}')
            sys.exit(143)
        reasons = {"bad": "no such luck", "fatal": "CUDA error"}
        if fate in ("good", "held"):
            result = {
                "run": str(folder),
                "task": "single_label",
                "test": {"top1": 0.5, "images": 4},
                "checkpoint": "last",
            }
            (folder / "result.json").write_text(json.dumps(result))
        tell(event="ended", reason=reasons.get(fate), is_last=fate == "fatal")
        if fate == "fatal":
            time.sleep(0.3)
            sys.exit(1)


main()
