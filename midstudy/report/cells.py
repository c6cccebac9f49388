"""Names of arms in a report: the factors in which they differ from the other arms of their panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from midstudy.analysis.phrases import readable as readable
from midstudy.recipe.manifest import ComparisonEntry, Manifest


def factor_text(name: str, value: object) -> str:
    """Return a factor's value as text; numbers are preceded by the factor's name: 'best fit', 'width 64'."""
    if isinstance(value, str):
        return readable(value)
    return f"{readable(name)} {value:g}" if isinstance(value, float) else f"{readable(name)} {value}"


def cell_factors(manifest: Manifest) -> list[str]:
    """Return the factors except seeds."""
    return [name for name in manifest.factor_names if name not in manifest.seeds]


def differing(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return the factors among `names` in which the rows differ."""
    return [name for name in names if rows[name].nunique(dropna=False) > 1]


def label(row: Mapping[str, Any] | pd.Series, names: Sequence[str]) -> str:
    """Return the values of the factors `names`, such as 'best fit, width 64'; 'all' if there are no factors."""
    return ", ".join(factor_text(name, row[name]) for name in names) or "all"


def names_of_arms(arms: pd.DataFrame, manifest: Manifest, comparison: ComparisonEntry) -> list[str]:
    """Return the factors that name the arms of a comparison within one of its panels.

    Factors with text values come first. Factors that are determined by the ones before them are omitted.
    """
    rows = arms.iloc[list(comparison.arms)]
    panels = set(comparison.match)
    free = [name for name in differing(rows, cell_factors(manifest)) if name not in panels and name != comparison.along]
    if not free and comparison.along is None:  # a single arm is named by the factors in which its reference differs
        rows = arms.iloc[[*comparison.arms, *comparison.references]]
        free = [name for name in differing(rows, cell_factors(manifest)) if name not in panels]
    return distinguishing(rows, free)


def distinguishing(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return those of the factors `names` that tell the rows apart: text first, without factors that others determine."""
    chosen: list[str] = []
    for name in sorted(names, key=lambda name: not isinstance(rows[name].iloc[0], str)):
        if not chosen or rows.groupby(chosen, dropna=False)[name].nunique().max() > 1:
            chosen.append(name)
    return chosen


def panels_of(arms: pd.DataFrame, comparison: ComparisonEntry) -> list[tuple[str, dict[str, Any]]]:
    """Return the panels of a comparison, one per combination of its `match` factors: title and factor values.

    The factor along the axis never makes panels, even if each of its values has its own reference.
    """
    rows = arms.iloc[list(comparison.arms)]
    names = [name for name in comparison.match if name != comparison.along]
    if not names:
        return [("", {})]
    shown = differing(rows, names)
    combinations = rows[names].drop_duplicates()
    return [(label(row, shown) if shown else "", row.to_dict()) for _, row in combinations.iterrows()]


def in_panel(table: pd.DataFrame, panel: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a table that belong to a panel."""
    for name, value in panel.items():
        table = table[table[name] == value]
    return table
