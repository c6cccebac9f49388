"""How arms are named in a report: by the factors in which they differ from their neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from midstudy.recipe.manifest import ComparisonEntry, Manifest


def spoken(name: object) -> str:
    """A name as it reads in a sentence or a figure: 'best_fit' → 'best fit'."""
    return str(name).replace("_", " ")


def written(name: str, value: object) -> str:
    """A factor with its value: text speaks for itself, numbers need their name. 'best fit', 'width 64'."""
    if isinstance(value, str):
        return spoken(value)
    return f"{spoken(name)} {value:g}" if isinstance(value, float) else f"{spoken(name)} {value}"


def cell_factors(manifest: Manifest) -> list[str]:
    """The factors that tell arms apart, seeds left out."""
    return [name for name in manifest.factor_names if name not in manifest.seeds]


def differing(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Of these factors, those in which the rows differ."""
    return [name for name in names if rows[name].nunique(dropna=False) > 1]


def label(row: Mapping[str, Any] | pd.Series, names: Sequence[str]) -> str:
    """The values of these factors, such as 'best fit, width 64'; 'all' where nothing tells the arms apart."""
    return ", ".join(written(name, row[name]) for name in names) or "all"


def names_of_arms(arms: pd.DataFrame, manifest: Manifest, comparison: ComparisonEntry) -> list[str]:
    """The factors by which the arms of a comparison are called inside one of its panels.

    Text comes first, so that a name begins with what it is about. Numbers that follow from the text are left
    out.
    """
    rows = arms.iloc[list(comparison.arms)]
    panels = set(comparison.match)
    free = [one for one in differing(rows, cell_factors(manifest)) if one not in panels and one != comparison.along]
    if not free and comparison.along is None:  # a single arm is called by what its reference has not
        rows = arms.iloc[[*comparison.arms, *comparison.references]]
        free = [one for one in differing(rows, cell_factors(manifest)) if one not in panels]
    free.sort(key=lambda name: not isinstance(rows[name].iloc[0], str))
    chosen: list[str] = []
    for name in free:
        if not chosen or rows.groupby(chosen, dropna=False)[name].nunique().max() > 1:
            chosen.append(name)
    return chosen


def panels_of(arms: pd.DataFrame, comparison: ComparisonEntry) -> list[tuple[str, dict[str, Any]]]:
    """The panels of a comparison: for each combination of what arms and references agree in, its title and its factors.

    The factor along the axis makes no panels, also where each of its values has a reference of its own.
    """
    rows = arms.iloc[list(comparison.arms)]
    names = [name for name in comparison.match if name != comparison.along]
    if not names:
        return [("", {})]
    shown = differing(rows, names)
    found = rows[names].drop_duplicates()
    return [(label(row, shown) if shown else "", row.to_dict()) for _, row in found.iterrows()]


def in_panel(table: pd.DataFrame, panel: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of a table that belong to a panel."""
    for name, value in panel.items():
        table = table[table[name] == value]
    return table
