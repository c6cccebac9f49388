"""The figure of distortion in fine-tuning against forgetting, one point per arm and trunk seed."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from midstudy.report.figures import style
from midstudy.studies.bridging.distortion import COLUMNS
from midstudy.studies.bridging.scale import CONTROL

_COMPARED = ("sft_layer_distortion", "sft_last_layer_cka")


@style.styled
def distortion_figure(points: pd.DataFrame) -> Figure:
    """Plot forgetting (nats per token) over the distortion of weights (left) and over the last layer's CKA (right).

    Markers are mixes, colours are tasks.

    Args:
        points: as returned by `distortion.forgotten`, of one size.
    """
    figure = style.new_figure(height_in=4.2)
    mixes, tasks = (list(dict.fromkeys(points[name])) for name in ("mix", "task"))
    markers = {mix: look.marker for mix, look in style.looks(mix for mix in mixes if mix != CONTROL).items()}
    markers |= {CONTROL: style.REFERENCE.marker}
    colours = {task: look.colour for task, look in style.looks(tasks).items()}
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column in zip(panels, _COMPARED, strict=True):
        for (mix, task), rows in points.groupby(["mix", "task"], sort=False):
            axes.plot(rows[column], rows["forgetting_nats"], markers[mix], color=colours[task], markersize=6, alpha=0.8)
        axes.set_xlabel(COLUMNS[column])
    panels[0].set_ylabel("increase of general loss in SFT, nats/token")
    handles = [style.handle(mix, colour=style.MUTED, marker=markers[mix]) for mix in mixes]
    handles += [style.handle(task, colour=colours[task], marker="o") for task in tasks]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=8.5)
    return figure
