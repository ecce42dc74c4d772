"""User image lists as a `RawSet` split by patient; patients come from a table or from DICOM headers."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import some_of
from data_pipelines.common.patients import NO_GROUP, group_of
from data_pipelines.common.raw_set import RawImage, RawSet, key_of
from data_pipelines.common.splits import Split, hash_split
from data_pipelines.datasets.reading import require_fractions
from data_pipelines.datasets.similar_names import difference, near, plain
from data_pipelines.datasets.stored_columns import require_facts_apart
from data_pipelines.datasets.study_dates import FACT, StudyDate, study_dates
from data_pipelines.datasets.table import is_anonymous, is_missing
from data_pipelines.image_files.dicom import DicomFacts
from data_pipelines.image_files.dicom_headers import read_headers
from data_pipelines.image_files.file_formats import Format
from data_pipelines.image_files.shrink import require_shorter_side

SplitBy = Literal["patient", "image"]
Laterals = Literal["keep", "drop"]

DICOM_XRAY_SIZE = 256  # pixels a side; a DICOM cannot be stored as it is

_XRAY_MODALITIES = {"CR", "DX", "RG", "RF", "XA", "MG", "IO", "PX", "OT", "SC", ""}
_NAMED = 10  # classes in a note
_USUAL_FRACTION = 0.1  # of val and of test
_WIDER_FRACTIONS = (0.2, 0.3, 0.4)


@dataclass(frozen=True)
class Sample:
    """A file before its header is read. name: relative to the root, as text; patient: from a table, None where that is
    blank; facts: from a table; format: None if not yet detected."""

    name: str
    path: Path
    label: int | npt.NDArray[np.float32]
    split: Split = "train"
    patient: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    format: Format | None = None


@dataclass(frozen=True)
class Choices:
    """Options that all readers of the user's own sets have. Raises InputError for impossible values."""

    val_fraction: float
    test_fraction: float
    split_by: SplitBy
    xray_size: int | None
    laterals: Laterals
    shorter_side: int | None = None
    study_date: StudyDate | None = None

    def __post_init__(self) -> None:
        require_fractions(val=self.val_fraction, test=self.test_fraction)
        if self.xray_size is not None and self.xray_size < 1:
            raise InputError(f"--xray-size is {self.xray_size}; it is the side of the stored pictures in pixels")
        require_shorter_side(self.shorter_side, self.xray_size, has_dicom=False)


def user_set(
    samples: Sequence[Sample], choices: Choices, has_patients: bool, notes: Sequence[str], **fields: Any
) -> RawSet:
    """The RawSet of some files; `fields` are passed to it, and `notes` follow those on patients and classes.

    Val and test are carved out of train unless some samples are in them: by patient or, without patients, by key.
    has_patients: the samples name their patients; those in DICOM headers are ignored. Raises InputError where patients
    are required but unknown, where a fact is the patient, and for dropping laterals without DICOM.
    """
    samples, facts, without = _with_headers(samples)
    left_out = Counter(fields.pop("left_out", {})) + without
    require_shorter_side(choices.shorter_side, choices.xray_size, has_dicom=bool(facts))
    if choices.laterals == "drop" and not facts:
        raise InputError("--laterals drop needs DICOM files, which alone say their view, and there are none here")
    views = _header_notes(list(filter(None, facts.values())), choices.laterals)
    if choices.laterals == "drop":
        samples = [sample for sample in samples if not _is_lateral(facts.get(sample.name))]
    if not has_patients:
        samples = _with_patients(samples, facts)
    require_facts_apart([sample.patient for sample in samples], [sample.facts for sample in samples])
    damaged = {name for name, header in facts.items() if header is None}
    nameless = [sample.name for sample in samples if sample.patient is None and sample.name not in damaged]
    knows_none = not has_patients and not facts and choices.xray_size is None  # photographs
    if choices.split_by == "patient" and not knows_none:
        _require_patients(samples, nameless, choices)
    splits = _splits(samples, choices)
    given = {sample.split for sample in samples}
    leaks = [] if knows_none else _leaks(samples, splits, nameless)
    near_ones = [] if knows_none else _near_notes(samples, has_patients)
    headers = [facts.get(sample.name) for sample in samples]
    dates, on_dates = study_dates([header.study_date if header else "" for header in headers], choices.study_date)
    images = [_raw_image(*each) for each in zip(samples, splits, headers, dates, strict=True)]
    return RawSet(
        images=images,
        num_images=len(images),
        xray_size=choices.xray_size or (DICOM_XRAY_SIZE if facts else None),
        shorter_side=choices.shorter_side,
        patients="none" if knows_none else "may leak" if leaks else "apart",
        notes=(
            *views,
            *on_dates,
            *leaks,
            *near_ones,
            *_split_notes(samples, choices, given, splits),
            *_class_notes(images, fields["classes"]),
            *notes,
        ),
        has_own_test="test" in given,
        has_own_val="val" in given,
        is_user_set=True,
        upright=True,
        left_out=left_out,
        **fields,
    )


