"""What the training loop does between two updates: it logs, evaluates, saves and stops, each when it is due."""

from trainer.engine import Engine, Progress, RegroupError
from trainer.run_folder import MetricLogger
from trainer.training.job import Job
from trainer.training.prediction import evaluate
from trainer.training.saver import Saver, require_finite
from trainer.training.signals import Stopped, StopSignals, left_or_regroup_error
from trainer.training.step_monitor import StepMonitor
from trainer.training.step_report import StepReport
from trainer.training.throughput_meter import ThroughputMeter


class BetweenSteps:
    """Everything here is collective: what makes it due is the same on every rank. `progress` is kept up to date, so
    that an elastic run whose ranks change goes on with what is still owed."""

    def __init__(
        self, job: Job, engine: Engine, metric_logger: MetricLogger, progress: Progress, saver: Saver, stop: StopSignals
    ) -> None:
        self._job, self._engine, self._metric_logger, self._progress = job, engine, metric_logger, progress
        self._saver, self._stop = saver, stop
        self.monitor = StepMonitor(job, engine, progress.step, saver.is_overdue)
        self.meter = ThroughputMeter(job, engine)

    def begin(self) -> None:
        """Before the first update: what the ranks before a change of ranks have left undone."""
        progress = self._progress
        for steps_done, row in progress.rows.values():
            self._metric_logger.scalars(steps_done, row)  # unless the former rank 0 has written it
        if progress.is_owed:
            self._evaluate_and_save()
        elif progress.must_save:
            self._saver.save(progress.step)
        self._settle()

    def observe(self, report: StepReport) -> None:
        """After an update. Raises as `train` does."""
        progress = self._progress
        progress.step, progress.is_owed = report.step + 1, True
        self.monitor.observe(report)
        self._metric_logger.advance()
        self.meter.advance()
        if self._job.is_due("log", progress.step):
            self._log(report)
        self._evaluate_and_save()
        self._settle()
        if self.monitor.regroup_asked and progress.step < self._job.total_steps:
            raise RegroupError("ranks wait to join")

    def _settle(self) -> None:
        self._progress.is_owed, self._progress.best = False, self._saver.best

    def _log(self, report: StepReport) -> None:
        self.monitor.flush()
        slowest_scalars, slowest_text = self._engine.heartbeat.slowest()
        row, steps_done = self.meter.scalars(report), self._progress.step
        self._progress.rows["train"] = (steps_done, row)
        self._metric_logger.scalars(steps_done, row | self._saver.pop_timings() | slowest_scalars, slowest_text)

    def _evaluate_and_save(self) -> None:
        job, monitor, steps_done = self._job, self.monitor, self._progress.step
        if job.val is not None and job.is_due("eval", steps_done):
            monitor.flush()
            with self.meter.paused():
                self._evaluate(steps_done)
        stopping = monitor.stop_asked and steps_done < job.total_steps  # after the last step, `fit.py` decides
        if stopping and not self._engine.agree_to_stop(lambda: self._stop.received is not None):
            raise left_or_regroup_error(steps_done, self._stop)
        if stopping or monitor.save_asked or job.is_due("save", steps_done):
            monitor.flush()
            with self.meter.paused():
                self._saver.save(steps_done)
        if stopping:
            self._saver.finish()  # on all ranks: a launcher may kill them when the first ends
            raise Stopped(steps_done, self._stop.received_in_time())

    def _evaluate(self, steps_done: int) -> None:
        job, engine = self._job, self._engine
        assert job.val is not None
        require_finite(engine.model.parameters(), steps_done)
        metrics = evaluate(job, engine, job.val)
        row = {f"val/{name}": value for name, value in metrics.items()}
        self._progress.rows["val"] = (steps_done, row)
        self._metric_logger.scalars(steps_done, row)
        self._saver.save_if_best(steps_done, metrics[job.train.metric])
        self.monitor.observe_val(steps_done, metrics["loss"])
