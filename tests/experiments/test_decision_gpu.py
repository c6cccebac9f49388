"""Three decisions for a GPU: their plan at full scale, equal doses, seeds as whole grids, and a rehearsal of every claim."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.places import REPOSITORY

from midstudy.analysis.claims import judge
from midstudy.analysis.rehearsal import rehearse
from midstudy.cli.main import main
from midstudy.plan.cost import Throughput
from midstudy.plan.device import H100
from midstudy.plan.dose import dose
from midstudy.plan.experiment import load_study
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import Plan, make_plan
from midstudy.recipe import Arm, Comparison, Mixture, RecipeError, where
from midstudy.recipe.study import Study
from midstudy.report.report import Report

EXPERIMENT = REPOSITORY / "experiments" / "decision_gpu.py"


def study_of(*seeds: int) -> Study:
    return load_study(EXPERIMENT, settings=[f"trunk_seeds=({', '.join(map(str, seeds))},)"])


def planned(study: Study) -> Plan:
    return make_plan(study, throughput=Throughput(H100, {}), published=lambda ids: set(), kept_states=())


@pytest.fixture(scope="module")
def two() -> Study:
    return study_of(0, 1)


def comparison(study: Study, name: str) -> Comparison:
    return next(one for one in study.comparisons if one.name == name)


def dose_before_tuning(arm: Arm, corpus: str) -> float:
    before = arm.curriculum.until(arm.curriculum.stretches[-1].start_step)
    found = dose(before)[corpus]
    assert found is not None
    return found


def test_a_seed_has_the_cells_of_the_three_decisions(two: Study) -> None:
    for seed in (0, 1):
        stable = where(two.arms, trunk_seed=seed, schedule="stable")
        cells = sorted(
            (str(arm.factors["mix"]), float(arm.factors["start_step"]), str(arm.factors["task"])) for arm in stable
        )
        on_both = [("control", 0), *((mix, 916) for mix in ("code", "hqweb", "instruction", "math", "placebo", "qa"))]
        expected = [(mix, float(start), task) for mix, start in on_both for task in ("pycode", "word_problems")]
        expected += [("code block", 916.0, "pycode"), ("math block", 916.0, "word_problems")]
        expected += [("code", float(start), "pycode") for start in (183, 604, 1190)]
        assert cells == sorted(expected)
        assert len(where(two.arms, trunk_seed=seed, schedule="cosine")) == 4


def test_a_trunk_reads_sixty_million_tokens_and_fine_tuning_three_epochs(two: Study) -> None:
    trunk, tuned = (placed.phase for placed in where(two.arms, mix="control", schedule="stable")[0].curriculum.stretches)
    assert trunk.num_steps * trunk.tokens_per_step == pytest.approx(60e6, rel=1e-3)
    assert tuned.num_steps * tuned.num_sequences == 3 * 2_496
    assert (trunk.precision, trunk.seq_len) == ("bf16_mixed", 512)
    assert (two.arms[0].curriculum.start.model.name, two.arms[0].curriculum.start.model.vocab_size) == ("31m", 8_192)


def test_the_rate_is_constant_from_a_tenth_to_nine_tenths_and_then_decays(two: Study) -> None:
    curve = where(two.arms, mix="control", schedule="stable")[0].curriculum.curve
    assert {curve.lr(step) for step in (184, 1_000, 1_647)} == {2e-3}
    assert curve.lr(1_739) == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # A share has four significant digits; a block ends at a whole step, one of about 165.
    [("starts", 1e-3), ("equal_dose", 1e-3), ("starts_cosine", 1e-3), ("equal_dose_cosine", 1e-3), ("block", 5e-3)],
)
def test_matched_arms_have_equal_dose(two: Study, name: str, tolerance: float) -> None:
    held = comparison(two, name)
    for arm in held.arms:
        mix = str(arm.factors["mix"])
        references = where(held.references, trunk_seed=arm.factors["trunk_seed"], task=arm.factors["task"])
        assert len(references) == 1
        assert dose_before_tuning(arm, mix) == pytest.approx(dose_before_tuning(references[0], mix), rel=tolerance)


def test_a_block_starts_with_the_mix_and_returns_to_general_text(two: Study) -> None:
    for block in comparison(two, "block").references:
        trunk, alone, rest, _ = block.curriculum.stretches
        mix = str(block.factors["mix"]).removesuffix(" block")
        data = [placed.phase.data for placed in (trunk, alone, rest)]
        names = [[part.corpus.name for part in one.parts] for one in data if isinstance(one, Mixture)]
        assert names == [["general"], [mix], ["general"]]
        assert alone.start_step == block.factors["start_step"] == 916
        assert rest.stop_step == 1_831


def test_seeds_are_added_as_whole_grids() -> None:
    """The plan of two seeds is a part of that of four, stage for stage, and so are the claims."""
    few, many = study_of(0, 1), study_of(0, 1, 2, 3)
    two, four = planned(few), planned(many)
    assert two.stages.keys() < four.stages.keys()
    grids = [
        {tuple(value for name, value in arm.factors.items() if not name.endswith("seed")) for arm in found}
        for found in (where(many.arms, trunk_seed=seed, schedule="stable") for seed in range(4))
    ]
    assert all(grid == grids[0] for grid in grids)
    assert few.claims == many.claims
    assert few.looks == (2, 4, 6, 8)
    assert [len(where(many.arms, trunk_seed=seed, schedule="cosine")) for seed in range(4)] == [4, 4, 0, 0]


def test_rates_are_chosen_on_dev_with_the_first_seed(two: Study) -> None:
    for choice in two.choices:
        assert choice.values == (3e-4, 1e-3, 3e-3)
        assert choice.evaluation.split == "dev"
        assert {dict(state.factors)["trunk_seed"] for state in choice.candidates} == {0}


def test_every_claim_can_be_judged_with_two_seeds(two: Study) -> None:
    assert len(two.claims) == 12
    assert {claim.family for claim in two.claims} == {"decisions"}
    assert {claim.margin for claim in two.claims if claim.holds == "within"} == {0.005}
    estimates = rehearse(manifest_of(planned(two), command="midstudy run"))
    assert [estimate.num_seeds for estimate in estimates] == [2] * 12
    assert all(estimate.p_holds == estimate.p_holds for estimate in estimates), "NaN is a claim without a test"


def test_the_plan_has_a_price_on_the_assumed_gpu(two: Study) -> None:
    plan = planned(two)
    assert plan.total_steps == plan.lower_bound_steps < plan.unshared_steps / 3
    model = two.arms[0].curriculum.start.model
    assert plan.throughput.source(model, "bf16_mixed", seq_len=512) == "assumed"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trunk_seeds=()", r"trunk_seeds: .* at least one seed"),
        ("scale=2.0", r"scale: expected a number in \[0\.01, 1\], got 2"),
        ("scale=0.0", r"scale: expected a number in \[0\.01, 1\], got 0"),
    ],
)
def test_a_wrong_setting_names_its_field(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_study(EXPERIMENT, settings=[setting])


@pytest.mark.slow
def test_the_rehearsal_ends_on_a_report_in_which_every_claim_says_why_it_is_open(tmp_path: Path) -> None:
    """One seed at 1/100: each claim has a measured effect, and none is decided."""
    folder = rehearsed(tmp_path / "store")
    page = (folder / "report" / "report.html").read_text("utf-8")
    assert "At equal dose" in page or "at equal dose is undecided" in page
    judged = judge(Report.of(folder).tables)
    assert len(judged) == 12
    assert set(judged["verdict"]) == {"inconclusive"}
    assert judged["value"].notna().all()
    assert not judged["ours"].str.contains("not measured|cannot be judged").any()


def rehearsed(store: Path) -> Path:
    """Run one seed at 1/100 and return the folder of the study."""
    settings = [part for one in ("scale=0.01", "trunk_seeds=(0,)") for part in ("--set", one)]
    assert main(["run", str(EXPERIMENT), *settings, "--store", str(store), "--jobs", "2"]) == 0
    return store / "studies" / "decision_gpu"


@pytest.mark.slow
def test_the_ranking_of_the_text_is_registered_with_a_claim_for_each_task_that_it_names_a_mix_for() -> None:
    """Decision D on built-in text, at 1/100: what `recommend` returns is in the claim, in a family of its own."""
    plain = load_study(EXPERIMENT, settings=["scale=0.01", "trunk_seeds=(0, 1)"])
    ranked = load_study(EXPERIMENT, settings=["scale=0.01", "trunk_seeds=(0, 1)", "rank_first=True"])
    assert ranked.claims[:12] == plain.claims
    named = {claim.arms["task"]: claim for claim in ranked.claims[12:]}
    silent = [note for note in ranked.notes if note.startswith("recommend names no mix for")]
    assert len(named) + len(silent) == 2
    assert named
    for claim in named.values():
        gains = {name.removeprefix("gain:"): gain for name, gain in claim.options.items()}
        assert gains.keys() == {"code", "math", "instruction", "qa", "hqweb"}
        assert max(gains, key=gains.__getitem__) == claim.arms["mix"]
        assert claim.family == "ranking"
    assert planned(ranked).stages.keys() == planned(plain).stages.keys(), "a ranking moves no id"
    estimates = rehearse(manifest_of(planned(ranked), command="midstudy run"))[12:]
    assert all("registered ranking, bits per byte" in estimate.text for estimate in estimates)
