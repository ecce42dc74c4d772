"""Attribution maps of a network's decisions, by Captum (extra `explain`).

Explained is the score of a class or finding that AUC is computed from: of findings the logit, of classes the log odds
of the softmax, so that evidence against the others counts too. What speaks against a class is not drawn.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.common.errors import InputError
from data_pipelines.common.tasks import Task
from trainer.models.bit import BiTResNet

Floats = npt.NDArray[np.float32]
Method = Literal["gradcam", "gradients"]
METHODS: tuple[Method, ...] = get_args(Method)
TITLES: dict[Method, str] = {"gradcam": "Grad-CAM", "gradients": "Integrated gradients"}

IG_STEPS = 24  # between the baseline and the picture
SMOOTHING = 1 / 32  # standard deviation, of the side, by which integrated gradients are smoothed
_MOST_AT_ONCE = 32  # pictures in one pass
_REACH = 3  # of the Gaussian, in standard deviations


def require_captum() -> None:
    """Raise InputError that names the extra where Captum is missing."""
    try:
        import captum.attr  # noqa: F401 - here because few commands need it
    except ImportError as error:
        raise InputError(
            f"maps need Captum ({error}); in the checkout of bitscale: pip install -e '.[explain]'"
        ) from error


class Scored(nn.Module):
    """A copy of a network without gradients of its weights: float images [N, 1 or 3, S, S] in [0, 255] and classes,
    int64 [N] -> the score of each image's class, float [N]."""

    def __init__(self, network: BiTResNet, task: Task) -> None:
        super().__init__()
        self.network = deepcopy(network).float().requires_grad_(False).eval()
        self.last_stage = nn.Identity()  # whose output Captum reads
        self._is_softmax = task == "single_label" and network.head.out_features > 1

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        activations = self.last_stage(self.network.activations(images))
        logits: Tensor = self.network.head(activations.mean(dim=(2, 3)))
        own = logits.gather(1, classes[:, None])
        if self._is_softmax:
            own = own - logits.scatter(1, classes[:, None], -torch.inf).logsumexp(dim=1, keepdim=True)
        return own[:, 0]

    def probabilities(self, images: Tensor, classes: Tensor) -> npt.NDArray[np.float64]:
        """The probability of each image's class before the temperature, float64 [N]."""
        with torch.no_grad():
            parts = zip(images.split(_MOST_AT_ONCE), classes.split(_MOST_AT_ONCE), strict=True)
            return torch.cat([self(part.float(), own).double().sigmoid().cpu() for part, own in parts]).numpy()


def all_maps(scored: Scored, images: Tensor, classes: Tensor) -> dict[Method, Floats]:
    """The maps of each method; see `maps_of`."""
    return {method: maps_of(scored, method, images, classes) for method in METHODS}


def maps_of(scored: Scored, method: Method, images: Tensor, classes: Tensor) -> Floats:
    """What speaks for a class, at each pixel: float32 [N, S, S], 0 or more, in units of its score.

    images: uint8 [N, 1 or 3, S, S]; classes: int64 [N]. NaN where the last stage has one place only, so that Grad-CAM
    tells none. Sources: Selvaraju et al., arXiv:1610.02391, on what the head averages; Sundararajan et al.,
    arXiv:1703.01365, from uniform grey of the mean that the network subtracts, smoothed by a Gaussian.
    """
    attribute = _gradcam if method == "gradcam" else _integrated_gradients
    parts = zip(images.split(_MOST_AT_ONCE), classes.split(_MOST_AT_ONCE), strict=True)
    found = [attribute(scored, part.float(), own) for part, own in parts]
    return torch.cat(found).cpu().numpy() if found else np.zeros((0, *images.shape[2:]), dtype=np.float32)


def _gradcam(scored: Scored, images: Tensor, classes: Tensor) -> Tensor:
    from captum.attr import LayerGradCam  # here because few commands need it

    layer = LayerGradCam(scored, scored.last_stage)
    coarse: Any = layer.attribute(
        images.requires_grad_(), additional_forward_args=classes, relu_attributions=True
    ).detach()
    if coarse.shape[2:].numel() == 1:
        return torch.full_like(images[:, 0], torch.nan, requires_grad=False)
    return F.interpolate(coarse, images.shape[2:], mode="bilinear")[:, 0]


def _integrated_gradients(scored: Scored, images: Tensor, classes: Tensor) -> Tensor:
    from captum.attr import IntegratedGradients

    mean = torch.tensor(scored.network.mean, device=images.device)
    grey = 255 * (mean if images.shape[1] == 3 else mean.mean(dim=0, keepdim=True))
    attributed: Any = IntegratedGradients(scored).attribute(
        images,
        baselines=grey[None, :, None, None].expand_as(images),
        additional_forward_args=classes,
        n_steps=IG_STEPS,
        internal_batch_size=max(_MOST_AT_ONCE, len(images)),
    )
    return smoothed(attributed.detach().float().sum(dim=1, keepdim=True), SMOOTHING)[:, 0].relu()


def smoothed(images: Tensor, share: float) -> Tensor:
    """Images, float32 [N, C, S, S], under a Gaussian whose standard deviation is this share of the side; reflected at
    the border."""
    from scipy.ndimage import gaussian_filter  # on the CPU: torchvision's takes seconds to import

    sigma = share * images.shape[-1]
    blurred = gaussian_filter(images.cpu().numpy(), sigma, mode="reflect", truncate=_REACH, axes=(2, 3))
    return torch.from_numpy(blurred).to(images.device)


def with_shuffled(scored: Scored, prefixes: Iterable[str], seed: int = 0) -> Scored:
    """A copy whose weights below these names are shuffled, each tensor in itself: they keep their sizes and lose what
    they learned."""
    shuffled = deepcopy(scored)
    generator = torch.Generator().manual_seed(seed)
    wanted = tuple(prefixes)
    for name, weight in shuffled.network.named_parameters():
        if name.startswith(wanted):
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return shuffled
