"""The table of training: the loss of every logged step of a study's runs, and losses on corpora where they were measured."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from midstudy.recipe.manifest import Manifest, StageEntry
from midstudy.store.attempt import METRICS_FILE, read_metrics
from midstudy.store.store import Store

BATCHES = "batches"
"""The `split` of losses of training batches, before the update of their step."""


def training_table(store: Store, manifest: Manifest) -> pd.DataFrame | None:
    """Return one row per finished training stage and logged step, and one per evaluation of its state on a corpus.

    Columns: stage (that trained the state), role, model, the factors of the study (missing where they are not fixed yet, as
    the task of a trunk), data and split (those of the evaluation; empty and `BATCHES` for training), step (of the whole
    run), tokens (target tokens trained on since step 0), lr, loss_nats (nats per target token, weighted as in training).
    `None` if no stage that logs is finished. Tokens and learning rate of evaluations are NaN.

    Raises:
        StoreError: a log is damaged.
    """
    records = store.records(manifest.stages)
    tasks = {name for arm in manifest.arms for name in arm.items}
    rows: list[dict[str, Any]] = []
    for identity, stage in manifest.stages.items():
        record = records.get(identity)
        if record is None:
            continue
        if stage.kind == "state" and METRICS_FILE in record.files:
            labels = {**_labels(manifest, identity, stage), "data": "", "split": BATCHES}
            logged = {int(line["step"]): line for line in read_metrics(store.published_folder(identity) / METRICS_FILE)}
            rows += [
                {**labels, "step": step, "tokens": line["tokens_seen"], "lr": line["lr"], "loss_nats": line["loss_nats"]}
                for step, line in sorted(logged.items())
            ]
        elif stage.kind == "evaluation" and stage.data not in tasks and "loss_nats" in record.metrics:
            of_state = next((one for one in stage.parents if manifest.stages[one].kind == "state"), None)
            if of_state is not None:
                labels = {**_labels(manifest, of_state, manifest.stages[of_state]), "data": stage.data, "split": stage.split}
                measured = float(record.metrics["loss_nats"])
                rows.append({**labels, "step": stage.step, "tokens": math.nan, "lr": math.nan, "loss_nats": measured})
    columns = ["stage", "role", "model", *manifest.factor_names, "data", "split", "step", "tokens", "lr", "loss_nats"]
    return pd.DataFrame(rows, columns=columns) if rows else None


def _labels(manifest: Manifest, identity: str, stage: StageEntry) -> dict[str, Any]:
    factors = {name: stage.factors.get(name) for name in manifest.factor_names}
    return {"stage": identity, "role": stage.role, "model": stage.model, **factors}
