"""Paired effects of arms against their references, for any comparison of a study.

Arms are paired with the reference of the same `match` factors and seeds; a missing reference is never replaced by another
(the scripts of arXiv 2510.14865 fall back to the 70m code baseline).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from midstudy.analysis.pairs import SEED_COLUMNS, SUMMARY_COLUMNS, comparison_table, pair_by_seed, seed_values, summarise
from midstudy.analysis.variance import moderated_intervals
from midstudy.recipe.factors import Value
from midstudy.recipe.manifest import ComparisonEntry

if TYPE_CHECKING:
    from midstudy.analysis.tables import Tables

AMOUNTS = ("num_steps", "num_tokens", "tokens:", "dose:")
"""Columns of the table of arms, or their prefixes, whose means are shown beside the effects."""

MODERATED_COLUMNS = ("moderated_ci_low", "moderated_ci_high")


@dataclass(frozen=True, eq=False)
class Effects:
    """Paired effects of the arms of a comparison.

    `table`: one row per cell with at least one finished pair: the factors except seeds, num_seeds, num_inner_seeds,
    reference, value, difference (in the column's unit, positive is better) with standard_error, ci_low and ci_high, and
    moderated_ci_low and moderated_ci_high, whose variance is pooled with those of the table's other cells
    (`variance.moderated_intervals`); relative_improvement with relative_standard_error, relative_ci_low and
    relative_ci_high, p_value, note, p_holm and family_size (the family is this table), and the means over seeds of the
    columns `AMOUNTS`. `by_seed`: the same per seed. `missing`: rows of the table of arms that could not be used: the
    factors, column, reason.
    """

    table: pd.DataFrame
    by_seed: pd.DataFrame
    missing: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Cell:
    """Arms that differ in their seeds alone, and the reference of each."""

    factors: Mapping[str, Value]
    table: pd.DataFrame
    arm_rows: tuple[int, ...]
    reference_rows: tuple[int, ...]

    @cached_property
    def arms(self) -> pd.DataFrame:
        return self.table.iloc[list(self.arm_rows)]

    @cached_property
    def references(self) -> pd.DataFrame:
        return self.table.iloc[list(self.reference_rows)]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.factors.items())


def cells(tables: Tables, comparison: ComparisonEntry) -> Iterator[Cell]:
    """The cells of a comparison in the order of its arms."""
    # Plain dictionaries: grouping the table by its factors takes pandas a hundred times as long.
    names, arms = cell_factors(tables), tables.manifest.arms
    members: dict[tuple[Value, ...], list[int]] = {}
    for row in comparison.arms:
        members.setdefault(tuple(arms[row].factors[name] for name in names), []).append(row)
    references: dict[tuple[Value, ...], list[int]] = {}
    for row in comparison.references:
        references.setdefault(tuple(arms[row].factors[name] for name in comparison.match), []).append(row)
    for values, rows in members.items():
        factors = dict(zip(names, values, strict=True))
        matching = references.get(tuple(factors[name] for name in comparison.match), [])
        yield Cell(factors, tables.arms, tuple(rows), tuple(matching))


def cell_factors(tables: Tables) -> list[str]:
    """Return the factors except the seeds: those that tell cells apart."""
    return [name for name in tables.manifest.factor_names if name not in tables.manifest.seeds]


def paired(tables: Tables, rows: pd.DataFrame, references: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return `pair_by_seed` with the study's seeds and the column's better direction."""
    better = tables.manifest.columns[column].better
    return pair_by_seed(rows, references, column=column, seeds=tables.manifest.seeds, better=better)


def effects(tables: Tables, comparison: ComparisonEntry, column: str) -> Effects:
    """Compare every cell of a comparison with its reference over common seeds.

    Rows are in the order of the arms or, if `comparison.along` is set, sorted by it within the other factors. Arms whose
    reference is not finished are listed in `missing`.

    Raises:
        ValueError: a finished arm has no reference with the same match factors and seeds; the message names the arm.
    """
    names = cell_factors(tables)
    amounts = [name for name in tables.arms.columns if name.startswith(AMOUNTS)]
    unfinished = tables.arms.iloc[sorted(set(comparison.references))]
    missing = [_missing(tables, unfinished[unfinished[column].isna()], column, "not finished")]
    records: list[dict[str, object]] = []
    seed_tables = []
    for cell in _ordered(cells(tables, comparison), comparison.along):
        missing += _unpaired(tables, cell, column)
        by_seed = paired(tables, cell.arms, cell.references, column)
        if by_seed.empty:
            continue
        means = {name: float(cell.arms[name].mean()) for name in amounts}
        records.append({**cell.factors, **summarise(by_seed), **means})
        seed_tables.append(by_seed.assign(**cell.factors))
    seed_columns = [*names, *tables.manifest.seeds[:1], *SEED_COLUMNS]
    table = _with_moderated(comparison_table(records, columns=[*names, *SUMMARY_COLUMNS, *amounts]))
    by_seed = pd.concat(seed_tables, ignore_index=True) if seed_tables else pd.DataFrame(columns=seed_columns)
    return Effects(
        table=table[[*names, *SUMMARY_COLUMNS, *MODERATED_COLUMNS, "p_holm", "family_size", *amounts]],
        by_seed=by_seed[seed_columns],
        missing=pd.concat(missing, ignore_index=True).drop_duplicates(ignore_index=True),
    )


def _with_moderated(table: pd.DataFrame) -> pd.DataFrame:
    means, errors = (table[name].to_numpy(dtype=np.float64) for name in ("difference", "standard_error"))
    nums = table["num_seeds"].to_numpy(dtype=np.int64)
    intervals = moderated_intervals(means, nums * errors**2, nums)
    return table.assign(**dict(zip(MODERATED_COLUMNS, intervals.T, strict=True)))


def _ordered(found: Iterator[Cell], along: str | None) -> list[Cell]:
    """Return cells sorted by one factor; groups that differ in other factors keep their order."""
    if along is None:
        return list(found)
    rank: dict[tuple[Value, ...], int] = {}
    keyed = []
    for cell in found:
        rest = tuple(value for name, value in cell.factors.items() if name != along)
        value = cell.factors[along]
        keyed.append(((rank.setdefault(rest, len(rank)), isinstance(value, str), value), cell))
    return [cell for _, cell in sorted(keyed, key=lambda pair: pair[0])]


def _unpaired(tables: Tables, cell: Cell, column: str) -> list[pd.DataFrame]:
    """Return the arms that cannot be paired yet; raise if a finished arm has no reference at all."""
    finished = cell.arms[column].notna().to_numpy()
    seeds = tables.manifest.seeds
    reference = dict(zip(seed_values(cell.references, seeds), cell.references[column].notna(), strict=True))
    runs = list(seed_values(cell.arms, seeds))
    if finished.all() and all(reference.get(run, False) for run in runs):
        return []
    orphans = cell.arms[finished & np.array([run not in reference for run in runs], dtype=bool)]
    if len(orphans):
        first = orphans.iloc[0]
        run = ", ".join(f"{name} {first[name]}" for name in tables.manifest.factor_names)
        raise ValueError(
            f"{run}: expected a reference with the same factors and seeds, got none, so its effect on {column} is "
            "unknown; add the reference to the study for these seeds, or take the arm out of the comparison"
        )
    waiting = finished & np.array([not reference.get(run, False) for run in runs], dtype=bool)
    return [
        _missing(tables, cell.arms[~finished], column, "not finished"),
        _missing(tables, cell.arms[waiting], column, "its reference is not finished"),
    ]


def _missing(tables: Tables, rows: pd.DataFrame, column: str, reason: str) -> pd.DataFrame:
    return rows[list(tables.manifest.factor_names)].assign(column=column, reason=reason)
