"""Lineage of a stage for MLflow: the data it read, its parent state, and the code and machine that made it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.recipe.manifest import Manifest, StageEntry
from midstudy.store.record import Record
from midstudy.store.store import Store


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """One split of a data set that a stage read: token files in `folder`, made from `source`.

    `digest` covers the split's files; `num_tokens` and `num_documents` are their totals.
    """

    name: str
    split: str
    digest: str
    folder: Path
    source: str
    num_tokens: int
    num_documents: int

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "folder": str(self.folder)}


def data_facts(store: Store, manifest: Manifest, records: Mapping[str, Record], stage: StageEntry) -> tuple[DataFacts, ...]:
    """Return the token files among the stage's parents: the split that it is evaluated on, else the train split."""
    split = stage.split or "train"
    splits = []
    for parent in stage.parents:
        record = records.get(parent)
        if record is None or record.kind != "tokens":
            continue
        name = manifest.stages[parent].data
        splits.append(
            DataFacts(
                name=name,
                split=split,
                digest=_split_digest(record, split),
                folder=store.published_folder(parent),
                source=manifest.sources[name],
                num_tokens=record.metrics.get(f"{split}_tokens", 0),
                num_documents=record.metrics.get(f"{split}_documents", 0),
            )
        )
    return tuple(splits)


def state_behind(manifest: Manifest, stage: StageEntry) -> str | None:
    """Return the state that a stage continues or evaluates; None if it starts from drawn weights or handles data."""
    if stage.start_from is not None:
        return stage.start_from
    return next((id for id in stage.parents if id in manifest.stages and manifest.stages[id].kind == "state"), None)


def environment_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return tags for the machine, libraries, placement and commit, and whether the source tree had uncommitted changes."""
    plain = {name: value for name, value in environment.items() if name != "placement" and value is not None}
    tags = {f"environment.{name}": str(value) for name, value in plain.items()}
    tags |= {f"placement.{name}": str(value) for name, value in (environment.get("placement") or {}).items()}
    if commit := environment.get("git_commit"):
        tags["mlflow.source.git.commit"] = commit
    return tags


def _split_digest(record: Record, split: str) -> str:
    """Digest of one split's files, computed from their digests in the record."""
    digest = hashlib.sha256()
    for name in sorted(record.files):
        if name.startswith((f"{split}-", f"{split}.")):
            digest.update(f"{name} {record.files[name]['sha256']}\n".encode())
    return digest.hexdigest()[:16]
