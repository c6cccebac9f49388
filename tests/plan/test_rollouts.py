"""Rollouts in plans and manifests: their role, what they cost, what they read and leave out, and no rate for training."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.small_study import make_study, plan_in
from builders.sums_study import sums_study, write_sums

from midstudy.export import _data
from midstudy.plan.cost import FORWARD_SHARE
from midstudy.plan.left_out import left_out_of
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan
from midstudy.plan.published import published_states
from midstudy.plan.summary import plan_facts
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store

SEQ_LEN = 48


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("rollouts")
    write_sums(folder)
    return Store.open(folder / "store", create=True)


def planned(store: Store, **options: object) -> Plan:
    return plan_in(store, sums_study(Path(store.root).parent, milestone=2, **options))  # type: ignore[arg-type]


def rl_stages(plan: Plan) -> list[Stage]:
    return sorted((stage for stage in plan.stages.values() if stage.role == "rl"), key=lambda stage: stage.step or 0)


def test_a_step_costs_generation_and_training(store: Store) -> None:
    plan = planned(store)
    between, final = rl_stages(plan)
    assert (between.num_steps, final.num_steps) == (2, 4)
    assert (between.keeps_optimizer, final.keeps_optimizer) == (True, False)
    assert final.num_tokens == 4 * 16 * SEQ_LEN
    (tuned,) = [stage for stage in plan.stages.values() if stage.role == "sft"]
    per_token = {stage.role: stage.cost_s / stage.num_tokens for stage in (tuned, final)}
    assert per_token["rl"] == pytest.approx(per_token["sft"] * (1 + FORWARD_SHARE))


def test_a_prompt_is_an_item_and_the_dose_counts_the_phase(store: Store) -> None:
    plan = planned(store)
    (arm,) = manifest_of(plan, command="").arms
    assert arm.items == {"sums": 30 * 16 + 6 * 4}
    assert sum(value or 0 for value in arm.dose.values()) == pytest.approx(1)
    assert arm.phases[-1].shares == {"sums": 1.0}
    uses = manifest_of(plan, command="").uses
    assert [(use.use, use.seq_len) for use in uses if use.split == "train"] == [
        *(("training", SEQ_LEN), ("training", SEQ_LEN)),
        ("prompts", SEQ_LEN - 4),
    ]
    assert uses[arm.reads["sums"]].use == "training"


def test_the_plan_names_prompts_without_room_once_they_are_tokenised(store: Store) -> None:
    plan = planned(store, changes={"seq_len": 14})
    make_study(store, plan.study, until="tokens sums")
    counted = left_out_of(store, plan.stages)
    (tally,) = [tally for tally in counted.tallies if tally.use == "prompts"]
    assert tally.limit == 10
    assert 0 < tally.left_out["no_room"] == 350 - tally.used < 350
    assert "prompts of more than 10 tokens, which leave no room for an answer" in " ".join(counted.sentences)


def test_rollouts_do_not_measure_the_rate_of_training_and_their_start_is_kept(store: Store) -> None:
    plan = planned(store)
    make_study(store, plan.study)
    between, final = rl_stages(plan)
    with_optimizer = [stage for stage in plan.stages.values() if stage.keeps_optimizer]
    assert between in with_optimizer
    assert sum(map(len, published_states(store).rates.values())) == len(with_optimizer) - 1
    assert store.record(final.id).metrics["generated_tokens"] > 0
    facts = plan_facts(planned(store))
    assert facts["stages_by_role"]["rl"] == {"all": 2, "missing": 0}


def test_the_model_card_describes_rollouts(store: Store) -> None:
    phase = planned(store, tool=True).study.arms[0].curriculum.stretches[-1].phase
    assert _data(phase, 6) == "rollouts of sums, 4 answers a prompt, exact_text, with the calculator"
