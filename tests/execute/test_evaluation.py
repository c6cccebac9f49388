"""Evaluation stages in a store, and the tables of stage and evaluation functions."""

from __future__ import annotations

import importlib
import inspect
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from builders.small_study import make_study, small_study

from midstudy.evaluate.items import ITEMS_FILE
from midstudy.evaluate.table import EVALUATORS
from midstudy.execute.stage import execute_stage
from midstudy.plan.planner import Plan
from midstudy.recipe.kinds import STAGE_KINDS
from midstudy.recipe.measure import EVALUATIONS, Evaluation, StateEvaluation
from midstudy.recipe.stage import Stage
from midstudy.store.record import Record
from midstudy.store.store import Store


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("finished") / "store", create=True)
    return store, make_study(store, small_study(text))


def evaluated(finished: tuple[Store, Plan], column: str) -> tuple[Record, Record, Path]:
    """Return a column's record, and record and folder of the same evaluation with bits per byte and items."""
    store, plan = finished
    old = plan.stages[plan.arms[0].measures[column][0]]
    assert isinstance(old.recipe, StateEvaluation)
    assert isinstance(old.recipe.evaluation, Evaluation)
    evaluation = replace(old.recipe.evaluation, metrics=("bits_per_byte",), items=True)
    recipe = replace(old.recipe, evaluation=evaluation)
    new = Stage(id=recipe.id, label="evaluate", recipe=recipe, parents=old.parents, role="evaluation")
    store.request(new)
    execute_stage(store, new.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
    return store.record(old.id), store.record(new.id), store.published_folder(new.id)


@pytest.mark.parametrize("column", ["sft_loss", "general_loss"])
def test_bits_per_byte_and_items_are_published_under_a_separate_id(finished: tuple[Store, Plan], column: str) -> None:
    old, new, folder = evaluated(finished, column)
    assert new.id != old.id
    assert old.files.keys() == set()
    assert new.files.keys() == {ITEMS_FILE}
    assert {name: new.metrics[name] for name in old.metrics} == old.metrics
    items = pd.read_parquet(folder / ITEMS_FILE)
    assert len(items) == 16
    assert items["target_tokens"].sum() == new.metrics["target_tokens"]
    bits = items["text_nats"].sum() / math.log(2)
    assert new.metrics["bits_per_byte"] == pytest.approx(bits / items["bytes"].sum(), rel=1e-12)


def test_every_row_names_a_function_of_two_arguments() -> None:
    rows = [(kind.make, ["recipe", "work"]) for kind in STAGE_KINDS.values()]
    rows += [(kind.assist, ["recipe", "work"]) for kind in STAGE_KINDS.values() if kind.assist]
    rows += [(function, ["evaluation", "subject"]) for function in EVALUATORS.values()]
    for name, parameters in rows:
        module, _, function = name.partition(":")
        signature = inspect.signature(getattr(importlib.import_module(module), function))
        assert list(signature.parameters) == parameters, name


def test_every_evaluation_has_an_evaluator() -> None:
    assert tuple(EVALUATORS) == EVALUATIONS


def test_the_tables_do_not_import_torch() -> None:
    code = "import sys, midstudy.recipe.kinds, midstudy.evaluate.table, midstudy.recipe.stage; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
