"""Everything the report states, computed once by the analysis and then only shown."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from midstudy.analysis.ablations import forgetting, mid_versus_continued, timing_curve, weight_curve
from midstudy.analysis.answer import answer_sentence
from midstudy.analysis.arms import ARM_KEY, LOSS_COLUMNS, in_group
from midstudy.analysis.claims import beside_paper
from midstudy.analysis.correlations import MEASURES, correlations, proximity_pairs
from midstudy.analysis.effects import Effects, paired_effects
from midstudy.report.inputs import StudyTables


@dataclass(frozen=True, eq=False)
class Curve:
    """An ablation of one factor: effects on task loss and on general loss, against the control."""

    task: Effects
    general: Effects


@dataclass(frozen=True, eq=False)
class Results:
    """The analysis of one study.

    ``effects`` and ``general_effects`` are of the main group (a Holm family each). ``pairs`` and ``correlations`` (a row
    per size and measure) are None until all token counts are done. ``unfinished`` has the runs without a final task
    loss or general loss, with the losses that each lacks.
    """

    answer: str
    effects: Effects
    general_effects: Effects
    pairs: pd.DataFrame | None
    correlations: pd.DataFrame | None
    mid_versus_continued: pd.DataFrame
    timing: Curve
    weight: Curve
    forgetting: pd.DataFrame
    claims: pd.DataFrame
    unfinished: pd.DataFrame


def analyse(study: StudyTables) -> Results:
    """Run the whole analysis; raises what the analysis raises, ValueError naming the arm that cannot be used."""
    arms, proximity = study.arms, study.proximity
    main = in_group(arms, "main")
    effects = paired_effects(main)
    pairs = None if proximity is None else proximity_pairs(effects.table, proximity)
    return Results(
        answer=answer_sentence(arms, tasks=_most_replicated_first(arms)),
        effects=effects,
        general_effects=paired_effects(main, loss_column="general_loss"),
        pairs=pairs,
        correlations=None if pairs is None else pd.concat([correlations(pairs, measure=one) for one in MEASURES]),
        mid_versus_continued=mid_versus_continued(arms),
        timing=Curve(timing_curve(arms), timing_curve(arms, loss_column="general_loss")),
        weight=Curve(weight_curve(arms), weight_curve(arms, loss_column="general_loss")),
        forgetting=forgetting(arms),
        claims=beside_paper(arms, proximity=proximity),
        unfinished=_unfinished(arms),
    )


def _most_replicated_first(arms: pd.DataFrame) -> list[str]:
    """Tasks by the trunk seeds planned for their control, most first, else in the study's order."""
    seeds = in_group(arms, "main").groupby("task", sort=False)["trunk_seed"].nunique()
    return list(seeds.sort_values(ascending=False, kind="stable").index)


def _unfinished(arms: pd.DataFrame) -> pd.DataFrame:
    """Runs that lack a loss, in the study's order, with column ``lacks``: the losses' names, comma-joined."""
    lacks = arms[list(LOSS_COLUMNS)].isna().apply(lambda row: ", ".join(row.index[row]), axis=1)
    return arms[[*ARM_KEY, "trunk_seed", "sft_seed", "groups"]].assign(lacks=lacks)[lacks != ""]
