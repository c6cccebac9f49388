"""What a report is made from: every file and field is required, and the error names the one that is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analysis_tables import unfinished
from report_study import bridging_arms, write_study

from midstudy.report.inputs import FACTS, TABLES, ReportInputError, read_study


def rewrite(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: one for name, one in value.items() if one is not None}))


def test_a_study_is_read_whole(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    assert study.name == "bridging_micro"
    assert len(study.arms) == 62
    assert study.similarity is not None
    assert study.proximity is not None
    assert study.cost.unshared_steps == 17_112
    assert study.reproduction.versions["torch"] == "2.13.0+cpu"
    assert study.notes == ("long_form: dev carved from train by hash (10 % each)",)


@pytest.mark.parametrize("name", [*TABLES, *FACTS])
def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    write_study(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ReportInputError, match=f"{name}: missing"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("manifest.json", "question"),
        ("cost.json", "lower_bound_steps"),
        ("cost.json", "failed"),
        ("reproduce.json", "sources"),
    ],
)
def test_a_missing_field_is_an_error_that_names_file_and_field(tmp_path: Path, name: str, field: str) -> None:
    write_study(tmp_path)
    rewrite(tmp_path / name, **{field: None})
    with pytest.raises(ReportInputError, match=f"{name}: field '{field}' is missing"):
        read_study(tmp_path)


def test_a_field_of_the_wrong_type_is_an_error(tmp_path: Path) -> None:
    write_study(tmp_path)
    rewrite(tmp_path / "cost.json", cpu_s="much")
    with pytest.raises(ReportInputError, match="cpu_s"):
        read_study(tmp_path)


def test_a_failed_stage_without_its_cause_is_an_error(tmp_path: Path) -> None:
    write_study(tmp_path, failed=[{"id": "0a", "label": "sft"}])
    with pytest.raises(ReportInputError, match=r"failed\[0\]"):
        read_study(tmp_path)


@pytest.mark.parametrize("name", ["cost.json", "arms.parquet"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    write_study(tmp_path)
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(ReportInputError, match=f"{name}: damaged"):
        read_study(tmp_path)


def test_a_table_of_another_manifest_is_an_error(tmp_path: Path) -> None:
    write_study(tmp_path)
    bridging_arms().iloc[1:].to_parquet(tmp_path / "arms.parquet", index=False)
    with pytest.raises(ReportInputError, match=r"holds 61 runs .* the manifest has 62"):
        read_study(tmp_path)


def test_tables_without_rows_are_counts_that_are_not_finished(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path, counted=False))
    assert study.similarity is None
    assert study.proximity is None


def test_a_similarity_table_without_a_measure_is_an_error(tmp_path: Path) -> None:
    write_study(tmp_path)
    path = tmp_path / "similarity.parquet"
    pd.read_parquet(path).drop(columns="jsd_nats").to_parquet(path)
    with pytest.raises(ReportInputError, match="missing columns jsd_nats"):
        read_study(tmp_path)


def test_a_commit_is_not_known_outside_git(tmp_path: Path) -> None:
    write_study(tmp_path)
    path = tmp_path / "reproduce.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "git_commit": None, "git_dirty": None}))
    assert read_study(tmp_path).reproduction.git_commit is None


def test_the_digest_follows_what_the_report_uses_and_nothing_else(tmp_path: Path) -> None:
    before = read_study(write_study(tmp_path)).digest
    rewrite(tmp_path / "manifest.json", stages={"0a": {"cost_s": 3.0}}, command="midstudy run elsewhere.py")
    assert read_study(tmp_path).digest == before
    rewrite(tmp_path / "cost.json", cpu_s=1.0)
    other_cost = read_study(tmp_path).digest
    assert other_cost != before
    write_study(tmp_path, arms=unfinished(bridging_arms(), trunk_seed=2))
    assert read_study(tmp_path).digest not in {before, other_cost}
