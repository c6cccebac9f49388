"""The arms of a bridging study that differ in seeds alone, each group beside the control fine-tuned in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from midstudy.analysis.effects import cell_factors
from midstudy.analysis.pairs import pair_by_seed
from midstudy.analysis.tables import Tables
from midstudy.studies.bridging.scale import CONTROL

OF_MIX = ("mix", "weight", "start_step")
"""The factors in which an arm differs from its control; the others are equal."""


@dataclass(frozen=True, eq=False)
class WithControl:
    """Arms that differ in seeds alone, and the controls with their other factors; both are rows of the table of arms."""

    factors: dict[str, object]
    arms: pd.DataFrame
    controls: pd.DataFrame
    seeds: tuple[str, ...]

    def paired(self, column: str) -> pd.DataFrame:
        """Return `pair_by_seed` of a column of losses: a positive difference means that the arm is lower."""
        return pair_by_seed(self.arms, self.controls, column=column, seeds=self.seeds, better="lower")


def with_controls(tables: Tables, arms: pd.DataFrame) -> Iterator[WithControl]:
    """Group rows of the table of arms by their factors except seeds; the groups are in order of appearance.

    The controls are empty for an arm without one. A control is its own control.
    """
    names = cell_factors(tables)
    shared = [name for name in names if name not in OF_MIX]
    controls = dict(iter(arms[arms["mix"] == CONTROL].groupby(shared, sort=False)))
    for _, rows in arms.groupby(names, sort=False):
        factors = {name: rows[name].iloc[0] for name in names}
        matching = controls.get(tuple(factors[name] for name in shared), rows.iloc[:0])
        yield WithControl(factors, rows, matching, tables.manifest.seeds)
