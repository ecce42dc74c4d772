"""The run folder: lock, status, metrics, logs, environment. Other packages import from here."""

from data_pipelines.common.version import commit
from trainer.run_folder.csv_log import CsvLog
from trainer.run_folder.environment import describe_environment, refuse_other_versions, write_environment
from trainer.run_folder.lock_file import JOB_VARIABLE, job_name
from trainer.run_folder.metric_logger import MetricLogger, read_metrics
from trainer.run_folder.new_folder import claim, next_free
from trainer.run_folder.rank_logs import install_rank_log, keep_in_log, open_rank_log
from trainer.run_folder.resume_command import resume_command
from trainer.run_folder.run_lock import elsewhere, in_use, locked, release, require_lock, take_over, taken_over
from trainer.run_folder.run_status import RunStatus, run_folders, run_status, unfinished, write_status

__all__ = [
    "JOB_VARIABLE",
    "CsvLog",
    "MetricLogger",
    "RunStatus",
    "claim",
    "commit",
    "describe_environment",
    "elsewhere",
    "in_use",
    "install_rank_log",
    "job_name",
    "keep_in_log",
    "locked",
    "next_free",
    "open_rank_log",
    "read_metrics",
    "refuse_other_versions",
    "release",
    "require_lock",
    "resume_command",
    "run_folders",
    "run_status",
    "take_over",
    "taken_over",
    "unfinished",
    "write_environment",
    "write_status",
]
