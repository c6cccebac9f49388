"""A study's folder as the report reads it, with realistic synthetic numbers, for the tests of the report."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from builders.analysis_tables import bridging_tables, similarity_table, tables_of
from midstudy.analysis.answer import answer
from midstudy.analysis.tables import OPTIONAL, Tables
from midstudy.data.tally import Tally
from midstudy.plan.left_out import LeftOut
from midstudy.recipe.manifest import ColumnEntry, CountsEntry
from midstudy.store.store import Store
from midstudy.store.study_manifest import freeze

COST: dict[str, Any] = {
    "num_stages": 320,
    "num_finished": 320,
    "failed": [],
    "cpu_s": 390.0,
    "stage_wall_s": 420.0,
    "num_tokens": 5_500_000,
    "useful_steps": 5_397,
    "recomputed_steps": 0,
    "lower_bound_steps": 5_397,
    "unshared_steps": 16_560,
}
REPRODUCTION: dict[str, Any] = {
    "command": "midstudy run experiments/bridging_micro.py",
    "git_commit": "0123abcd",
    "git_dirty": False,
    "versions": {"midstudy": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "platform": "Linux", "cpu": "a CPU"},
    "sources": {"general": "wheels:general", "code": "wheels:code"},
    "decisions": [],
}


NO_STAGES: dict[str, Any] = {"num_stages": 0, "num_finished": 0, "lower_bound_steps": 0, "unshared_steps": 0}
"""The cost of a study without arms."""


def loader_study(*, seeds: tuple[str, ...] = ("seed",), unfinished: bool = False) -> Tables:
    """Return a study with factors unlike the bridging study's, a column where higher is better, and a curve."""
    numbers = (1, 2, 3) if seeds else (1,)
    rows = [
        {"loader": loader, **({"seed": seed} if seeds else {}), "accuracy": 0.5 + 0.1 * (loader == "best fit") + 0.01 * seed}
        for loader in ("plain", "best fit")
        for seed in numbers
    ]
    if unfinished:
        rows[-1]["accuracy"] = math.nan
    factors = ("loader", *seeds)
    points = [
        {"arm": row, **{name: arm[name] for name in factors}, "column": "path", "step": step, "value": 4.0 - step / 100}
        for row, arm in enumerate(rows)
        for step in (10, 20, 30)
    ]
    loaders = {
        "name": "loaders",
        "title": "Which loader is better",
        "arms": {"loader": "best fit"},
        "references": {"loader": "plain"},
        "columns": ("accuracy",),
    }
    tables = tables_of(rows, [loaders], columns={"accuracy": "higher"}, seeds=seeds, curves=points)
    path = ColumnEntry(metric="loss_nats", better="lower", is_curve=True, data="web", split="test")
    return replace(tables, manifest=replace(tables.manifest, columns={**tables.manifest.columns, "path": path}))


def compared_study(*, seeds: tuple[str, ...] = ("seed",)) -> Tables:
    """Return a study that compares states of two layers and an embedding, with known similarities.

    CKA of layers (a, b) is 0.9 − 0.1 |a − b| for the loader `plain`, 0.05 more for `best fit`, and 0.01 · seed more; on
    the diagonal of the embedding it is 1.
    """
    tables = loader_study(seeds=seeds)
    column, parts = "tuned_last_layer_cka", []
    layers = pd.DataFrame([(a, b) for a in range(3) for b in range(3)], columns=["layer_a", "layer_b"])
    arms = tables.arms.assign(**{column: math.nan})
    for row, arm in enumerate(tables.manifest.arms):
        level = 0.9 + 0.05 * (arm.factors["loader"] == "best fit") + 0.01 * float(arm.factors.get("seed", 1))
        cka = level - 0.1 * (layers["layer_a"] - layers["layer_b"]).abs()
        cka = cka.where((layers["layer_a"] > 0) | (layers["layer_b"] > 0), 1.0)
        labels: dict[str, Any] = {"state": f"sft {row}", "other": f"pretrain {row}"}
        parts.append(layers.assign(arm=row, column=column, cka=cka, **arm.factors, **labels))
        arms.loc[row, column] = level
    entry = ColumnEntry(metric="last_layer_cka", better="higher", is_curve=False, data="answers", split="test")
    manifest = replace(tables.manifest, columns={**tables.manifest.columns, column: entry})
    return replace(tables, manifest=manifest, arms=arms, representation=pd.concat(parts, ignore_index=True))


def study_without_arms() -> Tables:
    """Return a study with counts and mixes only."""
    tables = bridging_tables()
    counts = tuple(CountsEntry(data=name, is_task=False, stage=f"counts{name}") for name in ("general", "code"))
    manifest = replace(tables.manifest, arms=(), comparisons=(), columns={}, claims=(), stages={}, counts=counts)
    return Tables(manifest, pd.DataFrame(), pd.DataFrame(), similarity_table(), tables.proximity)


def tally() -> Tally:
    """Return a tally of a task most of whose targets lie beyond the end of the sequence."""
    return Tally(
        data="pycode",
        split="train",
        use="training",
        unit="items",
        limit=128,
        used=2_000,
        left_out={},
        target_tokens=600_000,
        target_tokens_seen=150_000,
        num_cut=1_990,
    )


def write_study(root: Path, tables: Tables, *, left_out: LeftOut | None = None, **cost: Any) -> Path:
    """Freeze the study of these tables in a store at `root`, with the files of `write_tables`; return its folder."""
    store = Store.open(root, create=True)
    freeze(store, tables.manifest)
    folder = store.paths.study(tables.manifest.name)
    for name, table in (("arms", tables.arms), ("curves", tables.curves)):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    for name in OPTIONAL:
        if (known := getattr(tables, name)) is not None:
            known.to_parquet(folder / f"{name}.parquet", index=False)
    facts = {"cost": COST | cost, "reproduce": REPRODUCTION, "left_out": (left_out or LeftOut()).as_json()}
    for name, fields in facts.items():
        (folder / f"{name}.json").write_text(json.dumps(fields))
    (folder / "answer.txt").write_text(answer(tables) + "\n")
    return folder
