"""What a report is made from: the files of a study's folder, read and checked, each one required.

A study that is half done has all of these files; what is not finished is NaN, an empty table or a smaller count in
them, and the report says so. A file or a field that is not there is an error: it would be a gap that no one sees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from midstudy.analysis.arms import require_arms
from midstudy.data.tally import Tally
from midstudy.plan.left_out import LeftOut

MEASURES = ("cosine", "jaccard", "jsd_nats", "combined")
SIMILARITY_COLUMNS = ("left", "left_kind", "right", "right_kind", *MEASURES)
PROXIMITY_COLUMNS = ("mix", "weight", "task", "pa_combined", "pa_cosine", "pa_jaccard", "pa_js")
TABLES = ("arms.parquet", "similarity.parquet", "proximity.parquet")
FACTS = ("manifest.json", "cost.json", "reproduce.json", "left_out.json")


class ReportInputError(ValueError):
    """A file of the study's folder is missing or not what it should be; the message names it and the next step."""


@dataclass(frozen=True)
class FailedStage:
    """A stage that failed, and why."""

    id: str
    label: str
    cause: str


@dataclass(frozen=True)
class Cost:
    """What the finished stages took, beside what the plan said they need.

    ``cpu_s`` and ``stage_wall_s`` are sums over finished stages, whenever they ran; steps are optimizer steps.
    ``useful_steps`` counts each distinct step once, ``recomputed_steps`` those run again after faults.
    """

    num_stages: int
    num_finished: int
    cpu_s: float
    stage_wall_s: float
    useful_steps: int
    recomputed_steps: int
    lower_bound_steps: int
    unshared_steps: int
    num_tokens: int
    failed: tuple[FailedStage, ...]


@dataclass(frozen=True)
class Reproduction:
    """How the study was made: command, source tree, versions, and the source of every data set.

    ``git_commit`` has several commits, comma-joined, where stages were made at several; it is None outside git.
    """

    command: str
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str]
    sources: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class StudyTables:
    """A study as the report reads it.

    ``arms`` as in ``midstudy.analysis.arms``. ``similarity`` (long: a row for every ordered pair of data sets) and
    ``proximity`` (as ``proximity_rows`` of the similarity package gives it) are None until all token counts are done.
    ``digest`` is a SHA-256 over all of it.
    """

    name: str
    question: str
    notes: tuple[str, ...]
    arms: pd.DataFrame
    similarity: pd.DataFrame | None
    proximity: pd.DataFrame | None
    cost: Cost
    reproduction: Reproduction
    left_out: LeftOut
    digest: str


def read_study(folder: Path) -> StudyTables:
    """Read a study's folder (``STORE/studies/NAME``).

    Raises:
        ReportInputError: a file or field is missing or damaged, or the table of arms is not the manifest's.
        ValueError: the table of arms breaks a rule of ``require_arms``.
    """
    for name in (*TABLES, *FACTS):
        if not (folder / name).is_file():
            raise ReportInputError(
                f"{folder / name}: missing; a report needs {', '.join((*TABLES, *FACTS))}. "
                "`midstudy report` writes them from the store."
            )
    manifest, cost, reproduction, left_out = (_read_json(folder / name) for name in FACTS)
    required = {"name": str, "question": str, "notes": list, "arms": list, "stages": dict}
    _require_fields(folder / "manifest.json", manifest, required)
    arms = _read_table(folder / "arms.parquet")
    require_arms(arms)
    _require_same_arms(folder, manifest, arms)
    tables = {
        "similarity": _finished_table(folder / "similarity.parquet", SIMILARITY_COLUMNS),
        "proximity": _finished_table(folder / "proximity.parquet", PROXIMITY_COLUMNS),
    }
    facts = {
        "name": manifest["name"],
        "question": manifest["question"],
        "notes": tuple(str(note) for note in manifest["notes"]),
        "cost": _cost(folder / "cost.json", cost),
        "reproduction": _reproduction(folder / "reproduce.json", reproduction),
        "left_out": _left_out(folder / "left_out.json", left_out),
    }
    return StudyTables(arms=arms, **tables, **facts, digest=_digest(folder, facts))  # type: ignore[arg-type]


