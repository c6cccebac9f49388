"""The tidy tables of a study, read from the store: arms, similarities, proximity advantages, and what it all cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.numpy import load_file

from midstudy.analysis.arms import ARM_COLUMNS
from midstudy.files.atomic import write_json
from midstudy.plan.left_out import left_out_in
from midstudy.similarity.halves import SplitSample, similarity_matrix
from midstudy.similarity.proximity import Mix, proximity_rows
from midstudy.store.store import Store

_LOSSES = {  # column of the table: the evaluation behind it
    "sft_loss": "task_evaluation",
    "general_loss": "general_evaluation",
    "sft_loss_before": "task_evaluation_before",
    "general_loss_before": "general_evaluation_before",
}


def arms_table(store: Store, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """One row an arm, with the columns of `ARM_COLUMNS`; a loss whose stage is not finished is NaN."""
    wanted = {arm[stage] for arm in manifest["arms"] for stage in _LOSSES.values()}
    losses = {one: record.metrics["loss_nats"] for one, record in store.records(wanted).items()}
    rows = []
    for arm in manifest["arms"]:
        row = {"study": manifest["name"], "sft_state": arm["final_state"], **arm}
        row |= {column: losses.get(arm[stage], math.nan) for column, stage in _LOSSES.items()}
        rows.append({column: row[column] for column in ARM_COLUMNS})
    return pd.DataFrame(rows)


def similarity_tables(store: Store, manifest: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Similarity of every pair of corpora, tasks and mixtures (long), and proximity advantage of every (mix, weight, task).

    Empty tables where a count is not finished yet.
    """
    records = store.records([one["stage"] for one in manifest["counts"]])
    if len(records) < len(manifest["counts"]):
        return pd.DataFrame(columns=["left", "right"]), pd.DataFrame(columns=["mix", "weight", "task"])
    samples: dict[str, dict[str, SplitSample]] = {"corpus": {}, "task": {}}
    for one in manifest["counts"]:
        counts = load_file(store.published_folder(one["stage"]) / "counts.safetensors")["counts"]
        samples[one["kind"]][one["data"]] = SplitSample.from_counts(counts)
    corpora, tasks = samples["corpus"], samples["task"]
    mixes, general = _mixes(manifest), manifest["general"]
    mixtures = {
        f"{one.name} {100 * one.weight:g} %": one.of(corpora, general=general)
        for one in mixes
        if one.weight < 1 or len(one.specialists) > 1
    }
    kinds = {**dict.fromkeys(corpora, "corpus"), **dict.fromkeys(mixtures, "mixture"), **dict.fromkeys(tasks, "task")}
    matrix = similarity_matrix({**corpora, **mixtures, **tasks})
    long = pd.DataFrame(
        {
            "left": left,
            "left_kind": kinds[left],
            "right": right,
            "right_kind": kinds[right],
            "cosine": value.cosine,
            "jaccard": value.jaccard,
            "jsd_nats": value.jsd_nats,
            "combined": value.combined,
        }
        for (left, right), value in matrix.items()
    )
    proximity = proximity_rows(general=general, corpora=corpora, tasks=tasks, mixes=mixes)
    return long, pd.DataFrame(proximity)


def _mixes(manifest: Mapping[str, Any]) -> list[Mix]:
    """The mixes that the arms train on; those of one name and weight are one, though their arms start at other steps."""
    return list(
        {
            (arm["mix"], arm["weight"]): Mix(name=arm["mix"], weight=arm["weight"], specialists=arm["specialists"])
            for arm in manifest["arms"]
            if arm["specialists"]
        }.values()
    )


def cost_summary(store: Store, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the study's finished stages took, beside what the plan said they need.

    Seconds are sums over stages. Everything is read from records, so the numbers are the same however often a finished
    study is run again. `recomputed_steps` were run again after faults, and are no useful ones.
    """
    records = store.records(manifest["stages"])
    return {
        "num_stages": len(manifest["stages"]),
        "num_finished": len(records),
        "failed": [
            {"id": one, "label": stage["label"], "cause": failure["cause"]}
            for one, stage in manifest["stages"].items()
            if one not in records and (failure := store.failure(one))
        ],
        "cpu_s": sum(record.timing["cpu_s"] for record in records.values()),
        "stage_wall_s": sum(record.timing["wall_s"] for record in records.values()),
        "num_tokens": sum(record.metrics.get("num_tokens", 0) for record in records.values()),
        "useful_steps": sum(record.metrics.get("num_steps", 0) for record in records.values()),
        "recomputed_steps": sum(record.metrics.get("recomputed_steps", 0) for record in records.values()),
        "lower_bound_steps": manifest["steps"]["lower_bound"],
        "unshared_steps": manifest["steps"]["without_sharing"],
    }


def reproduction(store: Store, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What one needs to make the study again: the command, and the code and libraries its records were made with."""
    environments = [record.environment for record in store.records(manifest["stages"]).values()]

    def seen(field: str) -> list[Any]:
        return sorted({str(one[field]) for one in environments if one.get(field) is not None})

    return {
        "command": manifest["command"],
        "git_commit": ", ".join(seen("git_commit")) or None,
        "git_dirty": any(one.get("git_dirty") for one in environments),
        "versions": {field: ", ".join(seen(field)) for field in ("midstudy", "python", "torch", "platform", "cpu")},
        "sources": manifest["sources"],
    }


def write_tables(store: Store, manifest: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """Write a report's inputs into the study's folder: arms (Parquet and CSV), similarity and proximity (Parquet),
    cost, reproduction and what the data left out (JSON); returns the arms.
    """
    arms = arms_table(store, manifest)
    arms.to_parquet(folder / "arms.parquet", index=False)
    arms.to_csv(folder / "arms.csv", index=False)
    long, proximity = similarity_tables(store, manifest)
    long.to_parquet(folder / "similarity.parquet", index=False)
    proximity.to_parquet(folder / "proximity.parquet", index=False)
    write_json(folder / "cost.json", cost_summary(store, manifest))
    write_json(folder / "reproduce.json", reproduction(store, manifest))
    write_json(folder / "left_out.json", left_out_in(store, manifest).as_json())
    return arms
