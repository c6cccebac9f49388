"""The inputs of a report: every file is required; the message on a damaged one names it and the command that rewrites it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from builders.analysis_tables import bridging_tables
from builders.report_study import write_study

from midstudy.analysis.tables import OPTIONAL
from midstudy.report.inputs import FILES, ReportInputError, read_study

OPTIONAL_FILES = [f"{name}.parquet" for name in OPTIONAL]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_study(tmp_path, bridging_tables())


def test_all_inputs_of_a_study_are_read(folder: Path) -> None:
    study, tables = read_study(folder), bridging_tables()
    assert study.tables.manifest == tables.manifest
    assert study.tables.arms["sft_loss"].tolist() == tables.arms["sft_loss"].tolist()
    assert study.cost["useful_steps"] == 5_397
    assert study.answer.startswith("For task pycode")


@pytest.mark.parametrize("damage", ["missing", "damaged"])
@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_or_damaged_table_is_an_error_that_says_what_to_run(folder: Path, name: str, damage: str) -> None:
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"{\xff")
    with pytest.raises(ReportInputError, match=r"a table is missing or damaged \(.*Run `midstudy report`"):
        read_study(folder)


def test_a_table_of_another_manifest_is_an_error(tmp_path: Path) -> None:
    tables = bridging_tables()
    folder = write_study(tmp_path, replace(tables, arms=tables.arms.iloc[1:]))
    with pytest.raises(ReportInputError, match=r"arms\.parquet: expected the manifest's \d+ arms, got"):
        read_study(folder)


def test_missing_similarity_tables_count_as_unfinished(folder: Path) -> None:
    (folder / "similarity.parquet").unlink()
    (folder / "proximity.parquet").unlink()
    study = read_study(folder)
    assert study.tables.similarity is None
    assert study.tables.proximity is None


def test_the_digest_changes_only_with_inputs_of_the_report(folder: Path) -> None:
    before = read_study(folder).digest
    assert read_study(folder).digest == before
    (folder / "other.json").write_text("{}")
    assert read_study(folder).digest == before
    cost = json.loads((folder / "cost.json").read_text())
    (folder / "cost.json").write_text(json.dumps({**cost, "cpu_s": 391.0}))
    assert read_study(folder).digest != before
