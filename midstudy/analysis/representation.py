"""How similar the compared states of each cell are, with intervals over seeds."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.effects import cell_factors
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.tables import Tables, representation_columns


def representation_means(tables: Tables) -> pd.DataFrame:
    """Return the mean of every column that compares states, by cell (arms that differ only in seeds).

    Columns: column, the factors except seeds, num_seeds, mean, ci_low and ci_high (95 % t-interval over the first seed;
    the others are averaged within it), note. Cells without a finished comparison have no row.
    """
    factors, seed = cell_factors(tables), next(iter(tables.manifest.seeds), None)
    records = []
    for column in representation_columns(tables.manifest):
        measured = tables.arms.dropna(subset=[column])
        for _, rows in measured.groupby(factors, sort=False) if factors else [((), measured)]:
            if rows.empty:
                continue
            values = rows[column] if seed is None else rows.groupby(seed)[column].mean()
            mean = mean_interval(values)
            labels = {name: rows[name].iloc[0] for name in factors}
            found = {"num_seeds": mean.n, "mean": mean.mean, "ci_low": mean.low, "ci_high": mean.high, "note": mean.note}
            records.append({"column": column} | labels | found)
    return pd.DataFrame(records, columns=["column", *factors, "num_seeds", "mean", "ci_low", "ci_high", "note"])
