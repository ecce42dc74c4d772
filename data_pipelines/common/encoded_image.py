"""An encoded image as stored in a shard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedImage:
    """A verified image as it goes into a shard: `encoded` is the file's bytes, `suffix` is "jpg" or "png", height and
    width are in pixels, `channels` is 1 or 3, `is_shrunk` a photograph that was larger, `is_turned` one that lay on its
    side, `remark` what is to be said of it although it was taken."""

    encoded: bytes
    suffix: str
    height: int
    width: int
    channels: int
    is_shrunk: bool = False
    is_turned: bool = False
    remark: str = ""
