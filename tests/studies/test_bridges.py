"""Bridge lengths by their formulas, and the authors' mixed models against closed forms and every permutation by itself."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from builders.analysis_tables import ADVANTAGES, KNOWN_EFFECTS, bridging_tables
from builders.report_study import write_study

from midstudy.analysis.tables import Tables
from midstudy.report.report import Report
from midstudy.studies.bridging.bridge_length import bridge_lengths
from midstudy.studies.bridging.mixed_models import MODELS, mixed_models
from midstudy.studies.bridging.sections.bridges import bridges as section


@pytest.fixture(scope="module")
def tables() -> Tables:
    """The control is at 0.5 from each task, and a mix closer by its advantage; mixes are at 0.1 to 0.3 from the control."""
    made = bridging_tables()
    assert made.similarity is not None
    similarity = made.similarity.copy()
    for mix, distance in (("code", 0.3), ("math", 0.2), ("instruction", 0.1)):
        is_mix = (similarity["left"] == "general") & (similarity["right"] == f"{mix} 20 %")
        similarity.loc[is_mix, "combined"] = 1 - distance
    return replace(made, similarity=similarity)


def lengths(tables: Tables) -> pd.DataFrame:
    found = bridge_lengths(tables)
    assert found is not None
    return found.set_index(["mix", "task"])


def test_a_bridge_is_the_way_from_the_control_over_the_mix_to_the_task(tables: Tables) -> None:
    found = lengths(tables)
    assert len(found) == len(KNOWN_EFFECTS)
    for (mix, task), advantage in ADVANTAGES.items():
        row, to_mix, to_task = found.loc[(mix, task)], {"code": 0.3, "math": 0.2, "instruction": 0.1}[mix], 0.5 - advantage
        assert row["to_mix":"direct"].tolist() == pytest.approx([to_mix, to_task, 0.5])
        assert row["bridge_total":"path_shortening"].tolist() == pytest.approx(
            [to_mix + to_task, max(to_mix, to_task), min(to_mix, to_task), (0.5 - to_mix - to_task) / 0.5]
        )


def test_effects_stand_beside_the_bridges(tables: Tables) -> None:
    row = lengths(tables).loc[("code", "pycode")]
    expected = np.mean(
        [(gain / (4.8 + offset + 0.002)) for gain, offset in zip((0.5, 0.54, 0.46), (0, 0.03, -0.02), strict=True)]
    )
    assert row["relative_improvement"] == pytest.approx(expected, rel=1e-3)
    assert row["degradation_nats"] == pytest.approx(np.mean([5.0 - 5.4, 5.12 - 5.5, 5.03 - 5.45]))
    assert row["efficiency"] == pytest.approx(row["relative_improvement"] / (0.4 + 0.001))


def test_matches_are_those_of_the_authors(tables: Tables) -> None:
    found = lengths(tables)
    assert found.index[found["perfect_match"] == 1].tolist() == [("code", "pycode"), ("math", "word_problems")]
    assert found["partial_match"].sum() == 0


def test_without_counts_there_are_no_bridges_and_a_lost_mixture_is_named(tables: Tables) -> None:
    assert bridge_lengths(replace(tables, proximity=None, similarity=None)) is None
    assert tables.similarity is not None
    lost = tables.similarity[tables.similarity["right"] != "math 20 %"]
    with pytest.raises(ValueError, match="math 20 %: expected one similarity to general, got 0"):
        bridge_lengths(replace(tables, similarity=lost))


MIXES, TASKS = ("code", "math", "instruction", "qa", "hqweb"), ("pycode", "word_problems", "science_qa", "long_form")


def pairs(
    seed: int, *, slope: float = 0.5, task_sd: float = 0.1, noise: float = 0.01, mixes: int = 5, tasks: int = 4
) -> pd.DataFrame:
    """Improvements that rise with the maximum of a bridge by `slope`, with a level of each task."""
    rng = np.random.default_rng(seed)
    levels = dict(zip(TASKS, rng.normal(scale=task_sd, size=4), strict=True))
    rows = []
    for mix, task in itertools.product(MIXES[:mixes], TASKS[:tasks]):
        to_mix, to_task = rng.uniform(0.01, 0.05), rng.uniform(0.1, 0.5)
        rows.append(
            {
                "mix_label": mix,
                "task_label": task,
                "to_mix": to_mix,
                "to_task": to_task,
                "bridge_max": to_task,
                "perfect_match": int((mix, task) in {("code", "pycode"), ("math", "word_problems")}),
                "partial_match": int((mix, task) in {("math", "science_qa"), ("instruction", "long_form")}),
                "relative_improvement": levels[task] + slope * to_task + rng.normal(scale=noise),
            }
        )
    return pd.DataFrame(rows)


def coefficient(table: pd.DataFrame, model: str, term: str) -> pd.Series:
    (row,) = (row for _, row in mixed_models(table).iterrows() if (row["model"], row["term"]) == (model, term))
    return row


def test_a_planted_slope_is_found_beside_large_differences_between_tasks() -> None:
    row = coefficient(pairs(0), "bridge length", "bridge_max")
    assert row["coefficient"] == pytest.approx(0.5, abs=0.05)
    assert row["ci_low"] < 0.5 < row["ci_high"]
    assert (row["num_pairs"], row["num_tasks"], bool(row["is_singular"])) == (20, 4, False)
    assert row["permutation_p"] < 0.01


def test_a_predictor_with_equal_means_in_every_task_has_the_within_task_slope() -> None:
    """Then generalized least squares is least squares within tasks, whatever the variance between tasks."""
    table = pairs(1)
    table["bridge_max"] -= table.groupby("task_label")["bridge_max"].transform("mean")
    centred = table["relative_improvement"] - table.groupby("task_label")["relative_improvement"].transform("mean")
    expected = (table["bridge_max"] * centred).sum() / (table["bridge_max"] ** 2).sum()
    assert coefficient(table, "bridge length", "bridge_max")["coefficient"] == pytest.approx(expected, rel=1e-5)


def test_the_permutation_p_is_that_of_generalized_least_squares_on_every_relabelling() -> None:
    """Three mixes and three tasks have 36 relabellings; statsmodels' GLS is fitted to each."""
    table = pairs(2, slope=0.1, noise=0.03, mixes=3, tasks=3)
    row = coefficient(table, "both distances", "to_task")
    assert row["num_relabellings"] == 36
    ones, other = np.ones(9), table["to_mix"].to_numpy()
    residuals = sm.OLS(table["to_task"], np.column_stack([ones, other])).fit().resid.to_numpy().reshape(3, 3)
    same = (table["task_label"].to_numpy()[:, None] == table["task_label"].to_numpy()[None, :]).astype(float)
    covariance = row["task_variance"] * same + row["residual_variance"] * np.eye(9)
    t = []
    for by_mix, by_task in itertools.product(itertools.permutations(range(3)), repeat=2):
        x = residuals[list(by_mix)][:, list(by_task)].ravel()
        fit = sm.GLS(table["relative_improvement"], np.column_stack([ones, other, x]), sigma=covariance).fit()
        t.append(abs(fit.tvalues.iloc[2]))
    assert row["permutation_p"] == pytest.approx(np.mean(np.array(t) >= t[0] - 1e-9))


