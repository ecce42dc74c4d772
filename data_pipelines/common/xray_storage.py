"""How X-rays are stored: which part of the image, and which value is white at more than 8 bits."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

XrayCut = Literal["square", "whole"]

LEAST_BITS, MOST_BITS = 8, 31
_BITS_OF_PADCHEST = 16


class Depth(NamedTuple):
    """Bits per pixel of a set whose files hold more than 8; None: as each file says.

    is_given: set by the user, and used for all files; otherwise `bits` is for files that do not say it themselves.
    """

    bits: int | None = None
    is_given: bool = False

    @property
    def given(self) -> int | None:
        """The bits set by the user."""
        return self.bits if self.is_given else None

    def of(self, declared: int | None) -> int:
        """The bits of an image whose file declares so many. Raises ValueError if nothing states them."""
        bits = self.given or declared or self.bits
        if bits is None:
            raise ValueError("pixels of more than 8 bits, and the file does not say how many: say it with --bits")
        return bits

    def why_flat(self) -> str:
        """What most likely made X-rays come out nearly black or white, and what to do about it."""
        if self.is_given:
            return (
                f"--bits {self.bits} holds for every file, also for those that say fewer bits: leave it out, or give "
                "fewer"
            )
        if self.bits:
            return (
                f"Files that do not say their bits count as of {self.bits}: take those of fewer bits by themselves, "
                "with --bits"
            )
        return "Their files say more bits, or a wider window, than they use: --bits says it otherwise"


AS_DECLARED = Depth()


def depth_of(metadata: Mapping[str, Any]) -> Depth:
    """The depth in the manifest of a set, or in what a checkpoint says of its run.

    Earlier versions did not write down who said it. Apart from the user, only the readers of PadChest did.
    """
    bits, is_found = metadata.get("bits"), metadata.get("bits_found", False)
    was_given = bits not in (None, _BITS_OF_PADCHEST) and not is_found
    return Depth(bits, bool(metadata.get("bits_given", was_given)))
