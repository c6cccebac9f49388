"""Training: the loss of every run's batches over its steps, all seeds, and the loss on corpora where it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from midstudy.analysis.training import BATCHES
from midstudy.report.cells import label
from midstudy.report.figures import style
from midstudy.report.figures.ends import End, name_ends
from midstudy.report.numbers import tokens

_LABEL_IN, _AROUND_IN, _LEAST_IN = 0.17, 1.2, 3.8


@style.styled
def training_figure(training: pd.DataFrame, *, names: Sequence[str], seed: str | None) -> Figure:
    """Plot losses in nats per token over training steps: a thin line per run and seed, their mean where there are several.

    Rings: losses measured on a corpus. The upper axis has the tokens read, if all runs read equally many a step. A run that
    branches off has a line from its start on, and its name at its end.

    Args:
        training: rows of the table of training: the factors, split, step, tokens, loss_nats.
        names: the factors that name the runs.
        seed: the seed that replicates; None if the study has no seeds.
    """
    runs = list(training.groupby(list(names), sort=False, dropna=False)) if names else [((), training)]
    height = max(_LEAST_IN, _LABEL_IN * len(runs) + _AROUND_IN)
    figure = style.new_figure(height_in=height)
    axes = figure.subplots()
    looks = style.looks([label(rows.iloc[0], names) for _, rows in runs])
    ends: list[End] = []
    for _, rows in runs:
        name = label(rows.iloc[0], names)
        colour = looks[name].colour
        batches = rows[rows["split"] == BATCHES]
        by_seed = batches.groupby([*([seed] if seed else []), "step"])["loss_nats"].mean().reset_index()
        num_seeds = by_seed[seed].nunique() if seed else 1
        for _, run in by_seed.groupby(seed) if seed else [((), by_seed)]:
            axes.plot(run["step"], run["loss_nats"], color=colour, linewidth=0.6, alpha=0.55, zorder=2)
        at_step = by_seed.groupby("step")["loss_nats"].agg(["mean", "size"])
        mean = at_step.loc[at_step["size"] == num_seeds, "mean"]  # steps that every seed logged
        last = (mean if len(mean) else at_step["mean"]).tail(1)
        axes.plot(mean.index, mean, color=colour, linewidth=1.5 if num_seeds > 1 else 0.6, zorder=3)
        measured = rows[rows["split"] != BATCHES]
        axes.plot(measured["step"], measured["loss_nats"], "o", color=colour, markersize=4.5, markerfacecolor="white",
                  markeredgewidth=1.2, zorder=4, clip_on=False)  # fmt: skip
        n = f"n = {num_seeds}" if seed else ""
        text = ", ".join(part for part in (name if names else "", n) if part)
        ends.append((text, colour, float(last.index[0]), float(last.iloc[0])))
    name_ends(axes, ends, gap=_LABEL_IN / (height - _AROUND_IN))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("training step")
    axes.set_ylabel("nats per token")
    if (a_step := tokens_a_step(training)) is not None:
        above = axes.secondary_xaxis("top", functions=(partial(np.multiply, a_step), partial(np.multiply, 1 / a_step)))
        above.xaxis.set_major_formatter(FuncFormatter(lambda read, _: tokens(read)))
        above.set_xlabel("tokens trained on")
    return figure


def tokens_a_step(training: pd.DataFrame) -> float | None:
    """Return the target tokens of a training step, None if they differ between steps or runs by more than 1 %."""
    batches = training[(training["split"] == BATCHES) & (training["step"] > 0)]
    a_step = (batches["tokens"] / batches["step"]).dropna()
    return float(a_step.mean()) if len(a_step) and a_step.max() <= 1.01 * a_step.min() else None