def _with_headers(
    samples: Sequence[Sample],
) -> tuple[Sequence[Sample], dict[str, DicomFacts | None], Counter[str]]:
    """The samples that are images, the DICOM headers by their names, and how many were left out, by kind."""
    headers = read_headers([(sample.name, sample.path, sample.format) for sample in samples])
    without = {name: header.left_out for name, header in headers.items() if header and header.left_out}
    samples = [sample for sample in samples if sample.name not in without]
    headers = {name: header for name, header in headers.items() if name not in without}
    return samples, headers, Counter(without.values())


def _raw_image(sample: Sample, split: Split, header: DicomFacts | None, date: str) -> RawImage:
    return RawImage(
        key=key_of(sample.name),
        split=split,
        image=sample.path,
        label=sample.label,
        group=NO_GROUP if sample.patient is None else group_of(sample.patient),
        facts=_known_facts(header, date, sample.facts),
    )


def _known_facts(header: DicomFacts | None, date: str, of_table: Mapping[str, str]) -> dict[str, str]:
    """View, sex and age from a DICOM header, and the date; values of the table take precedence."""
    known = {"view": header.view, "sex": header.sex, "age": header.age, FACT: date} if header else {}
    known |= {name: value for name, value in of_table.items() if value}
    return {name: value for name, value in known.items() if value}


def _is_lateral(header: DicomFacts | None) -> bool:
    return header is not None and header.lateral is True


def _with_patients(samples: Sequence[Sample], facts: Mapping[str, DicomFacts | None]) -> list[Sample]:
    """The samples with patients from DICOM headers; a word such as ANONYMOUS on several images counts as no patient if
    others are named."""
    headers = (facts.get(sample.name) for sample in samples)
    patients = [header.patient if header else None for header in headers]
    counts = Counter(patients)

    def names_none(patient: str) -> bool:
        return 1 < counts[patient] < len(patients) and (is_missing(patient) or is_anonymous(patient))

    known = [patient if patient and not names_none(patient) else None for patient in patients]
    return [replace(sample, patient=patient) for sample, patient in zip(samples, known, strict=True)]


def _header_notes(headers: Sequence[DicomFacts], laterals: Laterals) -> list[str]:
    if not headers:
        return []
    views = Counter(header.lateral for header in headers)
    found = f"{views[True]:,} of {len(headers):,} DICOM images are lateral views"
    fate = ", left out" if laterals == "drop" else ", kept (--laterals drop leaves them out)"
    notes = []
    if views[True] or views[None] or laterals == "drop":
        notes.append(f"{found}{fate if views[True] else ''}; {views[None]:,} do not say their view and are kept")
    others = Counter(header.modality for header in headers if header.modality not in _XRAY_MODALITIES)
    if others:
        found = ", ".join(f"{name} ({count:,})" for name, count in sorted(others.items()))
        notes.append(f"some DICOM images are of modalities that are no X-rays, and are taken for X-rays: {found}")
    return notes


def _require_patients(samples: Sequence[Sample], nameless: Sequence[str], choices: Choices) -> None:
    if nameless:
        raise InputError(
            f"{len(nameless):,} of {len(samples):,} images name no patient, the first is {nameless[0]} (words such "
            "as ANONYMOUS name none): one patient could be in train and in test. Name them all (PatientID of DICOM, or "
            "--patient-column of the csv reader), leave those images out, or accept it with --split-by image"
        )
    carves = choices.val_fraction > 0 or choices.test_fraction > 0
    if carves and len(samples) > 1 and len({sample.patient for sample in samples if sample.patient is not None}) == 1:
        raise InputError(
            f"all {len(samples):,} images name the same patient, as happens when names are removed; name the patients "
            "(--patient-column of the csv reader), or split by image with --split-by image"
        )


