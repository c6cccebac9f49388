"""The paper's claims beside this study's numbers: same direction, opposite, or not decided.

A direction is decided where the 95 % interval over trunk seeds lies on one side of zero; one trunk seed decides
nothing. Levels are not compared: another model size, tokenizer and text have other losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from midstudy.analysis import paper
from midstudy.analysis.ablations import mid_versus_continued
from midstudy.analysis.arms import CONTROL, in_group, is_member, require_arms
from midstudy.analysis.correlations import MATCHED_TASK, correlations, is_matched, proximity_pairs
from midstudy.analysis.effects import best_of, paired_effects
from midstudy.analysis.pairs import pair_by_trunk_seed, summarise
from midstudy.analysis.phrases import nats_with_interval, percent, percent_with_interval

YES, NO, INCONCLUSIVE = "yes", "no", "inconclusive"
#: "About no change": the paper's largest mismatched change of SFT loss is 1.95 % (v1 Table 2, LIMA with Starcoder).
NULL_BAND = 0.02


@dataclass(frozen=True)
class ClaimRow:
    """A claim with the paper's values, ours, and whether they point the same way.

    ``ours_value`` with its interval is in ``unit`` and positive where it supports the claim; NaN where not measured.
    """

    claim: str
    size: str
    paper: str
    ours: str
    same_direction: str
    ours_value: float
    ours_low: float
    ours_high: float
    unit: str


@dataclass(frozen=True, eq=False)
class _Measured:
    """What the study measured at one size."""

    size: str
    arms: pd.DataFrame
    task_effects: pd.DataFrame
    general_effects: pd.DataFrame
    mid_versus_continued: pd.DataFrame
    proximity: pd.DataFrame | None


def beside_paper(arms: pd.DataFrame, *, proximity: pd.DataFrame | None) -> pd.DataFrame:
    """Every claim of the paper that a bridging study can speak to, one row per claim and size (``ClaimRow``).

    ``proximity`` as ``proximity_rows`` of the similarity package gives it, None while that is not finished. A claim
    whose arms the study does not have, or has not finished, keeps its row and is inconclusive.
    """
    require_arms(arms)
    rows: list[ClaimRow] = []
    for size in arms["size"].unique():
        ours = _measure(arms[arms["size"] == size], size=size, proximity=proximity)
        for mix, task in MATCHED_TASK.items():
            rows += [_lowers_task_loss(ours, mix, task), _beats_rivals(ours, mix, task)]
        rows += [_mismatched_change_little(ours, task) for task in MATCHED_TASK.values()]
        rows += [_lowers_general_loss(ours, mix, task) for mix, task in MATCHED_TASK.items()]
        for loss_column in ("sft_loss", "general_loss"):
            rows += [_mid_beats_continued(ours, mix, task, loss_column) for mix, task in MATCHED_TASK.items()]
        rows += [_earlier_is_better(ours), _proximity_correlates(ours)]
        rows += [_mix_is_closer(ours, cell) for cell in paper.SIMILARITIES]
    return pd.DataFrame([asdict(row) for row in rows], columns=list(ClaimRow.__dataclass_fields__))


def _measure(arms: pd.DataFrame, *, size: str, proximity: pd.DataFrame | None) -> _Measured:
    main = in_group(arms, "main")
    return _Measured(
        size=size,
        arms=arms,
        task_effects=paired_effects(main, loss_column="sft_loss").table,
        general_effects=paired_effects(main, loss_column="general_loss").table,
        mid_versus_continued=mid_versus_continued(arms),
        proximity=proximity,
    )


def direction(*, low: float, high: float) -> str:
    """'yes' where an interval lies above zero, 'no' where below, 'inconclusive' where it holds zero or is NaN."""
    if low > 0:
        return YES
    return NO if high < 0 else INCONCLUSIVE


def _lowers_task_loss(ours: _Measured, mix: str, task: str) -> ClaimRow:
    cited = []
    for source, short in (
        (paper.V1_TABLE_2, "v1 Table 2, 410m"),
        (paper.V2_TABLE_3, "v2 Table 3, 160m, second-hand"),
        (paper.V2_TABLE_2, "v2 Table 2, 1b, second-hand"),
    ):
        control, arm = (paper.paper_loss(source=source, task=task, mix=name) for name in (CONTROL, mix))
        gain = 100 * paper.relative_improvement(arm, control)
        cited.append(f"{control.sft_loss:.3f} → {arm.sft_loss:.3f}, {gain:.1f} % lower ({short})")
    effect = _cell(ours.task_effects, mix, task)
    return _percent_row(f"{mix} midtraining lowers {task} loss", ours.size, "; ".join(cited), effect)


def _beats_rivals(ours: _Measured, mix: str, task: str) -> ClaimRow:
    table = {cell.mix: cell.sft_loss for cell in paper.LOSSES if (cell.source, cell.task) == (paper.V1_TABLE_2, task)}
    rivals = {name: loss for name, loss in table.items() if name != mix}
    nearest = min(rivals, key=rivals.__getitem__)
    cited = f"next is {nearest}, {rivals[nearest] - table[mix]:+.3f} nats (v1 Table 2, 410m)"
    claim = f"{mix} is the best of all mixes and the control on {task}"
    here = in_group(ours.arms, "main")
    if not ((here["mix"] == mix) & (here["task"] == task)).any():
        return _not_measured(claim, ours.size, cited, "nats")
    rows = best_of(here, size=ours.size, task=task, mix=mix)
    measured = rows[rows["n_trunk_seeds"] > 0]
    if measured.empty:
        return _not_measured(claim, ours.size, cited, "nats")
    verdicts = [direction(low=low, high=high) for low, high in zip(rows["ci_low"], rows["ci_high"], strict=True)]
    verdict = NO if NO in verdicts else YES if set(verdicts) == {YES} else INCONCLUSIVE
    closest = measured.loc[measured["difference_nats"].idxmin()]
    text = f"next is {closest['other']}, {nats_with_interval(closest)}"
    undecided = [str(other) for other, found in zip(rows["other"], verdicts, strict=True) if found != YES]
    if undecided:
        text += f"; not beaten beyond doubt: {', '.join(undecided)}"
    numbers = (closest["difference_nats"], closest["ci_low"], closest["ci_high"])
    return ClaimRow(claim, ours.size, cited, text, verdict, *numbers, unit="nats")


def _mismatched_change_little(ours: _Measured, task: str) -> ClaimRow:
    table = [cell for cell in paper.LOSSES if (cell.source, cell.task) == (paper.V1_TABLE_2, task)]
    control = next(cell for cell in table if cell.mix == CONTROL)
    gains = [
        paper.relative_improvement(cell, control)
        for cell in table
        if cell.mix != CONTROL and MATCHED_TASK.get(cell.mix) != task
    ]
    cited = f"{percent(min(gains))} to {percent(max(gains))} (v1 Table 2, 410m)"
    claim = f"mismatched mixes change {task} loss by less than {100 * NULL_BAND:g} %"
    unit = "relative improvement"
    effects = ours.task_effects
    effects = effects[(effects["task"] == task) & ~is_matched(effects)]
    if effects.empty:
        return _not_measured(claim, ours.size, cited, unit)
    low, high = effects["relative_ci_low"], effects["relative_ci_high"]
    if ((low > NULL_BAND) | (high < -NULL_BAND)).any():
        verdict = NO
    else:
        verdict = YES if ((low > -NULL_BAND) & (high < NULL_BAND)).all() else INCONCLUSIVE
    extreme = effects.loc[effects["relative_improvement"].abs().idxmax()]
    text = f"largest of {len(effects)}: {extreme['mix']} {percent_with_interval(extreme)}"
    numbers = (extreme["relative_improvement"], extreme["relative_ci_low"], extreme["relative_ci_high"])
    return ClaimRow(claim, ours.size, cited, text, verdict, *numbers, unit=unit)


def _lowers_general_loss(ours: _Measured, mix: str, task: str) -> ClaimRow:
    cited = []
    for source, short in (
        (paper.V2_TABLE_3, "v2 Table 3, 160m, second-hand"),
        (paper.V2_TABLE_2, "v2 Table 2, 1b, second-hand"),
        (paper.V1_TABLE_2, "v1 Table 2, 410m"),
    ):
        control, arm = (paper.paper_loss(source=source, task=task, mix=name) for name in (CONTROL, mix))
        opposite = ", the opposite" if arm.general_loss > control.general_loss else ""
        cited.append(f"{control.general_loss:.3f} → {arm.general_loss:.3f} ({short}{opposite})")
    effect = _cell(ours.general_effects, mix, task)
    return _percent_row(f"{mix} midtraining lowers general loss after {task} SFT", ours.size, "; ".join(cited), effect)


def _mid_beats_continued(ours: _Measured, mix: str, task: str, loss_column: str) -> ClaimRow:
    share = paper.WEIGHT[mix]
    mid, continued = (
        paper.paper_loss(source=paper.V2_TABLE_3, task=task, mix=mix, weight=weight) for weight in (share, 1.0)
    )
    kind, field = ("task", "sft_loss") if loss_column == "sft_loss" else ("general", "general_loss")
    cited = f"{getattr(continued, field):.3f} → {getattr(mid, field):.3f} (v2 Table 3, 160m, second-hand)"
    claim = f"{mix} mixed into general text beats {mix} alone: {kind} loss after {task} SFT"
    table = ours.mid_versus_continued
    return _percent_row(claim, ours.size, cited, _cell(table[table["loss_column"] == loss_column], mix, task))


def _earlier_is_better(ours: _Measured) -> ClaimRow:
    mix, task = "code", "pycode"
    claim = f"an earlier start of {mix} data lowers {task} loss more (it also means more {mix} tokens)"
    cited = "claimed for 70m and 160m, starts at 10 % to 82 % of training (v1)"
    timing = in_group(ours.arms, "timing")
    timing = timing[(timing["mix"] == mix) & (timing["task"] == task)]
    # A study may cross start steps with weights: the claim is about the main weight.
    timing = timing[timing["weight"] == _main_weight(ours.arms, mix)]
    if timing["start_step"].nunique() < 2:
        return _not_measured(claim, ours.size, cited, "relative improvement")
    first, last = timing["start_step"].min(), timing["start_step"].max()
    early, late = timing[timing["start_step"] == first], timing[timing["start_step"] == last]
    row = summarise(pair_by_trunk_seed(early, late, loss_column="sft_loss"))
    return _percent_row(claim, ours.size, cited, row, prefix=f"start {first} against {last}: ")


def _proximity_correlates(ours: _Measured) -> ClaimRow:
    claim = "proximity advantage correlates with relative improvement"
    cited = ", ".join(f"r = {known.r:.3f} ({known.size}, {known.source})" for known in paper.CORRELATIONS)
    if ours.proximity is None or ours.task_effects.empty:
        return _not_measured(claim, ours.size, cited, "r")
    row = correlations(proximity_pairs(ours.task_effects, ours.proximity)).iloc[0]
    if math.isnan(row["r"]):
        return ClaimRow(claim, ours.size, cited, row["reason"], INCONCLUSIVE, math.nan, math.nan, math.nan, "r")
    interval = f"95 % interval {row['ci_low']:.2f} to {row['ci_high']:.2f}"
    unmatched = "unknown" if math.isnan(row["r_unmatched"]) else f"{row['r_unmatched']:.2f}"
    text = f"r = {row['r']:.2f} ({interval}, {row['n_pairs']} pairs; unmatched pairs alone {unmatched})"
    verdict = direction(low=row["ci_low"], high=row["ci_high"])
    return ClaimRow(claim, ours.size, cited, text, verdict, row["r"], row["ci_low"], row["ci_high"], "r")


def _mix_is_closer(ours: _Measured, known: paper.PaperSimilarity) -> ClaimRow:
    claim = f"the {known.mix} mix is closer to {known.task} than the control is"
    cited = f"similarity {known.control_similarity:.2f} → {known.mix_similarity:.2f} ({known.source})"
    unit = "combined similarity"
    table = ours.proximity
    if table is not None:
        table = table[(table["weight"] - _main_weight(ours.arms, known.mix)).abs() < 1e-9]
    found = None if table is None else _cell(table, known.mix, known.task)
    if found is None:
        return _not_measured(claim, ours.size, cited, unit)
    advantage = float(found["pa_combined"])
    text = f"similarity {found['control_combined']:.2f} → {found['mix_combined']:.2f} (measured once, no interval)"
    verdict = YES if advantage > 0 else NO if advantage < 0 else INCONCLUSIVE
    return ClaimRow(claim, ours.size, cited, text, verdict, advantage, math.nan, math.nan, unit)


def _cell(table: pd.DataFrame, mix: str, task: str) -> pd.Series | None:
    found = table[(table["mix"] == mix) & (table["task"] == task)]
    return None if found.empty else found.iloc[0]


def _main_weight(arms: pd.DataFrame, mix: str) -> float:
    """The weight of a mix's main arm; NaN, which equals no weight, where the study has none."""
    weights = arms.loc[is_member(arms, "main") & (arms["mix"] == mix), "weight"]
    return float(weights.iloc[0]) if len(weights) else math.nan


def _percent_row(
    claim: str, size: str, cited: str, row: Mapping[str, Any] | pd.Series | None, *, prefix: str = ""
) -> ClaimRow:
    if row is None or row["n_trunk_seeds"] == 0:
        return _not_measured(claim, size, cited, "relative improvement")
    value, low, high = row["relative_improvement"], row["relative_ci_low"], row["relative_ci_high"]
    text = prefix + percent_with_interval(row)
    return ClaimRow(claim, size, cited, text, direction(low=low, high=high), value, low, high, "relative improvement")


def _not_measured(claim: str, size: str, cited: str, unit: str) -> ClaimRow:
    return ClaimRow(claim, size, cited, "not measured", INCONCLUSIVE, math.nan, math.nan, math.nan, unit)
