"""How the file of a picture becomes the pixels that a run's model takes, as steps that another program can follow."""

from collections.abc import Mapping
from typing import Any

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError
from data_pipelines.common.xray_storage import depth_of
from data_pipelines.image_files.shrink import JPEG_QUALITY

Step = dict[str, Any]
_OF_DICOM = (
    "of a DICOM file the modality LUT or rescaling is applied, then the first VOI LUT or window, which then says what "
    "is black and white; MONOCHROME1 is inverted, and padding is black (DICOM PS3.3, C.11.1, C.11.2 and C.7.5.1.1.2)"
)


def steps_of(metadata: Mapping[str, Any]) -> list[Step]:
    """The steps of `bitscale predict`, given what a checkpoint says; each is a `step` with its settings, in pixels:

    decode: to 8-bit pixels of `mode`, L or RGB. upright: turned as the EXIF block says, transparent pixels laid on
    `background`; a JPEG file that is turned is compressed again with `jpeg_quality`. bits: 2^bits - 1 is white in files
    of more than 8 bits; None where each file says it; bits_given: whatever the files say. scaled_decode: large JPEG
    files are decoded at a fraction of their size.
    central_square: as large as the shorter side, its corner rounded down.
    resize: to a `shorter_side`, the other one rounded as `longer_side` says, or to `height` and `width`; `filter`:
    bilinear with antialiasing, as Pillow's, or area, the mean over the area that a new pixel covers; on `pixels` of
    uint8, or of float32, which are then rounded. enlarge: False if smaller pictures stay as they are. jpeg_quality:
    with which a JPEG file is compressed again.
    center_crop: the central square of `side`, its corner rounded down.

    Raises InputError for a run that is evaluated on random views.
    """
    is_xray, side = bool(metadata.get("xray_size")), metadata["image_size"]
    depth, is_upright = depth_of(metadata), metadata.get("upright", False) is not False
    decode: Step = {"step": "decode", "mode": "L" if is_xray or metadata["channels"] == 1 else "RGB"}
    decode |= {"upright": is_upright, "background": ("black" if is_xray else "white") if is_upright else None}
    decode |= {"jpeg_quality": JPEG_QUALITY} if is_upright and not is_xray else {}
    decode |= {"bits": depth.bits, "bits_given": depth.is_given} if is_xray else {}
    decode |= {"scaled_decode": True} if metadata.get("scaled_decode") else {}
    steps = [decode, *_stored(metadata)]
    resize: Step = {"step": "resize", "filter": "bilinear", "pixels": "uint8", "enlarge": True}
    if metadata["eval_view"] == "squash":
        return [*steps, resize | {"height": side, "width": side}]
    if metadata["eval_view"] == "center_crop":
        steps.append(resize | {"shorter_side": metadata["resize"], "longer_side": "down"})
        return [*steps, {"step": "center_crop", "side": side}]
    raise InputError(
        f"the run is evaluated on random views ({metadata['eval_view']}), which other programs cannot draw; export one "
        f"that was trained with {flag('--data.eval-view')} squash or center_crop"
    )


def _stored(metadata: Mapping[str, Any]) -> list[Step]:
    """What `prepare` does with the pixels of a file."""
    if size := metadata.get("xray_size"):
        resize: Step = {"step": "resize", "filter": "bilinear", "pixels": "float32", "enlarge": True}
        cut = [] if metadata.get("xray_cut") == "whole" else [{"step": "central_square"}]
        return [*cut, resize | {"shorter_side": size, "longer_side": "nearest"}]
    if size := metadata.get("shorter_side"):
        resize = {"step": "resize", "filter": "area", "pixels": "float32", "enlarge": False}
        return [resize | {"shorter_side": size, "longer_side": "nearest", "jpeg_quality": JPEG_QUALITY}]
    return []


def words_of(step: Step) -> str:
    """A step as a sentence."""
    if step["step"] == "decode":
        return _decoding(step)
    if step["step"] == "central_square":
        return "Cut the central square, as large as the shorter side."
    if step["step"] == "center_crop":
        return f"Cut the central {step['side']} x {step['side']} pixels."
    if "height" in step:
        size = f"{step['height']} x {step['width']} pixels, whatever the aspect"
    else:
        rounding = "rounded down" if step["longer_side"] == "down" else "rounded to the nearest"
        size = f"a shorter side of {step['shorter_side']} pixels, the longer one in proportion, {rounding}"
    filter_ = "bilinear with antialiasing" if step["filter"] == "bilinear" else "area means"
    smaller = "" if step["enlarge"] else "; smaller pictures stay as they are"
    jpeg = f"; what was a JPEG file is a JPEG of quality {step['jpeg_quality']} then" if "jpeg_quality" in step else ""
    rounded = ", rounded at the end" if step["pixels"] == "float32" else ""
    return f"Resize to {size}: {filter_}, in {step['pixels']}{rounded}{smaller}{jpeg}."


def _decoding(step: Step) -> str:
    words = f"Decode to 8-bit {'grey' if step['mode'] == 'L' else 'RGB'}"
    if step["upright"]:
        words += f", turned as the EXIF block says, transparent pixels on {step['background']}"
    else:
        words += ", not turned, whatever the EXIF block says"
    if "jpeg_quality" in step:
        words += f"; what was a JPEG file and is turned is a JPEG of quality {step['jpeg_quality']} then"
    if "bits" in step:
        said = f"2^{step['bits']} - 1" if step["bits"] else "the largest value that the file declares"
        words += f"; of files with more than 8 bits, 0 is black and {said} is white"
        words += "" if step["bits_given"] or not step["bits"] else " where the file does not say it"
        words += f"; {_OF_DICOM}"
    if step.get("scaled_decode"):
        words += "; the run itself decodes large JPEG files at 1/2, 1/4 or 1/8 of their size, which differs slightly"
    return f"{words}."
