"""The inputs of a report: the tables and facts that `write_tables` wrote into a study's folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.analysis.tables import OPTIONAL, Tables, read_tables
from midstudy.data.tally import Tally
from midstudy.files.errors import StoreError
from midstudy.plan.left_out import LeftOut
from midstudy.store.registration import Registration, registration
from midstudy.store.store import Store

_FACTS = ("cost", "reproduce", "left_out")
FILES = ("manifest.json", "arms.parquet", "curves.parquet", "cost.json", "reproduce.json", "left_out.json", "answer.txt")

_OPTIONAL_FILES = tuple(f"{name}.parquet" for name in OPTIONAL)


class ReportInputError(ValueError):
    """A table of the study's folder is missing or damaged; the message names the command that writes it."""


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
    try:
        tables = read_tables(folder)
        cost, reproduction, left = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in _FACTS)
        left_out = LeftOut(
            tallies=tuple(map(Tally.from_json, left["tallies"])),
            not_counted=tuple(left["not_counted"]),
            yields=left.get("yields", {}),
        )
        answer = (folder / "answer.txt").read_text("utf-8").strip()
    except StoreError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:  # the errors of Parquet do not name the file
        raise ReportInputError(
            f"{folder}: a table is missing or damaged ({error}). Run `midstudy report`, which writes them from the store."
        ) from error
    if len(tables.arms) != len(tables.manifest.arms):
        raise ReportInputError(
            f"{folder / 'arms.parquet'}: expected the manifest's {len(tables.manifest.arms)} arms, got {len(tables.arms)}. "
            "Run `midstudy report` to write the tables of this manifest."
        )
    registered = registration(Store.open(folder.resolve().parent.parent), tables.manifest.name)
    return StudyFacts(tables, cost, reproduction, left_out, answer, registered, _digest(folder, tables))


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