def _split_notes(samples: Sequence[Sample], choices: Choices, given: Set[Split], splits: Sequence[Split]) -> list[str]:
    """Notes on a split that was to be carved and got no image, with fractions that give it some, and on a fraction
    that is not used."""
    asked: dict[Split, float] = {"val": choices.val_fraction, "test": choices.test_fraction}
    notes = [
        f"--{name}-fraction {fraction:g} is not used, as {name} is given"
        for name, fraction in asked.items()
        if name in given and fraction not in (0, _USUAL_FRACTION)
    ]
    empty = [name for name, fraction in asked.items() if fraction > 0 and name not in splits]
    if not empty:
        return notes
    wider = (replace(choices, val_fraction=each, test_fraction=each) for each in _WIDER_FRACTIONS)
    filled = next((each for each in wider if {*given, *asked} <= {*_splits(samples, each)}), None)
    again = f"--test-fraction {filled.test_fraction:g} --val-fraction {filled.val_fraction:g}, or " if filled else ""
    return [
        *notes,
        f"no image came into {' or '.join(empty)}, as the set is small; prepare it again with {again}splits of your "
        "own (--split-column of the csv reader, or folders train, val and test)",
    ]


def _splits(samples: Sequence[Sample], choices: Choices) -> list[Split]:
    given = {sample.split for sample in samples}
    fractions = (0.0 if "val" in given else choices.val_fraction, 0.0 if "test" in given else choices.test_fraction)

    def split_of(sample: Sample) -> Split:
        if sample.split != "train":
            return sample.split
        by_patient = choices.split_by == "patient" and sample.patient is not None
        return hash_split(str(sample.patient) if by_patient else key_of(sample.name), *fractions)

    return [split_of(sample) for sample in samples]


def _leaks(samples: Sequence[Sample], splits: Sequence[Split], nameless: Sequence[str]) -> list[str]:
    """Note on patients in several splits; nothing if there are certainly none."""
    if nameless:
        return [
            f"the patients of {len(nameless):,} of {len(samples):,} images are not known: images of one patient may be "
            "in train and in test"
        ]
    splits_of: dict[str, set[Split]] = defaultdict(set)
    for sample, split in zip(samples, splits, strict=True):
        if sample.patient is not None:
            splits_of[sample.patient].add(split)
    parted = sum(len(found) > 1 for found in splits_of.values())
    if parted:
        return [f"{parted:,} of {len(splits_of):,} patients have images in more than one split"]
    of_near: dict[str, set[Split]] = defaultdict(set)
    for patient, found in splits_of.items():
        of_near[plain(patient)] |= found
    parted = sum(len(found) > 1 for found in of_near.values())
    return [f"patients in more than one split, if those of near names are one: {parted:,}"] if parted else []


def _near_notes(samples: Sequence[Sample], has_patients: bool) -> list[str]:
    """Note on patients that may be the same one, without printing their names. has_patients: from a table."""
    groups = near(dict.fromkeys(sample.patient for sample in samples if sample.patient is not None))
    if not groups:
        return []
    ways = sorted({difference(group) for group in groups})
    count = sum(map(len, groups))
    where = "in the table" if has_patients else "in a table (--patient-column of the csv reader)"
    return [
        f"{count:,} patients have names that differ from others only in {' or '.join(ways)}; are they one? If so, give "
        f"each patient one name {where}, and prepare the set again with --force"
    ]


def _class_notes(images: Sequence[RawImage], classes: Sequence[str]) -> list[str]:
    """Notes on classes without an image in train, findings without a positive or a negative there, and a set of a
    single class."""
    counts, negatives = np.zeros(len(classes)), np.zeros(len(classes))
    for image in images:
        if image.split == "train":
            if isinstance(image.label, int):
                counts[image.label] += 1
            else:
                counts += image.label == 1
                negatives += image.label == 0
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    of_findings = bool(images) and not isinstance(images[0].label, int)
    what = "positive" if of_findings else "image"
    notes = [f"train has no {what} of: {some_of(absent, _NAMED)}"] if absent else []
    always = [name for name, count, other in zip(classes, counts, negatives, strict=True) if count and not other]
    if always and of_findings:
        notes.append(
            f"train has no image without: {some_of(always, _NAMED)}; there is nothing to tell apart, so add "
            "images with 0 there"
        )
    if len(classes) == 1 and images and not of_findings:
        notes.append(f"there is one class only, {classes[0]}, so that there is nothing to tell apart")
    return notes
