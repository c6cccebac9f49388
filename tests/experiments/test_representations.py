"""The paper's four pairs of states as measures of arms, and distortion in fine-tuning against forgetting."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import bridging_tables, tables_of
from builders.places import REPOSITORY
from builders.report_study import compared_study, write_study

from midstudy.analysis.tables import Tables
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.planner import make_plan
from midstudy.recipe import Arm, RecipeError, State, where
from midstudy.recipe.study import Study
from midstudy.report.report import Report
from midstudy.studies.bridging.distortion import COLUMNS, forgotten, rank_correlations
from midstudy.studies.bridging.pairs import with_pairs
from midstudy.studies.bridging.scale import Scale
from midstudy.studies.bridging.sections.representation import representation

EXPERIMENT = REPOSITORY / "experiments" / "representations.py"


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(EXPERIMENT)


def states_of(arm: Arm) -> tuple[str, str]:
    """Return the ids of an arm's states before and after SFT, as its losses name them."""
    return tuple(arm.measures[f"sft_loss{when}"].all_states[0].id for when in ("_before", ""))  # type: ignore[return-value]


def test_the_four_pairs_are_control_and_mix_before_and_after_fine_tuning(study: Study) -> None:
    seen = set()
    for mixed in where(study.arms, mix=("code", "math")):
        same = {name: mixed.factors[name] for name in ("size", "task", "trunk_seed", "sft_seed")}
        (control,) = where(study.arms, mix="control", **same)
        (base, base_sft), (mid, mid_sft) = states_of(control), states_of(mixed)
        expected = {
            (mixed, "mix"): (mid, base),
            (control, "sft"): (base_sft, base),
            (mixed, "sft"): (mid_sft, mid),
            (mixed, "mix_sft"): (mid_sft, base_sft),
        }
        for (arm, pair), states in expected.items():
            for metric in ("last_layer_cka", "mean_diagonal_cka", "layer_distortion"):
                measure = arm.measures[f"{pair}_{metric}"]
                assert isinstance(measure.evaluation.other, State)
                assert (measure.all_states[0].id, measure.evaluation.other.id) == states
                assert measure.metric == metric
                assert (measure.evaluation.data.name, measure.evaluation.split) == (mixed.factors["task"], "test")
            seen.add(pair)
        assert not [column for column in control.measures if column.startswith("mix")]
    assert seen == {"mix", "sft", "mix_sft"}


def test_the_experiment_trains_no_more_than_its_arms(study: Study) -> None:
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda ids: set(), kept_states=())
    assert plan.total_steps == plan.lower_bound_steps == 2 * (240 + 216 + 161 + 2 * 3 * 72)
    compared = [stage for stage in plan.stages.values() if stage.label.startswith("compare ")]
    assert len(compared) == 2 * 2 * (3 + 2 + 2)
    assert [claim.arms for claim in study.claims] == [
        {"mix": "code", "task": "pycode"},
        {"mix": "math", "task": "word_problems"},
    ]


def test_pairs_can_be_probed_on_another_text_and_need_the_control(study: Study) -> None:
    probe = next(data for data in study.datasets() if data.name == "general")
    arms = where(study.arms, trunk_seed=0, task="pycode")
    probed = with_pairs(arms, scale=Scale(test_items=64), probe=probe)
    evaluation = probed[0].measures["sft_last_layer_cka"].evaluation
    assert (evaluation.data, evaluation.max_sequences) == (probe, 32)
    with pytest.raises(
        RecipeError, match="expected a control with the same size, task, sft_steps, trunk_seed, sft_seed as the arm"
    ):
        with_pairs(where(arms, mix="code"), scale=Scale())


def planted(rhos_by_seed: dict[int, list[int]]) -> Tables:
    """Return a study of arms by seed, whose rank of forgetting rises with distortion as given."""
    rows = [
        {
            "size": "nano", "mix": "control" if rank == 0 else f"mix {place}", "task": "pycode", "trunk_seed": seed,
            "sft_seed": 7, "general_loss_before": 5.0, "general_loss": 5.0 + 0.1 * rank, "sft_layer_distortion": 1.0 + place,
            "sft_last_layer_cka": 0.9 - 0.1 * place, "sft_mean_diagonal_cka": 0.5,
        }
        for seed, ranks in rhos_by_seed.items()
        for place, rank in enumerate(ranks)
    ]  # fmt: skip
    better = {"general_loss_before": "lower", "general_loss": "lower", **dict.fromkeys(COLUMNS, "higher")}
    return tables_of(rows, [], columns=better)


def test_the_rank_correlation_is_averaged_over_trunk_seeds() -> None:
    points = forgotten(planted({0: [0, 1, 2, 3], 1: [0, 1, 3, 2]}))
    assert points["forgetting_nats"].to_numpy() == pytest.approx(0.1 * np.array([0, 1, 2, 3, 0, 1, 3, 2]), abs=1e-9)
    by_column = rank_correlations(points, seed="trunk_seed").set_index("column")
    # Spearman of (0, 1, 2, 3) with (0, 1, 3, 2): 1 − 6 · 2 / (4 · 15) = 0.8. The t-interval of 1 and 0.8 is cut at 1.
    assert by_column["rho"]["sft_layer_distortion"] == pytest.approx(0.9)
    assert by_column["rho"]["sft_last_layer_cka"] == pytest.approx(-0.9)
    assert by_column["ci_high"]["sft_layer_distortion"] == 1
    assert by_column["ci_low"]["sft_layer_distortion"] == pytest.approx(0.9 - 12.7062 * 0.1, rel=1e-4)
    assert (by_column["num_arms"] == 4).all()
    assert np.isnan(by_column["rho"]["sft_mean_diagonal_cka"])
    assert "that vary" in by_column["note"]["sft_mean_diagonal_cka"]


def test_three_arms_have_no_correlation_and_other_studies_no_points() -> None:
    assert rank_correlations(forgotten(planted({0: [0, 1, 2]})), seed="trunk_seed")["rho"].isna().all()
    assert forgotten(bridging_tables()).empty


def test_the_section_is_there_only_if_states_are_compared(tmp_path: Path) -> None:
    assert representation(Report.of(write_study(tmp_path / "none", bridging_tables()))).markup == ""
    tables = planted({0: [0, 1, 2, 3], 1: [0, 1, 3, 2]})
    matrices = compared_study().representation
    assert matrices is not None
    labels = {name: tables.arms[name].iloc[0] for name in tables.manifest.factor_names}
    rows = matrices[matrices["arm"] == 0].drop(columns=["loader", "seed"]).assign(**labels)
    with_matrices = replace(tables, similarity=None, proximity=None, representation=pd.DataFrame(rows))
    report = Report.of(write_study(tmp_path / "some", with_matrices))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", representation(report).markup))
    assert "linear CKA is 1 for representations that are equal" in text
    assert "norm of the change of the last MLP's output weights 4 2 0.90 [−0.37, 1.00]".replace("'", "&#x27;") in text
    assert (report.figures_folder / "distortion.png").exists()
