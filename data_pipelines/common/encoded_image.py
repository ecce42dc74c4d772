"""An encoded image as stored in a shard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedImage:
    """A verified image for a shard: `encoded` is the file's bytes, `suffix` is "jpg" or "png", height and width are in
    pixels, `channels` is 1 or 3. `is_shrunk`: a photograph that was larger; `is_turned`: one that was rotated or
    mirrored upright; `remark`: a warning about an image that was accepted."""

    encoded: bytes
    suffix: str
    height: int
    width: int
    channels: int
    is_shrunk: bool = False
    is_turned: bool = False
    remark: str = ""
