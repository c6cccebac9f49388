"""The design of a study: a line for every distinct run over its training steps, and the learning rate below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from midstudy.recipe.manifest import PhaseEntry
from midstudy.report.cells import readable
from midstudy.report.figures import style

_ROW_IN, _RATES_IN, _AROUND_IN = 0.27, 1.5, 1.0
_THICK, _THIN = 0.62, 0.14
"""Heights of a run's bar where it is its own, and where it shares its states with another run; of a row."""


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run of the design: its name, its phases, the step up to which another run has the same states, and its seeds."""

    name: str
    phases: tuple[PhaseEntry, ...]
    shared_steps: int
    seeds: str


@style.styled
def design_figure(runs: Sequence[RunLine]) -> Figure:
    """Plot the runs, one a line: thin where a run shares its states with a run above, else the stacked shares of its data.

    The learning rate is below, on the same axis. Right: how many seeds repeat the run.
    """
    height = _ROW_IN * len(runs) + _RATES_IN + _AROUND_IN
    figure = style.new_figure(height_in=height)
    lines, rates = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [height - _RATES_IN - 0.6, _RATES_IN]})
    names = dict.fromkeys(name for run in runs for phase in run.phases for name in phase.shares)
    looks: dict[str, str] = {name: look.colour for name, look in style.looks(names).items()}
    most = max((sum(phase.shares.get(name, 0) for run in runs for phase in run.phases), name) for name in names)[1]
    looks[most] = style.RULE  # the text that most runs read most of
    for y, run in enumerate(runs):
        _line(lines, y, run, looks)
    lines.set_ylim(len(runs) - 0.4, -0.6)
    lines.set_yticks(range(len(runs)), [run.name for run in runs], fontsize=8.5)
    lines.tick_params(axis="y", length=0)
    lines.tick_params(axis="x", labelbottom=False)
    _rates(rates, runs)
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour, label=readable(name)) for name, colour in looks.items()]
    columns = min(len(handles), 7)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=8.5, handlelength=1.0)
    return figure


def _line(axes: Axes, y: int, run: RunLine, looks: Mapping[str, str]) -> None:
    start = 0
    for phase in run.phases:
        for begin, end, height in (
            (phase.start_step, min(phase.stop_step, run.shared_steps), _THIN),
            (max(phase.start_step, run.shared_steps), phase.stop_step, _THICK),
        ):
            if begin >= end:
                continue
            bottom = y + height / 2
            for name, share in sorted(phase.shares.items(), key=lambda part: looks[part[0]] != style.RULE):
                bottom -= height * share
                axes.add_patch(Rectangle((begin, bottom), end - begin, height * share, facecolor=looks[name], linewidth=0))
        start = max(start, phase.stop_step)
    if 0 < (left := run.shared_steps) < start:
        axes.plot([left, left], [y - _THICK / 2, y + _THICK / 2], color=style.INK, linewidth=1.2, zorder=4)
        axes.annotate(f"{left}", xy=(left, y), xytext=(-3, 0), textcoords="offset points", ha="right",
                      va="center", fontsize=7.5, color=style.INK, bbox={"facecolor": "white", "pad": 0.6, "linewidth": 0},
                      zorder=5)  # fmt: skip
    axes.annotate(run.seeds, xy=(1, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                  va="center", fontsize=8.5)  # fmt: skip


def _rates(axes: Axes, runs: Sequence[RunLine]) -> None:
    """Plot the distinct learning-rate curves of the runs; on shared steps they are one."""
    longest = max((run.phases[-1].stop_step for run in runs if run.phases), default=1)
    for curve in dict.fromkeys(tuple(point for phase in run.phases for point in phase.rates) for run in runs):
        axes.plot([step for step, _ in curve], [rate for _, rate in curve], color=style.INK, linewidth=1.2)
    axes.set_xlim(-0.01 * longest, 1.01 * longest)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.ticklabel_format(axis="y", style="plain")
    axes.set_ylabel("learning rate")
    axes.set_xlabel("training step")
