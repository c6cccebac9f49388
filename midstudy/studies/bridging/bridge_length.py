"""Bridge length and its variants: how far general text, a mix and a task lie from each other, for every mix and task.

Definitions: nightingal3/midtraining `visualization_scripts/bridge_mixed_effects.py` and `bridge_correlation.py`, the scripts
of arXiv 2510.14865. With the distance d = 1 − combined similarity, the control's corpus C, the mix M and the task T:

    total = d(C, M) + d(M, T), max and min of both
    path shortening = (d(C, T) − total) / d(C, T)
    degradation = general loss after SFT, mix − control
    efficiency = relative improvement / (|degradation| + 0.001)

A mix contains general text, here in its true share. Two samples of one corpus are not at distance 0 (`similarity.halves`).
"""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.mix_task import mix_task_pairs
from midstudy.analysis.tables import Tables
from midstudy.recipe.manifest import MixEntry
from midstudy.studies.bridging.grid import MATCHED

PARTLY_MATCHED = frozenset({("math", "science_qa"), ("instruction", "long_form"), ("instruction", "science_qa")})
"""The authors' partial matches among the tasks here: Math → SciQ, FLAN → LIMA, FLAN → SciQ."""


def bridge_lengths(tables: Tables) -> pd.DataFrame | None:
    """Return one row per planned cell of the comparison "main", with its bridge and its effects.

    Columns: the factors except seeds, mix_label, task_label, pair; to_mix = d(C, M), to_task = d(M, T), direct = d(C, T),
    bridge_total, bridge_max, bridge_min, path_shortening; perfect_match and partial_match (1 or 0, the authors' classes);
    relative_improvement of sft_loss, degradation_nats of general_loss after SFT (positive is worse) and efficiency, NaN
    where unfinished. None until all tokens are counted.

    Raises:
        ValueError: a mix has no proximity; the message names it.
    """
    main = tables.manifest.comparison("main")
    pairs = mix_task_pairs(tables, main, "sft_loss", task="task")
    general = mix_task_pairs(tables, main, "general_loss", task="task")
    if pairs is None or general is None or tables.proximity is None or tables.similarity is None:
        return None
    known = tables.proximity.set_index(["mix", "weight", "task"])
    at = [tuple(row) for row in pairs[["mix", "weight", "task"]].itertuples(index=False)]
    to_task, direct = (1 - known.loc[at, f"{side}_combined"].to_numpy(dtype=float) for side in ("mix", "control"))
    of_mixes = {(mix.factors["mix"], mix.factors["weight"]): mix for mix in tables.manifest.mixes}
    distances = {key: _to_mix(tables.similarity, mix) for key, mix in of_mixes.items()}
    to_mix = pd.Series([distances[mix, weight] for mix, weight, _ in at], dtype=float).to_numpy()
    both = pd.DataFrame({"to_mix": to_mix, "to_task": to_task})
    matches = [(mix, task) for mix, _, task in at]
    labels = pairs.columns[: list(pairs.columns).index("pair") + 1]
    table = pairs[[*labels, "relative_improvement"]].assign(
        **both,
        direct=direct,
        bridge_total=both.sum(axis=1),
        bridge_max=both.max(axis=1),
        bridge_min=both.min(axis=1),
        path_shortening=(direct - both.sum(axis=1)) / direct,
        perfect_match=[int(MATCHED.get(mix) == task) for mix, task in matches],
        partial_match=[int(pair in PARTLY_MATCHED) for pair in matches],
        degradation_nats=-general["difference"].astype(float),
    )
    return table.assign(efficiency=table["relative_improvement"] / (table["degradation_nats"].abs() + 0.001))


def _to_mix(similarity: pd.DataFrame, mix: MixEntry) -> float:
    """Return the distance of a mix to its reference; a mix of a single corpus is that corpus."""
    name, kind = (mix.name, "mixture") if len(mix.shares) > 1 else (next(iter(mix.shares)), "corpus")
    is_pair = (similarity["left"] == mix.reference) & (similarity["right"] == name) & (similarity["right_kind"] == kind)
    found = similarity.loc[is_pair & (similarity["left_kind"] == "corpus"), "combined"]
    if len(found) != 1:
        raise ValueError(f"{mix.name}: expected one similarity to {mix.reference}, got {len(found)}")
    return 1 - float(found.iloc[0])
