"""Where a stage comes from, in MLflow's terms: the data it read, the state before it, the code and machine that made it."""

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
    """One split of a data set as a stage read it: the token files in `folder`, made from `source`.

    `digest` is that of the split's files; `num_tokens` and `num_documents` are its size.
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
    """The data that a stage reads: of its parents the token files, in the split it is evaluated on, else the train split."""
    split = stage.split or "train"
    found = []
    for parent in stage.parents:
        record = records.get(parent)
        if record is None or record.kind != "tokens":
            continue
        name = manifest.stages[parent].data
        found.append(
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
    return tuple(found)


def state_behind(manifest: Manifest, stage: StageEntry) -> str | None:
    """The state that a stage trains on from, or evaluates; None where it starts from drawn weights or is about data."""
    if stage.start_from is not None:
        return stage.start_from
    return next((one for one in stage.parents if one in manifest.stages and manifest.stages[one].kind == "state"), None)


def environment_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """Machine, libraries, placement, and the commit with whether its tree had been changed since."""
    plain = {name: value for name, value in environment.items() if name != "placement" and value is not None}
    tags = {f"environment.{name}": str(value) for name, value in plain.items()}
    tags |= {f"placement.{name}": str(value) for name, value in (environment.get("placement") or {}).items()}
    if commit := environment.get("git_commit"):
        tags["mlflow.source.git.commit"] = commit
    return tags


def _split_digest(record: Record, split: str) -> str:
    """Digest of the files of one split, from their digests in the record."""
    digest = hashlib.sha256()
    for name in sorted(record.files):
        if name.startswith((f"{split}-", f"{split}.")):
            digest.update(f"{name} {record.files[name]['sha256']}\n".encode())
    return digest.hexdigest()[:16]
