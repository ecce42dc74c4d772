"""Warns of a val loss that has been above its lowest for long: the model overfits."""

from data_pipelines.common.messages import rank_0_logger

_LONG = 1 / 3  # of the run


class RisingValLoss:
    """Compares the val losses of a run with the lowest one so far, of this start."""

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps
        self._lowest, self._lowest_at = float("inf"), 0
        self._is_told = False

    def observe(self, done: int, loss: float) -> None:
        """Take the val loss after `done` steps. Warns once when the lowest is more than a third of the run in the past,
        and again after the last step."""
        if loss < self._lowest:
            self._lowest, self._lowest_at = loss, done
        is_long = done - self._lowest_at > self._total_steps * _LONG
        if not is_long or (self._is_told and done != self._total_steps):
            return
        self._is_told = True
        rank_0_logger.warning(
            f"val loss was lowest at step {self._lowest_at} of {self._total_steps}: {self._lowest:.3g}, and {loss:.3g} "
            f"after step {done}. The model overfits its training images; the checkpoint with the best val metric is "
            "kept. Try more images, more augmentation, fewer epochs or a smaller model"
        )
