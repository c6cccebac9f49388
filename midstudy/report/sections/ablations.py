"""Mid versus continued pretraining, when a mix starts, and how heavy it weighs."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from midstudy.analysis.arms import is_member
from midstudy.report.figures.curves import curve_figure
from midstudy.report.figures.style import spoken
from midstudy.report.html import Heading, Html, Row, Text, paragraph, table
from midstudy.report.numbers import difference, interval, loss, p_value, percent, signed_percent, tokens
from midstudy.report.report import Report
from midstudy.report.results import Curve
from midstudy.report.sections.effects import NOTHING

_LOSS_NAMES = {"sft_loss": "task loss", "general_loss": "general loss"}


def mid_versus_continued(report: Report) -> Html:
    """Control, mixture and specialist text alone, side by side: task loss and general loss after SFT."""
    compared = report.results.mid_versus_continued
    if compared.empty:
        return paragraph("The study has no continued-pretraining arms.", css="note")
    rows: list[Row] = []
    for (size, mix, task), losses in compared.groupby(["size", "mix", "task"], sort=False):
        first = losses.iloc[0]
        rows.append(
            Heading(
                f"{spoken(mix)} → {spoken(task)}, {size}: {percent(first['mid_weight'])} from step "
                f"{first['mid_start_step']} ({tokens(first['mid_specialist_tokens'])} {spoken(mix)} tokens) against "
                f"100 % from step {first['continued_start_step']} ({tokens(first['continued_specialist_tokens'])})"
            )
        )
        rows += [_compared_cells(row) for _, row in losses.iterrows()]
    columns = [
        "after SFT",
        "seeds",
        "control",
        "mid",
        "continued",
        "mid lower by, nats",
        "95 % interval",
        "%",
        "p",
        "p, Holm",
    ]
    return table(
        columns,
        rows,
        caption="Midtraining (specialist text mixed into general text) against continued pretraining (specialist "
        "text alone), and the general-only control, over the seeds finished in mid and continued. Test losses in "
        "nats per token; positive differences: the mixture is better. Seeds: trunk × SFT; intervals: 95 % t over "
        "trunk seeds, a dash where there is one. The arms differ in start and in specialist tokens, as they do in "
        "the paper.",
    )


def timing(report: Report) -> Html:
    """Effect by start step."""
    return _ablation(report, report.results.timing, name="timing", factor="start_step")


def weight(report: Report) -> Html:
    """Effect by weight."""
    return _ablation(report, report.results.weight, name="weight", factor="weight")


def _compared_cells(row: pd.Series) -> list[Text]:
    n = int(row["n_trunk_seeds"])
    return [
        _LOSS_NAMES[row["loss_column"]] if n else f"{_LOSS_NAMES[row['loss_column']]} (not finished)",
        f"{n} × {row['n_sft_seeds']}",
        loss(row["control_loss"]),
        loss(row["mid_loss"]),
        loss(row["continued_loss"]),
        difference(row["difference_nats"]),
        interval(row["ci_low"], row["ci_high"]),
        signed_percent(row["relative_improvement"]),
        p_value(row["p_value"]),
        p_value(row["p_holm"]),
    ]


def _ablation(report: Report, curve: Curve, *, name: str, factor: Literal["start_step", "weight"]) -> Html:
    arms = report.study.arms
    planned = arms[is_member(arms, name)]
    if planned.empty:
        return paragraph(f"The study has no {name} arms.", css="note")
    if curve.task.table.empty and curve.general.table.empty:
        return NOTHING
    other = "weight" if factor == "start_step" else "start_step"
    fixed = _listed(planned, other)
    varied, tied = (
        ("start", "An earlier start also means more specialist tokens")
        if factor == "start_step"
        else ("share", "A heavier share also means more specialist tokens")
    )
    shown = Html("")
    for size, where in report.by_size():
        if (planned["size"] == size).any():
            drawn = curve_figure(arms, curve.task, curve.general, factor=factor, size=size)
            shown += report.figure(
                drawn,
                name,
                size=size,
                caption=f"Loss after fine-tuning by {varied} of the mix ({fixed}), below the general-only "
                "control's, percent; the lowest line of the axis is the number of specialist tokens drawn. "
                "Markers: means; bars: 95 % t-intervals over n trunk seeds; rings and thin lines: single trunk "
                f"seeds; hollow markers: one trunk seed, no interval. {tied}: the two cannot be told apart "
                f"here.{where}",
            )
    return shown + _curve_table(curve, name, tied)


def _listed(planned: pd.DataFrame, column: str) -> str:
    values = sorted(planned[column].unique())
    if column == "weight":
        return f"share {', '.join(percent(value) for value in values)} after the start"
    return f"start at step {', '.join(str(value) for value in values)}"


def _curve_table(curve: Curve, name: str, tied: str) -> Html:
    rows: list[Row] = []
    for what, effects in (("task loss after SFT", curve.task), ("general loss after SFT", curve.general)):
        members = effects.table[is_member(effects.table, name)]
        for (size, mix, task), points in members.groupby(["size", "mix", "task"], sort=False):
            rows.append(Heading(f"{what}: {spoken(mix)} → {spoken(task)}, {size}"))
            rows += [
                [
                    f"{percent(row['weight'])} from step {row['start_step']} ({percent(row['start_fraction'])})",
                    tokens(row["specialist_tokens"]),
                    f"{row['n_trunk_seeds']} × {row['n_sft_seeds']}",
                    loss(row["control_loss"]),
                    loss(row["loss"]),
                    difference(row["difference_nats"]),
                    interval(row["ci_low"], row["ci_high"]),
                    signed_percent(row["relative_improvement"]),
                    p_value(row["p_value"]),
                    p_value(row["p_holm"]),
                ]
                for _, row in points.iterrows()
            ]
    columns = ["arm", "tokens", "seeds", "control", "arm", "lower by, nats", "95 % interval", "%", "p", "p, Holm"]
    return table(
        columns,
        rows,
        caption=f"The same in numbers (test, nats per token). Tokens: specialist tokens drawn. {tied}. Holm's "
        "correction is over this ablation's effects on one loss.",
    )
