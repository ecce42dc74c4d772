"""Which sets show the same images or patients: a test on the one is no test of what was learnt from the other."""

from collections.abc import Sequence

# By the names of prepared sets; each pair once, either may be the source.
_SHARING = {
    frozenset({"padchest", "padchest_cl"}): "PadChest-Cl is the part of PadChest with exactly one finding",
    frozenset({"nih_cxr14", "covidx"}): "COVIDx takes images of the RSNA challenge, which are NIH ChestX-ray14's",
    frozenset({"imagenet1k", "imagenet21k"}): "ImageNet-1k is a part of ImageNet-21k",
}


def shares_images(source_sets: Sequence[str], target_set: str) -> str | None:
    """Why a source that was trained on these sets may have seen images or patients of a target; None if nothing is
    known against it. Sets are named as in their manifests; equal names count as the same set.

    Sources: Bustos et al. 2020 (PadChest); Wang et al. 2020 (COVIDx); Shih et al. 2019 (RSNA challenge).
    """
    for name in source_sets:
        if name == target_set:
            return f"the source was pre-trained on {name}, the target itself"
        reason = _SHARING.get(frozenset({name, target_set}))
        if reason:
            return f"the source was pre-trained on {name}, which shares images with {target_set}: {reason}"
    return None
