"""Looks in the store: each time that a report judged a study's claims with more seeds than before.

They are what later levels depend on (`midstudy/analysis/looks.py`), so the file is sealed and only grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from midstudy.files.atomic import write_bytes
from midstudy.files.reading import read_as
from midstudy.files.sealed import sealed
from midstudy.store.store import Store

_REMEDY = (
    "Restore it from a backup. If it is removed, later verdicts do not count the looks so far, and err more often than 5 %."
)


@dataclass(frozen=True, kw_only=True)
class JudgedClaim:
    """A claim at a look. `digest` is that of its definition, `num_seeds` the seeds behind its test (0: not tested).

    `verdict` is what this look decided: inconclusive for a claim that only an earlier one decided.
    """

    text: str
    digest: str
    num_seeds: int
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a study's claims, at `time` (UTC, ISO 8601).

    `num_seeds` is the largest number of seeds behind a claim, `fraction` the share of the planned seeds up to which the
    error is spent. `is_planned` is False if the study planned no looks: each of its reports judged at the whole level.
    """

    time: str
    num_seeds: int
    fraction: float
    is_planned: bool
    claims: tuple[JudgedClaim, ...]

    def seeds_by_claim(self) -> Mapping[str, int]:
        return {one.text: one.num_seeds for one in self.claims}


@dataclass(frozen=True)
class _Looks:
    looks: tuple[Look, ...]


def looks_of(store: Store, name: str) -> tuple[Look, ...]:
    """Return the recorded looks of the study `name`, the first one first.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        return read_as(store.paths.looks(name), _Looks, remedy=_REMEDY, is_sealed=True).looks
    except FileNotFoundError:
        return ()


def write_looks(store: Store, name: str, looks: Sequence[Look]) -> None:
    """Write all looks of a study, atomically.

    Raises:
        StoreError: the store cannot be written.
    """
    write_bytes(store.paths.looks(name), sealed(asdict(_Looks(tuple(looks)))))
