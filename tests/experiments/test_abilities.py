"""Three states of one run are asked alike, with and without the tool, and every claim was fixed before the run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from builders.places import REPOSITORY

from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import make_plan
from midstudy.recipe import Choices, Evaluation, Generation, NoiseScale, Study

EXPERIMENT = REPOSITORY / "experiments" / "abilities.py"


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(EXPERIMENT)


def test_the_three_states_lie_on_one_run_and_nothing_is_trained_twice(study: Study) -> None:
    base, mid, sft = (arm.curriculum for arm in study.arms)
    assert [len(run.stretches) for run in (base, mid, sft)] == [1, 2, 3]
    assert sft.state(base.num_steps).id == base.state().id
    assert sft.state(mid.num_steps).id == mid.state().id
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    assert plan.total_steps == plan.lower_bound_steps == sft.num_steps


def test_every_state_is_asked_the_same_and_the_last_one_is_drawn_from_as_well(study: Study) -> None:
    base, mid, sft = ({name: one.evaluation for name, one in arm.measures.items()} for arm in study.arms)
    assert base == mid == {name: sft[name] for name in base}
    for arm in study.arms:
        assert all(one.state is not None and one.state.id == arm.final_state.id for one in arm.measures.values())
    assert sorted(sft.keys() - base.keys()) == [
        "mathematics_pass_at_1",
        "mathematics_pass_at_8",
        "sums_pass_at_1",
        "sums_pass_at_8",
    ]
    drawn, greedy = sft["sums_pass_at_8"], sft["sums"]
    assert isinstance(drawn, Generation)
    assert (drawn.temperature, drawn.num_samples, drawn.pass_at) == (1.0, 8, (1, 8))
    assert replace(drawn, temperature=0, top_k=None, num_samples=1, pass_at=()) == greedy
    kinds = Counter(type(one) for one in base.values())
    assert kinds == {Generation: 9, Choices: 3, Evaluation: 12, NoiseScale: 1}


def test_without_the_tool_nothing_else_differs(study: Study) -> None:
    asked = {name: one.evaluation for name, one in study.arms[1].measures.items()}
    for column in ("counting", "sums", "mathematics"):
        silent = asked[f"{column}_without_tool"]
        assert isinstance(silent, Generation)
        assert not silent.tool
        assert replace(silent, tool=True) == asked[column]


def test_questions_are_the_same_by_letters_and_by_cloze(study: Study) -> None:
    """The parts hold the same questions in one order (`tests/data/test_abilities.py`)."""
    letters, cloze = (study.arms[0].measures[name].evaluation for name in ("knowledge", "knowledge_cloze"))
    assert (letters.by, cloze.by) == ("letters", "cloze")
    assert (letters.data.name, cloze.data.name) == ("choices", "choices_cloze")
    assert (letters.split, letters.max_sequences) == (cloze.split, cloze.max_sequences) == ("test", 400)


def test_no_measure_reads_a_train_split_and_the_claims_are_over_items_of_one_seed(study: Study) -> None:
    assert {one.evaluation.split for arm in study.arms for one in arm.measures.values()} == {"test"}
    assert {arm.factors["trunk_seed"] for arm in study.arms} == {0}
    assert [(one.column, one.comparison, one.holds, one.margin, dict(one.options)) for one in study.claims] == [
        ("sums", "mid", "above", 0.1, {"other": "sums_without_tool"}),
        ("mathematics", "mid", "above", 0.0, {"other": "mathematics_without_tool"}),
        ("knowledge", "mid", "above", 0.25, {}),
        ("chat_format", "mid", "above", 0.5, {}),
        ("spelling", "mid", "above", 0.1, {}),
        ("sums", "sft", "above", 0.0, {}),
    ]
    assert {one.estimator.partition(":")[0] for one in study.claims} == {"midstudy.analysis.item_tests"}
    assert len({one.family for one in study.claims}) == 1  # corrected together
