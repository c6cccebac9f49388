"""Results of the single items of an evaluation, as a Parquet file beside the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ITEMS_FILE = "items.parquet"


def write_items(folder: Path, items: NDArray[np.int64], columns: Mapping[str, NDArray]) -> None:
    """Write one row per item, sorted by its number in the split, into `folder`.

    Args:
        items: numbers of the items, int64 (num_items,).
        columns: results by name, each (num_items,) in the same order.
    """
    import pyarrow
    from pyarrow import parquet

    order = np.argsort(items, kind="stable")
    table = pyarrow.table({name: column[order] for name, column in {"item": items, **columns}.items()})
    parquet.write_table(table, folder / ITEMS_FILE)
