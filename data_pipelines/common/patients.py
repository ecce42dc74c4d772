"""Patients of a set: their group numbers, and whether each is in one split only."""

from typing import Literal

from data_pipelines.common.hashes import hash_name

Patients = Literal["none", "apart", "may leak"]

NO_GROUP = -1


def group_of(patient: str) -> int:
    """Group number of a patient: a non-negative 63-bit hash, so that no name is stored."""
    return hash_name(patient)
