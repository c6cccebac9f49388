"""The data sets of a study as its finished data stages describe them: sizes, bytes a token, samples, overlap with tests."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from midstudy.data.token_bytes import token_bytes
from midstudy.data.tokenizer import FILE_NAME, load_tokenizer
from midstudy.data.tokens import read_split
from midstudy.files.errors import StoreError
from midstudy.recipe.data import SPLITS
from midstudy.recipe.manifest import Manifest
from midstudy.store.store import Store

BYTES_SAMPLE_TOKENS = 20_000_000
"""Tokens of a train split, from its beginning, over which bytes a token are averaged."""


def data_table(store: Store, manifest: Manifest) -> pd.DataFrame:
    """Return one row per data set, in the order of the manifest's sources.

    Columns: data, is_task, source; SPLIT_documents (items of a task) and SPLIT_tokens for train, dev and test;
    bytes_per_token (of text in train); overlap (documents removed because they share text with a test item);
    sampled_documents and sampled_tokens (counted for similarities). NaN while a stage is unfinished and, for the overlap,
    if the source is not searched for any.
    """
    stages = {kind: _first(manifest, kind) for kind in ("tokens", "counts")}
    records = store.records([one for found in stages.values() for one in found.values()])
    tasks = {name for arm in manifest.arms for name in arm.items} | {one.data for one in manifest.counts if one.is_task}
    rows = []
    for name, source in manifest.sources.items():
        made, counted = (records.get(stages[kind].get(name, "")) for kind in ("tokens", "counts"))
        sizes = made.metrics if made else {}
        row: dict[str, Any] = {"data": name, "is_task": name in tasks, "source": source}
        row |= {
            f"{split}_{unit}": sizes.get(f"{split}_{unit}", math.nan) for split in SPLITS for unit in ("documents", "tokens")
        }
        row["bytes_per_token"] = _bytes_per_token(store, manifest, stages["tokens"][name]) if made else math.nan
        prepared = sizes.get("left_out", {}).get("all")
        row["overlap"] = math.nan if prepared is None else prepared.get("overlap", 0)
        for unit in ("documents", "tokens"):
            row[f"sampled_{unit}"] = counted.metrics.get(f"sampled_{unit}", math.nan) if counted else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _first(manifest: Manifest, kind: str) -> dict[str, str]:
    """Return the first stage of a kind for each data set."""
    found: dict[str, str] = {}
    for identity, stage in manifest.stages.items():
        if stage.kind == kind:
            found.setdefault(stage.data, identity)
    return found


def _bytes_per_token(store: Store, manifest: Manifest, stage: str) -> float:
    """Return the mean bytes of the tokens of a train split, end-of-text tokens among them; NaN if they cannot be read."""
    with contextlib.suppress(StoreError, ValueError, OSError, StopIteration):
        tokenizer = next(one for one in manifest.stages[stage].parents if manifest.stages[one].kind == "tokenizer")
        folder = store.published_folder(tokenizer)
        if (folder / FILE_NAME).is_file():  # the library raises a bare Exception
            return _mean_bytes(store.published_folder(stage), folder)
    return math.nan


def _mean_bytes(tokens_folder: Path, tokenizer_folder: Path) -> float:
    sizes = token_bytes(load_tokenizer(tokenizer_folder))
    tokens = read_split(tokens_folder, "train").tokens[:BYTES_SAMPLE_TOKENS]
    times = np.bincount(tokens, minlength=len(sizes))
    return float(times @ sizes[: len(times)]) / len(tokens) if len(tokens) else math.nan
