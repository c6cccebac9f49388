"""The section on bridges: bridge lengths of every mix and task, and the authors' mixed models of the improvement."""

from __future__ import annotations

import pandas as pd

from midstudy.report.cells import readable
from midstudy.report.html import Heading, Html, Row, Text, details, paragraph, table
from midstudy.report.numbers import ABSENT, decimal, difference, interval, number, p_value, signed_percent
from midstudy.report.report import Report
from midstudy.report.sections.similarity import UNCOUNTED
from midstudy.studies.bridging.bridge_length import bridge_lengths
from midstudy.studies.bridging.mixed_models import INTERCEPT, mixed_models

_DISTANCES = ("to_mix", "to_task", "direct", "bridge_total", "bridge_max", "bridge_min")
_TERMS = {
    INTERCEPT: "intercept",
    "bridge_max": "bridge length (max)",
    "to_mix": "d(control, mix)",
    "to_task": "d(mix, task)",
    "perfect_match": "perfect match",
    "partial_match": "partial match",
}


def bridges(report: Report) -> Html:
    """Show the bridge of every mix and task, and the coefficients of the four mixed models with both p values."""
    lengths = bridge_lengths(report.tables)
    if lengths is None:
        return UNCOUNTED
    models = mixed_models(lengths)
    return _models(models) + details("Bridge lengths of every mix and task", _lengths(lengths))


def _models(models: pd.DataFrame) -> Html:
    rows: list[Row] = []
    notes: dict[str, None] = {}
    for name, terms in models.groupby("model", sort=False):
        first = terms.iloc[0]
        kind = "the variance between tasks is at its boundary, 0" if first["is_singular"] else "fitted"
        rows.append(Heading(f"{name}: {kind if first['has_converged'] else 'not fitted'}"))
        rows += [_coefficient(row) for _, row in terms.iterrows()]
        if first["notes"]:
            notes[f"{name}: {first['notes']}"] = None
    shown = table(
        ["term", "coefficient", "95 % interval", "Wald p", "permutation p", "relabellings"],
        rows,
        caption="The authors' mixed models of the relative improvement, with a random intercept per task, over "
        f"{number(models['num_pairs'].iloc[0])} pairs of {number(models['num_tasks'].iloc[0])} tasks (REML; sizes are "
        "pooled, as the authors did). Intervals and Wald p values are the model's own: they take pairs as independent given "
        "the task, and few tasks cannot estimate the variance between tasks. Permutation p: mixes and tasks are relabelled "
        "as wholes, with the model's other terms in place.",
    )
    return shown + (
        paragraph("Warnings of the fits. " + " ".join(f"{one}." for one in notes), css="note") if notes else Html("")
    )


def _coefficient(row: pd.Series) -> list[Text]:
    return [
        _TERMS[row["term"]],
        difference(row["coefficient"]),
        interval(row["ci_low"], row["ci_high"]),
        p_value(row["wald_p"]),
        p_value(row["permutation_p"]),
        number(row["num_relabellings"]) if row["num_relabellings"] else ABSENT,
    ]


def _lengths(lengths: pd.DataFrame) -> Html:
    many_sizes = lengths["size"].nunique() > 1
    kinds = {(1, 0): "perfect", (0, 1): "partial"}
    return table(
        ["mix → task", "match", "d(C, M)", "d(M, T)", "d(C, T)", "total", "max", "min", "shortening, %", "improvement, %",
         "degradation", "efficiency"],
        [
            [
                readable(row["pair"]) + (f", {row['size']}" if many_sizes else ""),
                kinds.get((row["perfect_match"], row["partial_match"]), ABSENT),
                *(decimal(row[name]) for name in _DISTANCES),
                signed_percent(row["path_shortening"]),
                signed_percent(row["relative_improvement"]),
                difference(row["degradation_nats"]),
                difference(row["efficiency"]),
            ]
            for _, row in lengths.iterrows()
        ],
        caption="Distances d = 1 − combined similarity between the control's corpus C, the mix M in its true share, and the "
        "task T. Total: d(C, M) + d(M, T). Shortening: (d(C, T) − total) / d(C, T). Degradation: general loss after "
        "fine-tuning, mix minus control, nats per token. Efficiency: improvement / (|degradation| + 0.001). Two samples of "
        "one corpus have a distance above 0.",
    )  # fmt: skip
