"""Claims of the bridging study: which a study can judge, and estimators of its own on planted effects."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.analysis_tables import bridging_tables, tables_of
from builders.crossed_tables import crossed_of, study_of
from builders.report_study import write_study
from scipy import stats

from midstudy.analysis.claims import judge
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim
from midstudy.report.report import Report
from midstudy.studies.bridging import paper
from midstudy.studies.bridging.distance import distance_and_gain
from midstudy.studies.bridging.sections import claims as claims_section
from midstudy.studies.bridging.timing import timing_over_share

TIMING = Claim(
    text="timing",
    source="here",
    estimator="midstudy.studies.bridging.timing:timing_over_share",
    comparison="crossed",
    column="sft_loss",
    arms={"mix": "code"},
    options={"scale": "difference"},
)
FURTHER = Claim(
    text="further",
    source="here",
    estimator="midstudy.studies.bridging.distance:distance_and_gain",
    comparison="main",
    column="sft_loss",
)

Gain = Callable[[int, float, int], float]


def crossed_study(
    gain: Gain, *, starts: Sequence[int] = (16, 52, 105), weights: Sequence[float] = (0.1, 0.2, 0.5), seeds: int = 4
) -> Tables:
    """A study of code at every start and share, whose gain in nats is a function of start, share and seed."""
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        level = 4.0 + 0.3 * seed
        rows.append({"mix": "control", "weight": 0.0, "start_step": 0, "seed": seed, "sft_loss": level})
        for start, weight in itertools.product(starts, weights):
            loss = level - gain(start, weight, seed)
            rows.append({"mix": "code", "weight": weight, "start_step": start, "seed": seed, "sft_loss": loss})
    entry = {"name": "crossed", "arms": {"mix": "code"}, "references": {"mix": "control"}, "columns": ("sft_loss",)}
    return tables_of(rows, [entry], columns={"sft_loss": "lower"}, seeds=("seed",), claims=[TIMING])


def jitter(start: int, weight: float, seed: int) -> float:
    return float(np.random.default_rng([start, round(100 * weight), seed]).normal(scale=0.01))


def test_timing_over_share_is_the_contrast_of_its_four_corners() -> None:
    def gain(start: int, weight: float, seed: int) -> float:
        return 0.01 * (105 - start) + 0.5 * weight + jitter(start, weight, seed)

    found = timing_over_share(crossed_study(gain), TIMING)
    contrasts = [
        (gain(16, 0.2, seed) - gain(105, 0.2, seed)) - (gain(105, 0.5, seed) - gain(105, 0.1, seed)) for seed in range(4)
    ]
    expected = stats.ttest_1samp(contrasts, 0)
    interval = expected.confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(contrasts))
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.num_seeds == 4
    (row,) = judge(crossed_study(gain)).itertuples()
    assert row.p_value == pytest.approx(expected.pvalue)
    assert row.verdict == "yes"


def test_where_the_share_moves_the_gain_more_timing_does_not_matter_more() -> None:
    tables = crossed_study(lambda start, weight, seed: 0.001 * (105 - start) + 2 * weight + jitter(start, weight, seed))
    assert judge(tables)["verdict"].tolist() == ["no"]


def test_other_starts_and_shares_do_not_move_the_contrast() -> None:
    def of(extra: float) -> Gain:
        corners = {(16, 0.2), (105, 0.2), (105, 0.5), (105, 0.1)}
        return lambda start, weight, seed: (start / 100 + weight) + ((start, weight) not in corners) * extra

    first, second = (timing_over_share(crossed_study(of(extra)), TIMING).value for extra in (0.0, 7.0))
    assert first == pytest.approx(second)


def test_a_seed_counts_once_all_four_corners_are_finished() -> None:
    tables = crossed_study(lambda start, weight, seed: 0.01 * (105 - start) + jitter(start, weight, seed))
    arms = tables.arms.copy()
    arms.loc[(arms["seed"] == 2) & (arms["start_step"] == 16) & (arms["weight"] == 0.2), "sft_loss"] = math.nan
    assert timing_over_share(replace(tables, arms=arms), TIMING).num_seeds == 3
    single = timing_over_share(crossed_study(jitter, seeds=1), TIMING)
    assert math.isnan(single.low)
    assert math.isnan(single.p_holds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": (16,)}, "expected two or more starts and an odd number of shares from three, got 1 and 3"),
        ({"weights": (0.1, 0.5)}, "got 3 and 2"),
        ({"weights": (0.1, 0.2, 0.3, 0.5)}, "got 3 and 4"),
    ],
)
def test_timing_needs_arms_crossed_over_starts_and_shares(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timing_over_share(crossed_study(jitter, **changes), TIMING)


def distant_study(gains: np.ndarray, distances: Sequence[float], *, claims: Sequence[Claim] = ()) -> Tables:
    """A study of mixes × tasks with these relative improvements, whose control lies at these distances from the tasks."""
    tables = study_of(crossed_of(np.zeros(gains.shape), gains), claims=claims)
    assert tables.proximity is not None
    control = {f"task{number}": 1 - distance for number, distance in enumerate(distances)}
    known = tables.proximity.assign(control_combined=tables.proximity["task"].map(control), reference="general")
    return replace(tables, proximity=known)


DISTANCES = (0.2, 0.3, 0.35, 0.5, 0.6, 0.7)


def gains(slope: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=0.004, size=(4, len(DISTANCES)))
    return slope * np.array(DISTANCES)[None, :] + noise


def test_the_distance_of_the_control_is_correlated_with_the_gains_of_all_mixes() -> None:
    found = distance_and_gain(distant_study(gains(0.1), DISTANCES), FURTHER)
    expected = stats.pearsonr(np.tile(DISTANCES, 4), gains(0.1).ravel()).statistic
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high


@pytest.mark.parametrize(("slope", "verdict"), [(0.1, "yes"), (-0.1, "no"), (0.0, "inconclusive")])
def test_a_planted_trend_over_tasks_decides_the_claim(slope: float, verdict: str) -> None:
    assert judge(distant_study(gains(slope), DISTANCES, claims=[FURTHER]))["verdict"].tolist() == [verdict]


def test_the_p_value_is_that_of_relabelled_tasks() -> None:
    """With six tasks 720 permutations of the task means: the sum of products is a monotone function of r."""
    table = gains(0.02)
    means = table.mean(axis=0)
    products = [float(np.dot(np.array(one) - np.mean(DISTANCES), means)) for one in itertools.permutations(DISTANCES)]
    expected = np.mean([abs(one) >= abs(products[0]) - 1e-12 for one in products])
    assert distance_and_gain(distant_study(table, DISTANCES), FURTHER).p_value == pytest.approx(expected)


def test_four_tasks_leave_the_claim_undecided_and_say_so() -> None:
    tables = distant_study(gains(1.0)[:, :4], DISTANCES[:4], claims=[FURTHER])
    (row,) = judge(tables).itertuples()
    assert row.verdict == "inconclusive"
    assert row.value > 0.9
    assert "5 tasks are needed" in row.ours


def test_without_counts_or_results_the_distance_has_no_correlation() -> None:
    tables = distant_study(gains(0.1), DISTANCES)
    assert math.isnan(distance_and_gain(replace(tables, proximity=None), FURTHER).value)
    unfinished = distant_study(np.full((4, 6), math.nan), DISTANCES)
    assert math.isnan(distance_and_gain(unfinished, FURTHER).value)
    same = distance_and_gain(distant_study(gains(0.1), [0.5] * 6), FURTHER)
    assert same.text == "no correlation: the control's distance to the task does not vary"


def test_two_reference_corpora_leave_no_single_distance() -> None:
    tables = distant_study(gains(0.1), DISTANCES)
    assert tables.proximity is not None
    references = ["general", "web"] * (len(tables.proximity) // 2)
    with pytest.raises(ValueError, match="expected one reference corpus, got general, web"):
        distance_and_gain(replace(tables, proximity=tables.proximity.assign(reference=references)), FURTHER)


def test_the_note_is_cited_for_its_directions_and_its_slip_is_shown_beside_the_claims(tmp_path: Path) -> None:
    assert all(
        paper.note_agrees(mix, task, column)
        for mix, task in (("code", "pycode"), ("math", "word_problems"))
        for column in ("sft_loss", "general_loss")
    )
    assert not paper.note_agrees("qa", "pycode", "sft_loss")
    report = Report.of(write_study(tmp_path, bridging_tables(claims=[replace(FURTHER, text="further")])))
    text = re.sub(r"<[^>]+>", " ", claims_section.claims(report).markup)
    assert "The note is cited for directions, not for levels." in text
    without = claims_section.claims(Report.of(write_study(tmp_path / "none", bridging_tables())))
    assert "public note" not in without.markup
    own = bridging_tables(claims=[replace(FURTHER, text="further", source="midstudy")])
    assert "public note" not in claims_section.claims(Report.of(write_study(tmp_path / "own", own))).markup


def test_no_level_of_the_note_lies_near_a_level_of_the_paper() -> None:
    """At any size of the paper, for the same mix, share and task: what the sentence about the note says."""
    for cell in paper.NOTE_LOSSES:
        of_mix = [one for one in paper.LOSSES if one.mix == cell.mix and one.task in ("pycode", "word_problems")]
        same = [one for one in of_mix if (one.task, one.weight) == (cell.task, cell.weight)]
        assert min(abs(one.sft_loss - cell.sft_loss) for one in same) > 0.5
        assert cell not in paper.LOSSES