def test_permutation_p_values_of_no_effect_are_uniform() -> None:
    """Wald p values of mismatched few tasks are not: that is why both are shown."""
    tested = [coefficient(pairs(seed, slope=0.0, noise=0.05), "bridge length", "bridge_max") for seed in range(40)]
    p_values = np.array([row["permutation_p"] for row in tested])
    assert 0.35 < p_values.mean() < 0.65
    assert (p_values < 0.05).sum() <= 6


def test_a_variance_at_its_boundary_is_said_with_the_warnings_of_the_fit() -> None:
    table = pairs(3, slope=0.0, noise=0.05)
    table["relative_improvement"] -= table.groupby("task_label")["relative_improvement"].transform("mean")
    rows = mixed_models(table)
    assert rows["is_singular"].any()
    assert rows.loc[rows["is_singular"], "notes"].str.contains("boundary|singular").all()


def test_every_model_has_its_terms_in_the_authors_order() -> None:
    rows = mixed_models(pairs(0))
    assert list(dict.fromkeys(rows["model"])) == list(MODELS)
    assert rows.groupby("model", sort=False)["term"].apply(list).tolist() == [
        ["Intercept", *terms] for terms in MODELS.values()
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pairs(0, tasks=1), "expected at least 4 pairs and 2 tasks, got 5 and 1"),
        (pairs(0).iloc[:0], "got 0 and 0"),
        (pairs(0).assign(relative_improvement=math.nan), "got 0 and 0"),
        (pairs(0).assign(bridge_max=0.3), "bridge_max does not vary"),
    ],
)
def test_a_model_that_cannot_be_fitted_says_why(table: pd.DataFrame, message: str) -> None:
    row = coefficient(table, "bridge length", "bridge_max")
    assert message in row["notes"]
    assert math.isnan(row["coefficient"])
    assert not row["has_converged"]


def test_two_mixes_have_no_permutation_p() -> None:
    row = coefficient(pairs(0, mixes=2), "bridge length", "bridge_max")
    assert math.isfinite(row["wald_p"])
    assert math.isnan(row["permutation_p"])


def test_the_section_shows_both_p_values_and_the_bridges(tables: Tables, tmp_path: Path) -> None:
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section(Report.of(write_study(tmp_path, tables))).markup))
    found = lengths(tables)
    row = mixed_models(found.reset_index()).iloc[1]
    assert f"{row['coefficient']:+.3f}".replace("-", "−") in shown
    assert "permutation p" in shown
    assert f"code → pycode perfect {found.loc[('code', 'pycode'), 'to_mix']:.3f}" in shown
    uncounted = replace(tables, proximity=None, similarity=None)
    assert "not finished" in section(Report.of(write_study(tmp_path / "uncounted", uncounted))).markup
    unfinished = section(Report.of(write_study(tmp_path / "unfinished", replace(bridging_tables(unfinished=[{}])))))
    assert "not fitted" in unfinished.markup
