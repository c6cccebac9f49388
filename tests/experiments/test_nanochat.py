"""nanochat's base, mid and SFT: the stages of the default, of all arms and of its own scale, by independent arithmetic."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders.places import REPOSITORY

from midstudy.cli.main import main
from midstudy.data import hub
from midstudy.plan.cost import Throughput
from midstudy.plan.device import H100
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import Plan, make_plan
from midstudy.recipe import RecipeError, Rollouts, where
from midstudy.recipe.optimizer import Muon
from midstudy.recipe.study import Study
from midstudy.recipe.task_mixture import TaskMixture
from midstudy.studies.nanochat.arms import RECOMMENDED_SHARES, SHARES_OF_OWN_ROWS
from midstudy.studies.nanochat.claims import claims_for
from midstudy.studies.nanochat.optimizer import muon_groups

EXPERIMENT = REPOSITORY / "experiments" / "nanochat.py"


def planned(study: Study) -> Plan:
    return make_plan(study, throughput=Throughput(H100, {}), published=lambda ids: set(), kept_states=())


@pytest.fixture(scope="module")
def usual() -> Study:
    return load_study(EXPERIMENT)


@pytest.fixture(scope="module")
def full() -> Study:
    return load_study(EXPERIMENT, settings=["full=True"])


@pytest.fixture(scope="module")
def d20() -> Study:
    return load_study(EXPERIMENT, settings=["scale=d20", "trunk_seeds=(0,)"])


def phase(study: Study, **factors: Any) -> Any:
    """Return the last phase of the first arm with these factors."""
    return where(study.arms, trunk_seed=0, **factors)[0].curriculum.stretches[-1].phase


def test_the_default_is_three_seeds_of_a_base_two_orders_and_sft_after_the_base_and_after_the_mixed_order(
    usual: Study,
) -> None:
    arms = Counter((arm.factors["after"], arm.factors["mid"], arm.factors["sft"]) for arm in usual.arms)
    assert arms == dict.fromkeys(
        [
            ("base", "none", "none"),
            ("sft", "none", "masked"),
            ("mid", "mixed", "none"),
            ("sft", "mixed", "masked"),
            ("mid", "sequential", "none"),
        ],
        3,
    )
    assert usual.seeds == ("trunk_seed",)
    assert len({arm.final_state.id for arm in usual.arms}) == 15


def test_every_seed_trains_its_base_once_and_each_stage_after_it_once(usual: Study) -> None:
    plan = planned(usual)
    steps = {(arm.factors["after"], arm.factors["mid"]): arm.curriculum.num_steps for arm in usual.arms}
    base, mid, direct, tuned = (
        steps[key] for key in (("base", "none"), ("mid", "mixed"), ("sft", "none"), ("sft", "mixed"))
    )
    assert steps["mid", "sequential"] == mid, "one epoch of the same items, whatever their order"
    assert plan.total_steps == plan.lower_bound_steps == 3 * (base + 2 * (mid - base) + (direct - base) + (tuned - mid))


def test_the_phases_follow_the_source(usual: Study) -> None:
    base, mid = phase(usual, after="base"), phase(usual, after="mid", mid="mixed")
    sft = phase(usual, after="sft", mid="mixed")
    assert [one.loss for one in (base, mid, sft)] == ["all_tokens", "all_tokens", "target_tokens"]
    assert [one.optimizer_state for one in (mid, sft)] == ["reset", "reset"]
    assert (mid.data.packing, sft.data.packing) == ("stream", "rows")
    run = where(usual.arms, trunk_seed=0, after="sft", mid="mixed")[0].curriculum
    start, end = base.num_steps, base.num_steps + mid.num_steps
    at = (0, round(0.79 * start), start, start + round(0.79 * mid.num_steps), start + round(0.9 * mid.num_steps), end)
    assert [run.curve.lr(step) for step in at] == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.5, 0.02], abs=0.02)
    assert {part.task.name: part.repeats for part in mid.data.parts if part.repeats > 1} == {"identity": 2}


def test_the_optimizer_has_the_sources_rates_at_its_width_but_for_the_embedding() -> None:
    """Source: nanochat at 92c6654: embedding 0.2, unembedding 0.004, matrices 0.02; the first two at a width of 768."""
    groups = {group.select: group for group in muon_groups(768).groups}
    assert {name: group.lr_factor for name, group in groups.items()} == pytest.approx(
        {"embedding": 0.2 * 0.02, "head": 0.004, "matrices": 0.02, "vectors": 0.004}
    )
    assert {name for name, group in groups.items() if isinstance(group.rule, Muon)} == {"matrices"}
    wide = {group.select: group.lr_factor for group in muon_groups(4 * 768).groups}
    assert wide["head"] == pytest.approx(0.002)
    assert wide["matrices"] == pytest.approx(0.02)


def test_all_arms_vary_one_thing_each(full: Study) -> None:
    mids = {str(arm.factors["mid"]) for arm in full.arms}
    assert mids == {"none", "mixed", "sequential", "masked mid", "best fit", "three epochs", "AdamW"} | {
        "recommended shares",
        "own rows",
    }
    mixed = phase(full, after="mid", mid="mixed")
    varied = {mid: phase(full, after="mid", mid=mid) for mid in mids - {"none"}}
    assert varied["masked mid"].loss == "target_tokens"
    assert varied["best fit"].data.packing == "best_fit"
    assert varied["three epochs"].num_steps == pytest.approx(3 * mixed.num_steps, rel=0.01)
    assert not any(isinstance(group.rule, Muon) for group in varied["AdamW"].optimizer.groups)
    for mid in ("masked mid", "best fit", "three epochs"):
        assert varied[mid].optimizer == mixed.optimizer
        assert [part.task for part in varied[mid].data.parts] == [part.task for part in mixed.data.parts]
    assert {arm.factors["mid"] for arm in where(full.arms, sft="unmasked")} == {"mixed"}
    assert phase(full, sft="unmasked").loss == "all_tokens"


def test_rl_follows_the_usual_sft_with_the_sources_settings(full: Study) -> None:
    """Source: nanochat at 92c6654, `chat_rl.py`: top_k=50, temperature 1, init_lr_frac=0.05 falling to 0, 16 samples."""
    learned = where(full.arms, after="rl", trunk_seed=0)
    assert [arm.factors["rl"] for arm in learned] == ["mathematics", "counting"]
    (tuned,) = where(full.arms, after="sft", mid="mixed", sft="masked", trunk_seed=0)
    for arm, task in zip(learned, ("calculation", "spelling_bee"), strict=True):
        assert arm.curriculum.stretches[:-1] == tuned.curriculum.stretches
        rl = arm.curriculum.stretches[-1].phase
        assert isinstance(rl.data, Rollouts)
        assert (rl.data.prompts.name, rl.data.score) == (task, "exact_number")
        assert (rl.data.tool, rl.data.temperature, rl.data.top_k, rl.data.num_samples) == (True, 1, 50, 16)
        assert (rl.loss, rl.optimizer) == ("policy_gradient", tuned.curriculum.stretches[-1].phase.optimizer)
        assert [arm.curriculum.curve.lr(tuned.curriculum.num_steps + step) for step in (0, 30)] == [0.05, 0.025]
        assert {"counting_pass_at_8", "mathematics_pass_at_8"} <= arm.measures.keys() & tuned.measures.keys()


def test_all_arms_hold_the_default_ones(usual: Study, full: Study) -> None:
    """Stages of the default are taken over, since ids do not depend on the study."""
    assert {arm.final_state.id for arm in usual.arms} < {arm.final_state.id for arm in full.arms}


def shares(rows: dict[str, int], *together: str) -> float:
    times = {"chat": 3, "identity": 2}
    counts = {name: number * times.get(name, 1) for name, number in rows.items()}
    return 100 * sum(counts.get(name, 0) for name in together) / sum(counts.values())


def test_the_recommended_shares_and_its_own_rows_are_those_of_the_source() -> None:
    recommended = {
        ("chat",): (50, 60),
        ("choices",): (15, 20),
        ("calculation",): (1, 5),
        ("sums",): (1, 5),
        ("spelling", "spelling_bee"): (20, 30),
        ("identity",): (0, 1),
    }
    for tasks, (low, high) in recommended.items():
        assert low < shares(RECOMMENDED_SHARES, *tasks) < high
    rows = {"chat": 460, "choices": 100, "calculation": 8, "identity": 2, "spelling": 200, "spelling_bee": 80}
    for task, thousands in rows.items():
        assert shares(SHARES_OF_OWN_ROWS, task) == pytest.approx(100 * thousands / 850, abs=0.05)
    assert shares(SHARES_OF_OWN_ROWS, "spelling", "spelling_bee") == pytest.approx(32.9, abs=0.1)


def test_every_claim_has_a_source_and_a_family_and_selects_arms(usual: Study, full: Study) -> None:
    assert usual.claims == claims_for(usual.comparisons)
    known = {claim.text for claim in full.claims}
    assert {claim.text for claim in usual.claims} < known
    assert {claim.family for claim in full.claims if claim not in usual.claims} == {
        "masks",
        "variants of midtraining",
        "shares",
        "RL",
    }
    assert all(claim.source and claim.family for claim in full.claims)
    assert len(known) == len(full.claims)


def test_its_own_scale_is_planned_without_a_hub_and_priced(d20: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> Any:
        raise AssertionError("the plan of declared text asked the Hub")

    monkeypatch.setattr(hub, "files", unreachable)
    plan = planned(d20)
    base, mid, sft = phase(d20, after="base"), phase(d20, after="mid", mid="mixed"), phase(d20, after="sft", mid="mixed")
    assert base.num_sequences * base.seq_len == mid.num_sequences * mid.seq_len == 524_288
    assert isinstance(mid.data, TaskMixture)
    assert mid.data.streams == 8
    # Appendix B: 460K rows of 150 tokens, 100K of 100, 8K of 250, twice 1K of 80, 200K of 30 and 80K of 100.
    tokens = 460e3 * 150 + 100e3 * 100 + 8e3 * 250 + 2e3 * 80 + 200e3 * 30 + 80e3 * 100
    assert mid.num_steps == pytest.approx(tokens / 524_288, abs=1.5)
    assert sft.num_steps * sft.num_sequences == pytest.approx(23_000, rel=0.03)
    assert sft.num_sequences == 32
    model = d20.arms[0].curriculum.start.model
    assert (model.num_layers, model.width, model.num_heads, model.vocab_size, model.max_seq_len) == (
        20,
        1_280,
        10,
        65_536,
        2_048,
    )
    # 20 blocks of 12·width² and two tables of vocabulary × width: about the 561M parameters of the source's d20.
    assert pytest.approx(561e6, rel=0.01) == 12 * 20 * 1_280**2 + 2 * 65_536 * 1_280
    flops = model.flops_per_token(seq_len=2_048)
    training_s = (base.num_steps + 2 * mid.num_steps) * 524_288 * flops / (0.40 * 989e12)
    assert plan.missing_s == pytest.approx(training_s, rel=0.1)


def test_a_scale_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"scale: expected micro or d20, got 'd32'|scale: expected one of micro, d20, got"):
        load_study(EXPERIMENT, settings=["scale=d32"])


@pytest.mark.slow
def test_a_tiny_version_runs_to_its_report(tmp_path: Path) -> None:
    """One seed of a model of one layer, on a sixtieth of the items: every section has something to show."""
    settings = ["size=pico", "trunk_seeds=(0,)", "base_steps=10", "shrink=60", "num_items=4", "name=tiny"]
    command = ["run", str(EXPERIMENT), "--store", str(tmp_path), "--backend", "debug"]
    assert main([*command, *(part for one in settings for part in ("--set", one))]) == 0
    folder = tmp_path / "studies" / "tiny"
    arms = pd.read_parquet(folder / "arms.parquet")
    assert [*zip(arms["after"], arms["mid"], strict=True)] == [
        ("base", "none"),
        ("sft", "none"),
        ("mid", "mixed"),
        ("sft", "mixed"),
        ("mid", "sequential"),
    ]
    assert arms[["spelling", "sums", "chat_format", "knowledge", "general_bits", "prompts"]].notna().all(axis=None)
    spelling = arms.set_index(["after", "mid"])["spelling_bits"]
    assert spelling["mid", "mixed"] < 0.8 * spelling["base", "none"]
    (page,) = (folder / "report").glob("*.html")
    text = page.read_text("utf-8")
    for heading in ("What each stage can do", "Four prompts", "One task after another", "Claims", "Limitations"):
        assert f">{heading}<" in text
    assert "What is the capital of France?" in text
