"""Warns of a val loss that has been above its lowest for long: the model overfits."""

from data_pipelines.common.advice import flag
from data_pipelines.common.messages import rank_0_logger
from trainer.config import Config

_SMALLEST = "r14x0.5"  # model
_LONG = 1 / 3  # of the run
_LEAST_RISE, _LEAST_SHARE = 0.01, 0.01  # in nats, and of the lowest


class RisingValLoss:
    """Compares the val losses of a run with the lowest one so far, of this start."""

    def __init__(self, config: Config, total_steps: int, steps_per_epoch: float) -> None:
        self._config, self._total_steps, self._steps_per_epoch = config, total_steps, steps_per_epoch
        self._lowest, self._lowest_at = float("inf"), 0

    def observe(self, done: int, loss: float) -> None:
        """Take the val loss after `done` steps. Warns after the last step if the lowest is more than a third of the run
        and an epoch, before which no image is seen again, in the past, and the loss has risen since by more than
        rounding."""
        if loss < self._lowest:
            self._lowest, self._lowest_at = loss, done
        has_risen = loss - self._lowest > max(_LEAST_RISE, _LEAST_SHARE * self._lowest)
        is_long = done - self._lowest_at > max(self._total_steps * _LONG, self._steps_per_epoch)
        if done < self._total_steps or not is_long or not has_risen:
            return
        rank_0_logger.warning(
            f"val loss was lowest at step {self._lowest_at} of {self._total_steps}: {self._lowest:.3g}, and {loss:.3g} "
            f"at the end. The model overfits its training images; the checkpoint with the best val metric is kept. Try "
            f"{_remedies(self._config)}"
        )


def _remedies(config: Config) -> str:
    ways = ["more images", f"more augmentation ({flag('--data.randaugment-ops')} 2)"]
    if config.model.pretrained is None:
        ways.append(f"pre-trained weights ({flag('--model.pretrained')})")
        ways += [] if config.model.name == _SMALLEST else [f"a smaller model ({flag('--model.name')} {_SMALLEST})"]
    return f"{', '.join(ways)}, or fewer steps ({flag('--schedule.steps')})"
