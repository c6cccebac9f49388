"""The experiment on a released start: planned from any release, shared, and clear where there is none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from builders.places import REPOSITORY
from builders.releases import write_release

from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import make_plan
from midstudy.recipe import RecipeError

EXPERIMENT = REPOSITORY / "experiments" / "released_start.py"


def test_the_control_the_mix_and_its_average_share_one_import(tmp_path: Path):
    release = write_release(tmp_path / "tiny-neox")
    study = load_study(EXPERIMENT, settings=[f"release={release}", "release_step=512", "seq_len=64", "data_seeds=(0, 1)"])
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    states = Counter(s.role for s in plan.stages.values() if s.kind == "state")
    # Of the code midtraining: steps 45, 50, 55 for the average, and 60.
    assert states == {"import": 1, "average": 2, "pretrain": 2, "midtrain": 8, "sft": 6}
    assert plan.total_steps == plan.lower_bound_steps == 2 * (60 + 60 + 3 * 36)
    labels = [stage.label for stage in plan.stages.values()]
    assert "import tiny-neox@step512" in labels
    assert "average of 4 states: midtrain nano code20@0 seed 1 to step 45, 50, 55, 60" in labels
    assert len(set(labels)) == len(labels)


def test_averaging_is_a_factor_and_no_rival_mix(tmp_path: Path):
    release = write_release(tmp_path / "tiny-neox")
    study = load_study(EXPERIMENT, settings=[f"release={release}", "seq_len=64"])
    main, averaging = study.comparisons
    assert {(arm.factors["mix"], arm.factors["averaged_states"]) for arm in main.arms} == {("code", 1)}
    assert {(arm.factors["mix"], arm.factors["averaged_states"]) for arm in averaging.arms} == {("code", 4)}
    assert {arm.factors["averaged_states"] for arm in averaging.references} == {1}
    assert len(main.arms) == len(averaging.arms) == 3


def test_without_a_release_the_experiment_says_how_to_name_one():
    with pytest.raises(RecipeError, match=r"release: expected a folder.*, got none\..*midstudy export"):
        load_study(EXPERIMENT)
