"""Timing crossed with weight: every cell planned once, on trunks that are shared, and compared along both axes."""

from __future__ import annotations

import pytest
from builders.places import REPOSITORY

from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import make_plan
from midstudy.recipe import RecipeError, where

EXPERIMENT = REPOSITORY / "experiments" / "timing_weight.py"


def test_every_start_step_meets_every_weight_and_trunks_are_shared() -> None:
    study = load_study(EXPERIMENT, settings=["trunk_seeds=(0, 1)"])
    cells = [(arm.factors["start_step"], arm.factors["weight"]) for arm in where(study.arms, mix="code", trunk_seed=1)]
    assert cells == [(start, weight) for start in (24, 79, 157, 197) for weight in (0.1, 0.2, 0.5, 0.8)]
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    branches = 4 * sum(240 - start for start in (24, 79, 157, 197))
    assert plan.total_steps == plan.lower_bound_steps == 2 * (240 + branches + 17 * 72)


def test_the_comparisons_lie_along_the_axes_through_the_main_cell() -> None:
    study = load_study(EXPERIMENT, settings=["trunk_seeds=(0,)", "main_start_step=79", "main_weight=0.5"])
    cells = {one.name: [(arm.factors["start_step"], arm.factors["weight"]) for arm in one.arms] for one in study.comparisons}
    assert cells == {
        "main": [(79, 0.5)],
        "timing": [(start, 0.5) for start in (24, 79, 157, 197)],
        "weight": [(79, weight) for weight in (0.1, 0.2, 0.5, 0.8)],
        "earliest_latest": [(24, 0.5)],
    }
    along = {one.name: one.along for one in study.comparisons}
    assert along == {"main": None, "timing": "start_step", "weight": "weight", "earliest_latest": None}


def test_the_earliest_start_is_held_against_the_latest_on_every_trunk_seed() -> None:
    """At the main weight alone: a study that crosses starts with weights claims nothing of the other weights."""
    study = load_study(EXPERIMENT)
    assert [claim.text for claim in study.claims if claim.comparison == "earliest_latest"] == [
        f"an earlier start of code data lowers {kind} loss more (it also means more code tokens at higher rates)"
        for kind in ("pycode", "general")
    ]
    held = next(one for one in study.comparisons if one.name == "earliest_latest")
    for arms, start in ((held.arms, 24), (held.references, 197)):
        cells = [(arm.factors["start_step"], arm.factors["weight"], arm.factors["trunk_seed"]) for arm in arms]
        assert cells == [(start, 0.2, seed) for seed in (0, 1, 2)]


def test_one_start_step_is_not_held_against_itself() -> None:
    study = load_study(EXPERIMENT, settings=["start_steps=(24,)"])
    assert "earliest_latest" not in {claim.comparison for claim in study.claims}


@pytest.mark.parametrize("setting", ["main_start_step=25", "main_weight=0.3", "mix=poetry"])
def test_what_is_not_in_the_grid_is_named(setting: str) -> None:
    with pytest.raises(RecipeError, match=setting.partition("=")[0]):
        load_study(EXPERIMENT, settings=[setting])
