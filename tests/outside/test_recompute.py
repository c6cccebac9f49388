"""A script that shares no code with the project recomputes a finished study's table of arms from the store alone."""

from __future__ import annotations

import ast
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from builders.decided_study import decided_study
from builders.places import TESTS
from builders.small_study import make_study, small_study

from midstudy.analysis.tables import write_tables
from midstudy.plan.manifest import manifest_of
from midstudy.recipe import Evaluation, Measure, Study, where
from midstudy.recipe.measure import BITS_PER_BYTE
from midstudy.store.store import Store

SCRIPT = TESTS / "outside" / "recompute.py"
QUANTITIES = {"dose", "tokens", "items", "num_tokens", "seen", "target_tokens", "bytes", "items_table"}


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recompute", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_bits_per_byte(study: Study) -> Study:
    """Return the study with results per item and bits per byte of every measure."""
    arms = []
    for arm in study.arms:
        measures: dict[str, Measure] = {}
        for column, measure in arm.measures.items():
            assert isinstance(measure.evaluation, Evaluation)
            evaluation = replace(measure.evaluation, metrics=(BITS_PER_BYTE.name,), items=True)
            measures[column] = replace(measure, evaluation=evaluation)
            measures[column.replace("loss", "bits")] = replace(measures[column], metric=BITS_PER_BYTE.name)
        arms.append(replace(arm, measures=measures))
    (main,) = study.comparisons
    main = replace(main, arms=where(arms, mix="code"), references=where(arms, mix="control"))
    return replace(study, arms=arms, comparisons=[main])


@pytest.fixture(scope="module")
def store(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two tasks and two start steps, whose items are cut at 32 tokens."""
    root = tmp_path_factory.mktemp("outside") / "store"
    opened = Store.open(root, create=True)
    study = with_bits_per_byte(small_study(text, tasks=("code_task", "word_task"), starts=(3, 7)))
    manifest = manifest_of(make_study(opened, study), command="midstudy run small.py")
    write_tables(opened, manifest, opened.paths.study(manifest.name))
    return root


def test_the_script_imports_nothing_of_the_project() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert not {name for name in imported if name.startswith(("midstudy", "builders"))}


def test_every_number_of_every_arm_is_recomputed_from_the_store(store: Path) -> None:
    found = script().Outside(store, "small").deviations()
    assert (found.pop("num_arms"), found.pop("num_items")) == (6, 6 * 2 * 4 * 16)  # 16 items, measured for two columns
    assert found.keys() == QUANTITIES | {"loss_nats", "bits_per_byte"}
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("column", ["dose:code", "tokens:general", "seen:code_task", "sft_bits", "general_loss"])
def test_a_wrong_number_in_the_table_deviates(store: Path, tmp_path: Path, column: str) -> None:
    """The script would report a wrong number of each kind."""
    folder = tmp_path / "studies" / "small"
    folder.mkdir(parents=True)
    (tmp_path / "stages").symlink_to(store / "stages")
    arms = pd.read_parquet(store / "studies" / "small" / "arms.parquet")
    arms[column] = arms[column] + 1e-6 if arms[column].dtype == float else arms[column] + 1
    arms.to_parquet(folder / "arms.parquet")
    (folder / "manifest.json").write_text((store / "studies" / "small" / "manifest.json").read_text("utf-8"), "utf-8")
    found = script().Outside(tmp_path, "small").deviations()
    assert max(value for name, value in found.items() if name not in ("num_arms", "num_items")) > 5e-7


def test_a_forged_item_deviates(store: Path, tmp_path: Path) -> None:
    """Target tokens and bytes are counted from the tokens, not taken from the items."""
    manifest = json.loads((store / "studies" / "small" / "manifest.json").read_text("utf-8"))
    (evaluation,) = manifest["arms"][0]["measures"]["sft_loss"]
    (tmp_path / "stages").mkdir()
    for stage in (store / "stages").iterdir():
        if stage.name != evaluation:
            (tmp_path / "stages" / stage.name).symlink_to(stage)
    forged = tmp_path / "stages" / evaluation
    (forged / "published").mkdir(parents=True)
    (forged / "recipe.json").write_text((store / "stages" / evaluation / "recipe.json").read_text("utf-8"), "utf-8")
    items = pd.read_parquet(store / "stages" / evaluation / "published" / "items.parquet")
    items.loc[0, "bytes"] += 3
    items.to_parquet(forged / "published" / "items.parquet")
    (tmp_path / "studies").symlink_to(store / "studies")
    assert script().Outside(tmp_path, "small").deviations()["bytes"] == 3


def test_doses_follow_the_rates_that_recorded_decisions_chose(text: Path, tmp_path: Path) -> None:
    opened = Store.open(tmp_path / "store", create=True)
    manifest = manifest_of(make_study(opened, decided_study(text)), command="midstudy run decided.py")
    assert any(stage.kind == "decision" for stage in manifest.stages.values())
    write_tables(opened, manifest, opened.paths.study(manifest.name))
    found = script().Outside(tmp_path / "store", manifest.name).deviations()
    assert found["num_arms"] == len(manifest.arms)
    assert found["dose"] < 1e-9
