"""Where a network looked: attribution maps over pictures, and what was measured of them."""

from trainer.explanation.checks import Checks, check, point
from trainer.explanation.maps import METHODS, TITLES, Floats, Method, Scored, all_maps, require_captum
from trainer.explanation.overlay import legend, on_picture, overlay, peak
from trainer.explanation.phantoms import NUMBER, PHANTOM_SET, phantom_cases
from trainer.explanation.report import Explained, gallery, intro, scale

__all__ = [
    "METHODS", "NUMBER", "PHANTOM_SET", "TITLES", "Checks", "Explained", "Floats", "Method", "Scored", "all_maps",
    "check", "gallery", "intro", "legend", "on_picture", "overlay", "peak", "phantom_cases", "point",
    "require_captum", "scale",
]  # fmt: skip
