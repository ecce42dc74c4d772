"""How a launch treats its run folder, and where that is. Without PyTorch, which help does not need."""

from dataclasses import dataclass
from pathlib import Path

from trainer.config import Config


@dataclass(frozen=True)
class LaunchOptions:
    """How this launch treats an existing run folder."""

    out: Path | None = None
    """Folder of the run; None: runs/<name>."""
    resume: bool = True
    """Go on with the run that is in the folder; --no-resume takes a new folder beside it."""
    allow_config_change: bool = False
    """Go on although the configuration changed."""
    preflight_only: bool = False
    """Check what every launch on several ranks checks first, and stop."""


def run_dir_of(config: Config, launch: LaunchOptions) -> Path:
    """The run folder that a launch resumes in; `--no-resume` takes a new one beside it."""
    return launch.out or Path("runs") / config.name
