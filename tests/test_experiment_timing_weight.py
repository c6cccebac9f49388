"""Timing crossed with weight: every cell planned once, on trunks that are shared, and a table of them that is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from midstudy.analysis.arms import ARM_COLUMNS, in_group, require_arms
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import make_plan
from midstudy.recipe import RecipeError

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "timing_weight.py"


def test_every_start_step_meets_every_weight_and_trunks_are_shared() -> None:
    study = load_study(EXPERIMENT, settings=["trunk_seeds=(0, 1)"])
    cells = [(arm.start_step, arm.weight) for arm in study.arms if arm.mix == "code" and arm.trunk_seed == 1]
    assert cells == [(start, weight) for start in (24, 79, 157, 197) for weight in (0.1, 0.2, 0.5, 0.8)]
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    branches = 4 * sum(240 - start for start in (24, 79, 157, 197))
    assert plan.total_steps == plan.lower_bound_steps == 2 * (240 + branches + 17 * 36)


def test_the_comparisons_lie_along_the_axes_through_the_main_cell() -> None:
    study = load_study(EXPERIMENT, settings=["trunk_seeds=(0,)", "main_start_step=79", "main_weight=0.5"])
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    rows = manifest_of(plan, command="")["arms"]
    import pandas as pd

    table = pd.DataFrame([{name: row.get(name, float("nan")) for name in ARM_COLUMNS} | {"study": "x"} for row in rows])
    require_arms(table)
    mixed = {group: in_group(table, group).query("mix != 'control'") for group in ("main", "timing", "weight")}
    assert list(zip(mixed["main"]["start_step"], mixed["main"]["weight"], strict=True)) == [(79, 0.5)]
    assert list(mixed["timing"]["start_step"]) == [24, 79, 157, 197]
    assert list(mixed["weight"]["weight"]) == [0.1, 0.2, 0.5, 0.8]


@pytest.mark.parametrize("setting", ["main_start_step=25", "main_weight=0.3", "mix=poetry"])
def test_what_is_not_in_the_grid_is_named(setting: str) -> None:
    with pytest.raises(RecipeError, match=setting.partition("=")[0]):
        load_study(EXPERIMENT, settings=[setting])