def _digest(folder: Path, facts: Mapping[str, Any]) -> str:
    """Over the tables' bytes and the facts used; the rest of the manifest changes without the results changing."""
    plain = {
        key: asdict(value) if isinstance(value, Cost | Reproduction | LeftOut) else value for key, value in facts.items()
    }
    total = hashlib.sha256(json.dumps(plain, sort_keys=True).encode("utf-8"))
    for name in TABLES:
        total.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ReportInputError(f"{path}: damaged ({error}); delete it and let `midstudy report` write it again") from error
    if not isinstance(value, dict):
        raise ReportInputError(f"{path}: found {type(value).__name__}, expected an object; see midstudy/report/inputs.py")
    return value


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise ReportInputError(f"{path}: damaged ({error}); delete it and let `midstudy report` write it again") from error


def _finished_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    table = _read_table(path)
    if table.empty:
        return None
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise ReportInputError(f"{path}: missing columns {', '.join(absent)}; let `midstudy report` write it again")
    return table


def _require_fields(path: Path, found: Mapping[str, Any], required: Mapping[str, type | tuple[type, ...]]) -> None:
    for name, kind in required.items():
        if name not in found:
            raise ReportInputError(f"{path}: field '{name}' is missing; let `midstudy report` write the file again")
        if not isinstance(found[name], kind):
            raise ReportInputError(f"{path}: field '{name}' is {found[name]!r}, of the wrong type for a report")


def _require_same_arms(folder: Path, manifest: Mapping[str, Any], arms: pd.DataFrame) -> None:
    if len(arms) != len(manifest["arms"]) or (len(arms) and arms["study"].iloc[0] != manifest["name"]):
        found = f"{len(arms)} runs of '{arms['study'].iloc[0]}'" if len(arms) else "no runs"
        raise ReportInputError(
            f"{folder / 'arms.parquet'}: holds {found}, the manifest has {len(manifest['arms'])} of "
            f"'{manifest['name']}'; let `midstudy report` write the tables of this manifest"
        )


def _cost(path: Path, found: Mapping[str, Any]) -> Cost:
    number = (int, float)
    numeric = [field.name for field in fields(Cost) if field.name != "failed"]
    _require_fields(path, found, {**dict.fromkeys(numeric, number), "failed": list})
    for index, stage in enumerate(found["failed"]):
        if not isinstance(stage, dict) or not {"id", "label", "cause"} <= stage.keys():
            raise ReportInputError(f"{path}: failed[{index}] is {stage!r}, expected an object with id, label and cause")
    failed = tuple(FailedStage(*(str(stage[key]) for key in ("id", "label", "cause"))) for stage in found["failed"])
    return Cost(**{name: found[name] for name in numeric}, failed=failed)


def _reproduction(path: Path, found: Mapping[str, Any]) -> Reproduction:
    kinds: dict[str, type | tuple[type, ...]] = {
        "command": str,
        "git_commit": (str, type(None)),
        "git_dirty": (bool, type(None)),
        "versions": dict,
        "sources": dict,
    }
    _require_fields(path, found, kinds)
    return Reproduction(**{name: found[name] for name in kinds})


def _left_out(path: Path, found: Mapping[str, Any]) -> LeftOut:
    _require_fields(path, found, {"tallies": list, "not_counted": list})
    try:
        tallies = tuple(Tally.from_json(one) for one in found["tallies"])
    except (KeyError, TypeError) as error:
        raise ReportInputError(f"{path}: damaged ({error!r}); let `midstudy report` write the file again") from error
    return LeftOut(tallies=tallies, not_counted=tuple(str(one) for one in found["not_counted"]))
