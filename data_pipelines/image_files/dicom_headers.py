"""Headers of the DICOM files among many files, read in parallel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipelines.common.errors import InputError
from data_pipelines.common.progress import Progress
from data_pipelines.image_files.dicom import DICOM_SUFFIXES, DicomFacts, dicom_facts, is_dicom
from data_pipelines.image_files.file_formats import HEAD_BYTES, Format
from data_pipelines.image_files.folder_scan import suffix_of
from data_pipelines.image_files.suffixes import IMAGE_SUFFIXES

_THREADS = 16  # reading headers mostly waits for the file system
_BLOCK = 4096  # headers asked for at once: bounds the memory


def read_headers(files: Sequence[tuple[str, Path, Format | None]]) -> dict[str, DicomFacts | None]:
    """Facts from each DICOM file's header, by name; None if damaged, which the quarantine lists later.

    files: name, path and, where somebody looked at it, format. Raises InputError for a file that cannot be read.
    """
    candidates = [(name, path) for name, path, known in files if _may_be_dicom(name, known)]
    facts: dict[str, DicomFacts | None] = {}
    with (
        ThreadPoolExecutor(_THREADS, thread_name_prefix="headers") as pool,
        Progress("DICOM headers", len(candidates), "file") as bar,
    ):
        for start in range(0, len(candidates), _BLOCK):
            block = candidates[start : start + _BLOCK]
            for (name, _), found in zip(block, pool.map(_read, [path for _, path in block]), strict=True):
                if found or suffix_of(name) in DICOM_SUFFIXES:
                    facts[name] = found
            bar.update(len(block))
    return facts


def _read(path: Path) -> DicomFacts | None:
    try:
        with path.open("rb") as file:
            if not is_dicom(file.read(HEAD_BYTES)):  # what reads DICOM need not be installed for others
                return None
        return dicom_facts(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:  # might be readable later, and then the patient would not be known
        raise InputError(f"{path} cannot be read ({error.strerror}); fix that, or leave it out") from error


def _may_be_dicom(name: str, known: Format | None) -> bool:
    if known is not None:
        return known == "dicom"
    return suffix_of(name) not in IMAGE_SUFFIXES - DICOM_SUFFIXES
