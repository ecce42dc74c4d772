"""Where and how a run executes."""

from dataclasses import dataclass
from typing import Literal

from data_pipelines.common.message_parts import as_typed
from trainer.config.checks import require, require_known_choices

_MOST_READ_AHEAD = 1024
_MOST_PROFILED_STEPS = 100  # each is some megabytes of trace


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how the run executes. May change between two starts of the same run: nothing here changes a number by
    more than rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["ddp", "horovod", "deepspeed"] = "ddp"
    """What moves gradients between ranks; all of them give the same weights."""
    zero_stage: int = 0
    """ddp and deepspeed: 1 shards momentum across ranks, 2 (deepspeed) gradients too."""
    elastic: bool = False
    """ddp: go on without leaving the process when ranks are lost or join; started by launchers/torchrun.sh --elastic.
    Experimental: tried on CPUs only."""
    min_ranks: int = 1
    """With --elastic: fewest ranks to go on with."""
    min_ranks_wait_s: int = 600
    """With --elastic: seconds to wait for ranks when there are fewer, before the run saves and ends, to be resumed."""
    bucket_mb: int = 25
    """Gradients that travel together, megabytes; 0 (horovod): each by itself."""
    gradient_compression: Literal["none", "bf16", "fp16"] = "none"
    """What gradients are rounded to while they travel."""
    connect_timeout_s: int = 60
    """Seconds to wait at the start until all ranks are there."""
    timeout_s: int = 600
    """Seconds without an answer after which another rank counts as lost; and without a sign of life, after which a
    start of another job, on another host, has lost its claim to the run folder."""
    hang_timeout_s: int = 300
    """Seconds without progress of a rank after which it is named, with its host and phase, and the run ends, to be
    resumed; at most 0.8 of timeout_s, more for the first step, evaluation and saving. 0: never."""
    micro_batch_size: int | Literal["auto"] | None = None
    """Most images per rank in one forward pass; a rank's share of the batch is accumulated from these. None: all; auto:
    all, halved as often as memory demands."""
    eval_batch_size: int = 256
    """Images per rank in one evaluation forward pass."""
    loader: Literal["auto", "dali", "torch"] = "auto"
    """auto: DALI on a GPU, or torch with a warning where DALI cannot be had; torch on a CPU, where it is faster. dali
    and torch: that one or an error."""
    read_ahead: int = 4
    """Batches whose bytes are asked for before they are decoded, besides those in the loader; 0 switches it off."""
    cache_dir: str | None = None
    """Copy the sets to this storage of the node first, such as /dev/shm: once per node, checked, and kept there."""
    threads: int | None = None
    """CPU threads of each rank; None: the cores this process may use, shared by the ranks of the node."""
    compile: bool | Literal["auto", "graphs"] = "auto"
    """Compile the residual units with torch.compile. auto: no, as a compiled unit runs the same convolutions and norms
    with nothing fused between them, and has to be compiled first. graphs: and replay them as CUDA graphs, which pays
    where batches are small and all of one size."""
    checkpoint_stages: int = 0
    """The first so many stages keep only what enters their residual units and compute the rest again in the backward
    pass: less memory, more time. 4: all of them."""
    tf32: bool = False
    """Let fp32 matrix products and convolutions use TF32 on GPUs that have it: faster, with 10 bits of mantissa."""
    cudnn_benchmark: bool | Literal["auto"] = "auto"
    """Let cuDNN time its convolution algorithms on each new shape and keep the fastest. It may take others at the next
    start, so that a resumed run is no longer bit-equal. auto: no, as nobody has measured on a GPU what it gains."""
    log_every: int = 50
    """Steps between two rows of metrics."""
    profile: int | None = None
    """Record so many steps, at most 100, after 4 that warm up, with torch.profiler: a trace, and a table of where their
    time goes, in RUN/profile. None: none."""
    save_every: int | None = None
    """Steps between two checkpoints. None: a tenth of the run, at most 1,000; sooner when the last one is 30 minutes
    old, or in fine-tuning 5 minutes."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep; the best one is kept beside them."""
    max_failed_saves: int = 3
    """Saves in a row that may fail, with all that is tried until the next one is due, before the run ends."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: stop the run, or leave this one update out, on all ranks."""
    max_skipped_steps: int = 10
    """With --non-finite skip: most updates that a run may leave out."""

    def __post_init__(self) -> None:
        require_known_choices(self)
        counts = ("micro_batch_size", "eval_batch_size", "threads", "log_every", "save_every", "keep_checkpoints")
        for name in (
            *counts,
            "profile",
            "max_failed_saves",
            "connect_timeout_s",
            "timeout_s",
            "max_skipped_steps",
            "min_ranks",
        ):
            value = getattr(self, name)
            named = f"--{name.replace('_', '-')}"
            if isinstance(value, str):
                is_auto = (name, value) == ("micro_batch_size", "auto")
                require(is_auto, f"{named} is {value!r}, neither a number nor 'auto'")
                continue
            require(value is None or value > 0, f"{named} is {value}; it must be at least 1")
        require(
            0 <= self.checkpoint_stages <= 4,
            f"--checkpoint-stages is {self.checkpoint_stages}; it must lie in 0 to 4, the number of stages",
        )
        require(
            isinstance(self.cudnn_benchmark, bool) or self.cudnn_benchmark == "auto",
            f"--cudnn-benchmark is {self.cudnn_benchmark!r}; it must be True, False or auto",
        )
        require(
            self.compile != "graphs" or self.checkpoint_stages == 0,
            "--compile graphs has no place for --checkpoint-stages; leave out one of them",
        )
        require(
            self.profile is None or self.profile <= _MOST_PROFILED_STEPS,
            f"--profile is {self.profile}; a trace of more than {_MOST_PROFILED_STEPS} steps is too large to look at",
        )
        require(
            self.hang_timeout_s >= 0, f"--hang-timeout-s is {as_typed(self.hang_timeout_s)}; it must not be negative"
        )
        require(
            0 <= self.read_ahead <= _MOST_READ_AHEAD,
            f"--read-ahead is {self.read_ahead}; it must lie in 0 to {_MOST_READ_AHEAD}",
        )
        require(self.bucket_mb >= 0, f"--bucket-mb is {self.bucket_mb}; it must not be negative")
        self._check_engine()

    def _check_engine(self) -> None:
        require(
            self.zero_stage != 3,
            "--zero-stage 3 parts the weights too and gathers them layer by layer, twice a step; the weights of the "
            "largest model (r152x4) take 3.7 GB of each GPU, so that would cost time and gain nothing. Take 2",
        )
        stages = {"ddp": (0, 1), "horovod": (0,), "deepspeed": (0, 1, 2)}[self.engine]
        require(
            self.zero_stage in stages,
            f"--engine {self.engine} has no --zero-stage {self.zero_stage}; it has {', '.join(map(str, stages))}",
        )
        require(
            not self.elastic or self.engine == "ddp",
            f"--elastic is for --engine ddp: {self.engine} has groups that cannot be changed; leave one of them out",
        )
        require(
            not self.elastic or self.zero_stage == 0,
            f"--elastic has no --zero-stage {self.zero_stage}: a lost rank would take its part of the momentum along; "
            "take --zero-stage 0",
        )
        require(
            (self.zero_stage, self.micro_batch_size) != (2, "auto"),
            "--zero-stage 2 sends gradients after every micro-batch, so ranks cannot try sizes by themselves; give "
            "--micro-batch-size as a number, or take --zero-stage 1",
        )
        require(
            self.bucket_mb > 0 or self.engine == "horovod",
            f"--bucket-mb 0 is for horovod; with --engine {self.engine} it must be at least 1",
        )
        require(
            (self.engine, self.gradient_compression) != ("horovod", "bf16"),
            "Horovod cannot add up bf16; take --gradient-compression fp16 or none",
        )
