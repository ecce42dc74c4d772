"""Views of many positions, and all that describes them as a table."""

import numpy as np

from data_pipelines.loading.views import Augmentation, PolicyName, Views

MANY = np.arange(20_000)


def views_of_size(policy: PolicyName, positions: np.ndarray, height: int, width: int, seed: int = 0) -> Views:
    heights, widths = np.full(len(positions), height), np.full(len(positions), width)
    return Augmentation(policy, 224, 256, seed).views(positions, heights, widths)


def table(views: Views) -> np.ndarray:
    """All that describes each view, [B, columns]; the flip comes last."""
    columns = [views.window, views.resized, views.offset]
    if views.warp is not None:
        columns.append(views.warp.reshape(-1, 6))
    if views.operations is not None:
        columns += [views.operations.op, views.operations.magnitude]
        if views.operations.cutout is not None:
            columns.append(views.operations.cutout.reshape(-1, 2 * views.operations.op.shape[1]))
    return np.concatenate([*columns, views.flip[:, None]], axis=1)
