"""Write an evaluation's results per item, as a Parquet file next to the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ITEMS_FILE = "items.parquet"


def write_items(folder: Path, items: NDArray[np.int64], columns: Mapping[str, NDArray]) -> None:
    """Write one row per item, sorted by item index, into `folder`.

    Args:
        items: indices of the items in the split, int64 of shape (num_items,).
        columns: results by name, each of shape (num_items,) in the same order.
    """
    import pyarrow
    from pyarrow import parquet

    order = np.argsort(items, kind="stable")
    table = pyarrow.table({name: column[order] for name, column in {"item": items, **columns}.items()})
    parquet.write_table(table, folder / ITEMS_FILE)
