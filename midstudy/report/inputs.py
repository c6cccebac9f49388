"""The inputs of a report: the tables and facts that `write_tables` wrote into a study's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from midstudy.analysis.tables import OPTIONAL, Tables, read_tables
from midstudy.data.tally import Tally
from midstudy.plan.left_out import LeftOut
from midstudy.store.registration import Registration, registration
from midstudy.store.store import Store

FILES = ("manifest.json", "arms.parquet", "curves.parquet", "cost.json", "reproduce.json", "left_out.json", "answer.txt")

_OPTIONAL_FILES = tuple(f"{name}.parquet" for name in OPTIONAL)

_T = TypeVar("_T")


class ReportInputError(ValueError):
    """A file of the study's folder is missing or damaged; the message names the file and the command that writes it."""


@dataclass(frozen=True, eq=False)
class StudyFacts:
    """The inputs of a study's report. `digest` is a SHA-256 over all of them except the manifest's list of stages."""

    tables: Tables
    cost: dict[str, Any]
    """See `midstudy.analysis.tables.cost_summary`."""
    reproduction: dict[str, Any]
    """See `midstudy.analysis.tables.reproduction`."""
    left_out: LeftOut
    answer: str
    registration: Registration
    digest: str


def read_study(folder: Path) -> StudyFacts:
    """Read a study's folder (`STORE/studies/NAME`).

    Raises:
        ReportInputError: a file is missing or damaged.
        StoreError: the study's manifest is damaged or of another version.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise ReportInputError(f"{folder / name}: missing. Run `midstudy report`, which writes it from the store.")
    for name in (*FILES, *_OPTIONAL_FILES):
        if name.endswith(".parquet") and (folder / name).is_file():
            _read(folder / name, pd.read_parquet)  # the errors of Parquet do not name the file
    tables = read_tables(folder)
    cost, reproduction = (_read(folder / name, _facts) for name in ("cost.json", "reproduce.json"))
    left = _read(folder / "left_out.json", _left_out)
    answer = _read(folder / "answer.txt", lambda path: path.read_text("utf-8").strip())
    if len(tables.arms) != len(tables.manifest.arms):
        raise ReportInputError(
            f"{folder / 'arms.parquet'}: expected the manifest's {len(tables.manifest.arms)} arms, got {len(tables.arms)}. "
            "Run `midstudy report` to write the tables of this manifest."
        )
    registered = registration(Store.open(folder.resolve().parent.parent), tables.manifest.name)
    return StudyFacts(tables, cost, reproduction, left, answer, registered, _digest(folder, tables))


def _read(path: Path, reader: Callable[[Path], _T]) -> _T:
    try:
        return reader(path)
    except (OSError, KeyError, TypeError, ValueError) as error:  # raised by JSON or Parquet readers
        raise ReportInputError(f"{path}: damaged ({error!r}). Run `midstudy report` to write it again.") from error


def _facts(path: Path) -> dict[str, Any]:
    facts = json.loads(path.read_text("utf-8"))
    if not isinstance(facts, dict):
        raise TypeError(f"expected a JSON object, got {type(facts).__name__}")
    return facts


def _left_out(path: Path) -> LeftOut:
    facts = _facts(path)
    tallies = tuple(Tally.from_json(entry) for entry in facts["tallies"])
    return LeftOut(tallies=tallies, not_counted=tuple(facts["not_counted"]))


def _digest(folder: Path, tables: Tables) -> str:
    """Hash all inputs except the manifest's stages, which may change without changing the results."""
    manifest = tables.manifest
    facts: list[object] = [manifest.name, manifest.question, manifest.notes, manifest.seeds, manifest.looks]
    facts += [manifest.comparisons, manifest.claims, manifest.columns]
    total = hashlib.sha256(repr(facts).encode("utf-8"))
    for name in (*FILES[1:], *_OPTIONAL_FILES, "registration.json", "looks.json"):
        path = folder / name
        total.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return total.hexdigest()
