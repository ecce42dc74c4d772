"""On the path of a training run: each update takes a second longer while the file $BITSCALE_TEST_SLOW is there, so that
what comes from outside finds the run in the middle."""

import os
import sys
import threading
import time


def slow_down() -> None:
    while not hasattr(sys.modules.get("trainer.run_folder.metric_logger"), "MetricLogger"):
        time.sleep(0.05)
    metric_logger = sys.modules["trainer.run_folder.metric_logger"].MetricLogger
    advance = metric_logger.advance

    def slow_advance(self: object) -> None:
        advance(self)
        if os.path.exists(os.environ["BITSCALE_TEST_SLOW"]):
            time.sleep(1.0)

    metric_logger.advance = slow_advance


if "BITSCALE_TEST_SLOW" in os.environ and any("pretrain.py" in argument for argument in sys.orig_argv):
    threading.Thread(target=slow_down, daemon=True).start()
