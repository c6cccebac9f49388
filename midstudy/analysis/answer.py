"""The answer to a study's question in a few sentences: effects of the first comparison and their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from midstudy.analysis.effects import Cell, cell_factors, cells, effects
from midstudy.analysis.phrases import capitalised, improvement, name_of, readable, telling_factors, unit_of
from midstudy.recipe.factors import Value, selects
from midstudy.recipe.manifest import ComparisonEntry

if TYPE_CHECKING:
    from midstudy.analysis.tables import Tables


def answer(tables: Tables) -> str:
    """Name the best arm of the first comparison in its first column, the size of its effect, and its uncertainty.

    One sentence per combination of the comparison's `match` factors, then one about unfinished arms, if any. The best arm is
    selected by its result, so its p value is Holm-corrected over the comparison's effects, and arms that it is not
    significantly better than, or not compared with, are named. A single seed decides nothing, and the sentence says so.
    """
    if not tables.manifest.comparisons:
        return "This study has no comparison."
    comparison = tables.manifest.comparisons[0]
    column = comparison.columns[0]
    table = effects(tables, comparison, column).table
    groups: dict[tuple[Value, ...], list[Cell]] = {}
    for cell in cells(tables, comparison):
        groups.setdefault(tuple(cell.factors[name] for name in comparison.match), []).append(cell)
    shown = [name for name in comparison.match if len({key[comparison.match.index(name)] for key in groups}) > 1]
    sentences = []
    for key, members in groups.items():
        matched = dict(zip(comparison.match, key, strict=True))
        rows = table[[selects(matched, dict(row)) for _, row in table.iterrows()]]
        where = ", ".join(f"{readable(name)} {readable(matched[name])}" for name in shown)
        clause = _clause(tables, comparison, column, members, rows)
        sentences.append(capitalised(f"for {where}, {clause}." if where else f"{clause}."))
    used = sorted({*comparison.arms, *comparison.references})
    unfinished = int(tables.arms.iloc[used][column].isna().sum())
    if unfinished:
        sentences.append(f"{unfinished} of the {len(used)} arms that this is based on are not finished, so it may change.")
    return " ".join(sentences)


def _clause(tables: Tables, comparison: ComparisonEntry, column: str, members: Sequence[Cell], rows: pd.DataFrame) -> str:
    from midstudy.analysis.estimators import rivals  # reads `Tables`

    entry, title = tables.manifest.columns[column], tables.manifest.title_of(column)
    if rows.empty:
        return f"{title} has no result yet: no arm is finished together with its reference"
    unit = unit_of(entry)
    best = rows.loc[rows["difference"].idxmax()]
    control = members[0].references.iloc[0]
    names = telling_factors([control, *(cell.factors for cell in members)], cell_factors(tables))
    reference, arm, effect = name_of(control, names), name_of(best, names), improvement(best, unit)
    verb = "lowers" if entry.better == "lower" else "raises"
    if best["difference"] <= 0:
        return f"no arm {verb} {title} against {reference}; the nearest is {arm} at {effect}"
    lead = f"{arm} {verb} {title}" + (" most" if len(rows) > 1 else "") + f", by {effect} against {reference}"
    if int(best["num_seeds"]) < 2:
        return f"{lead}: a single seed decides nothing"
    if math.isnan(best["ci_low"]):
        return f"{lead}: {best['note']}"
    if best["ci_low"] <= 0:
        return (
            f"no arm differs significantly from {reference} in {title}: the largest improvement, by {arm}, is {effect}, "
            "and its interval includes zero"
        )
    (cell,) = (cell for cell in members if all(cell.factors[name] == best[name] for name in cell_factors(tables)))
    others = rivals(tables, comparison, cell, column).iloc[1:]  # the first is the reference
    return f"{lead}, Holm-corrected p = {best['p_holm']:.2g}{_against(others)}"


def _against(others: pd.DataFrame) -> str:
    if others.empty:
        return "; the comparison has no other arm"
    beaten, is_open = others["ci_low"] > 0, others["ci_low"].isna()
    if beaten.all():
        names = {1: "the only other arm", 2: "both other arms"}.get(len(others), f"all {len(others)} other arms")
        return f", and significantly better than {names} (paired 95 % intervals, uncorrected)"
    parts = []
    if (unlike := others.loc[~beaten & ~is_open, "rival"]).any():
        parts.append(f"not significantly better than {', '.join(unlike)}")
    if is_open.any():
        most = int(others.loc[is_open, "num_seeds"].max())
        parts.append(f"not compared with {', '.join(others.loc[is_open, 'rival'])} ({most} common seed)")
    return f"; {'; '.join(parts)}"
