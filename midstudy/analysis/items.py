"""The table of results per item: the sums of every item of the evaluations that keep them (`Evaluation.items`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from midstudy.evaluate.items import ITEMS_FILE
from midstudy.recipe.manifest import Manifest
from midstudy.store.store import Store

if TYPE_CHECKING:
    import pyarrow


def items_table(store: Store, manifest: Manifest) -> pd.DataFrame | None:
    """Return one row per arm, measured column, step and item: arm (its row), the factors, column, step, item, and sums.

    The sums are those of `evaluate.loss.SequenceSums`: nats and target_tokens of the item and, if the evaluation reports
    bits per byte, text_nats and bytes. Of answers and choices: right, and well_formed, pass_at_k and subject where they are
    known, missing elsewhere. None if no finished evaluation keeps results per item; a column whose evaluations do
    not keep them has no rows.
    """
    measured = {one for arm in manifest.arms for ids in arm.measures.values() for one in ids}
    keeping = [one for one, record in store.records(measured).items() if ITEMS_FILE in record.files]
    if not keeping:
        return None
    import pyarrow
    from pyarrow import parquet

    read = {one: parquet.read_table(store.published_folder(one) / ITEMS_FILE) for one in keeping}
    parts = []
    for row, arm in enumerate(manifest.arms):
        for column, ids in arm.measures.items():
            for one in ids:
                if one in read:
                    labels = {"arm": row, **arm.factors, "column": column, "step": manifest.stages[one].step}
                    parts.append(_labelled(read[one], labels))
    return pyarrow.concat_tables(parts, promote_options="default").to_pandas()


def columns_without_items(items: pd.DataFrame | None, columns: Sequence[str]) -> list[str]:
    """Return those of the measured columns of which the table has no item."""
    kept = set() if items is None else set(items["column"].unique())
    return [column for column in columns if column not in kept]


def _labelled(items: pyarrow.Table, labels: Mapping[str, object]) -> pyarrow.Table:
    """Return the items with a constant column before them for each label."""
    import pyarrow

    constants = {name: pyarrow.repeat(pyarrow.scalar(value), items.num_rows) for name, value in labels.items()}
    return pyarrow.table({**constants, **{name: items[name] for name in items.column_names}})
