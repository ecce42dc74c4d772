"""Which sets share images or patients, so that testing on one is biased after training on the other."""

from collections.abc import Mapping, Sequence

# By the names of prepared sets; each pair once, either may be the source.
_SHARING = {
    frozenset({"padchest", "padchest_cl"}): "PadChest-Cl is the part of PadChest with exactly one finding",
    frozenset({"nih_cxr14", "covidx"}): "COVIDx takes images of the RSNA challenge, which are NIH ChestX-ray14's",
    frozenset({"nih_cxr14", "chestmnist"}): "ChestMNIST is NIH ChestX-ray14 in small",
    frozenset({"nih_cxr14", "rsna_pneumonia"}): "the RSNA challenge's images are NIH ChestX-ray14's",
    frozenset({"covidx", "rsna_pneumonia"}): "COVIDx takes images of the RSNA challenge",
    frozenset({"chestmnist", "rsna_pneumonia"}): "both are made of NIH ChestX-ray14",
    frozenset({"chestmnist", "covidx"}): "COVIDx takes images of NIH ChestX-ray14, of which ChestMNIST is made",
    frozenset({"imagenet1k", "imagenet21k"}): "ImageNet-1k is a part of ImageNet-21k",
}


def is_published(name: str) -> bool:
    """Whether that is the name of a set that everybody has, so that it means the same images however they were
    prepared."""
    from data_pipelines.datasets.registry import NAMED_SETS  # with all readers, and pandas

    return name in NAMED_SETS


def is_namesake(name: str, digest: str, other: str, other_digest: str) -> bool:
    """Whether two sets only share their name: both are known by their contents, and these differ. digest: as
    `content_digest`, "" where it is not known."""
    return name == other and bool(digest and other_digest) and digest != other_digest and not is_published(name)


def shares_images(
    source_sets: Sequence[str],
    target_set: str,
    source_digests: Mapping[str, str] | None = None,
    target_digest: str = "",
) -> str | None:
    """Why a source that was trained on these sets may have seen images or patients of a target; None if nothing is
    known against it. Sets are named as in their manifests. source_digests: of their contents, by these names, as far as
    they are known; sets of equal contents are the same, and so are those of equal names where a digest is missing.

    Sources: Bustos et al. 2020 (PadChest); Wang et al. 2020 (COVIDx); Shih et al. 2019 (RSNA challenge).
    """
    digests = source_digests or {}
    for name in source_sets:
        digest = digests.get(name, "")
        if target_digest and digest == target_digest:
            called = "" if name == target_set else f", called {name} there"
            return f"the source was pre-trained on {target_set}, the target itself{called}"
        if name == target_set and not is_namesake(name, digest, target_set, target_digest):
            return f"the source was pre-trained on {name}, the target itself"
        reason = _SHARING.get(frozenset({name, target_set}))
        if reason:
            return f"the source was pre-trained on {name}, which shares images with {target_set}: {reason}"
    return None


def namesake_note(
    source_sets: Sequence[str], target_set: str, source_digests: Mapping[str, str], target_digest: str
) -> str | None:
    """What to say of a source that was trained on another set of the target's name; None of others."""
    digest = source_digests.get(target_set, "")
    if target_set not in source_sets or not is_namesake(target_set, digest, target_set, target_digest):
        return None
    return (
        f"the source was pre-trained on another set that is called {target_set}, too: by its content it is not the "
        "target. Should it be the same images, prepared in another way, then leave these runs out"
    )
