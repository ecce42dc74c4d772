"""On the path of a training run: each update takes longer while the file $BITSCALE_TEST_SLOW is there, by the seconds
that it says or by one, so that what comes from outside finds the run in the middle."""

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path


def slow_down() -> None:
    while not hasattr(sys.modules.get("trainer.run_folder.metric_logger"), "MetricLogger"):
        time.sleep(0.05)
    metric_logger = sys.modules["trainer.run_folder.metric_logger"].MetricLogger
    advance = metric_logger.advance

    def slow_advance(self: object) -> None:
        advance(self)
        with suppress(FileNotFoundError):
            time.sleep(float(Path(os.environ["BITSCALE_TEST_SLOW"]).read_text() or 1))

    metric_logger.advance = slow_advance


if "BITSCALE_TEST_SLOW" in os.environ and any("pretrain.py" in argument for argument in sys.orig_argv):
    threading.Thread(target=slow_down, daemon=True).start()
