"""Study manifests: frozen by `run`, read by every command after it; former ones are kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from midstudy.files.atomic import write_json
from midstudy.files.errors import StoreError
from midstudy.files.reading import Kind, read_object, require_fields
from midstudy.store.paths import is_name
from midstudy.store.store import Store


def freeze(store: Store, manifest: dict[str, Any]) -> None:
    """Make `manifest` the study's, and keep it among the former ones under its digest."""
    name = manifest["name"]
    text = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    write_json(store.paths.study(name) / "history" / f"{digest}.json", manifest)
    write_json(store.paths.manifest(name), manifest)


def load(store: Store, name: str | None) -> dict[str, Any]:
    """The manifest of a study; of the only one where `name` is none.

    Raises:
        StoreError: there is no such study, or several to choose from.
    """
    studies = store.studies()
    if name is None:
        if len(studies) != 1:
            raise StoreError(f"{store.root}: {len(studies)} studies; name one of: {', '.join(studies) or '(none yet)'}.")
        name = studies[0]
    if name not in studies:
        raise StoreError(f"{store.root}: no study called {name!r}; there are: {', '.join(studies) or '(none yet)'}.")
    path = store.paths.manifest(name)
    remedy = f"Former manifests are in {path.parent / 'history'}; the newest one is a copy of what this one was."
    manifest = read_object(path, fields=_FIELDS, remedy=remedy)
    if manifest["name"] != name:
        raise StoreError(f"{path}: the manifest of study {manifest['name']!r}. {remedy}")
    _check_parts(path, manifest, remedy)
    return manifest


_NUMBER = (int, float)
_FIELDS = {
    **dict.fromkeys(("name", "question", "command", "general"), str),
    **dict.fromkeys(("notes", "arms", "counts"), list),
    **dict.fromkeys(("stages", "sources", "steps"), dict),
}
_STEPS = dict.fromkeys(("lower_bound", "without_sharing"), int)
_COUNT = dict.fromkeys(("data", "kind", "stage"), str)
_STAGE: dict[str, Kind] = {
    **dict.fromkeys(("kind", "label"), str),
    **dict.fromkeys(("num_steps", "num_tokens", "cost_s", "disk_bytes"), _NUMBER),
    **dict.fromkeys(("continues_trunk", "keeps_optimizer"), bool),
    **{"parents": list, "factors": dict, "start_from": (str, type(None))},
}
_ARM: dict[str, Kind] = {
    **dict.fromkeys(("size", "mix", "task", "groups", "start_state", "final_state"), str),
    **dict.fromkeys(("weight", "start_step", "start_fraction", "trunk_seed", "sft_seed"), _NUMBER),
    **dict.fromkeys(("pretrain_tokens", "specialist_tokens"), _NUMBER),
    "specialists": dict,
    **dict.fromkeys(("task_evaluation", "general_evaluation"), str),
    **dict.fromkeys(("task_evaluation_before", "general_evaluation_before"), str),
}


def _check_parts(path: Path, manifest: dict[str, Any], remedy: str) -> None:
    """Check the stages and arms: each with its fields, and naming stages that are there."""
    stages = manifest["stages"]
    require_fields(path, manifest["steps"], _STEPS, where="steps", remedy=remedy)
    for number, one in enumerate(manifest["counts"]):
        require_fields(path, one, _COUNT, where=f"counts[{number}]", remedy=remedy)
    for identity, stage in stages.items():
        where = f"stages.{identity}"
        require_fields(path, stage, _STAGE, where=where, remedy=remedy)
        require_fields(path, stage["factors"], {"stage_kind": str}, where=f"{where}.factors", remedy=remedy)
        if not is_name(identity) or not stage["label"].isprintable():
            raise StoreError(f"{path}: damaged ({where}: odd characters in its id or label). {remedy}")
        if odd := [one for one in stage["parents"] if not isinstance(one, str) or not is_name(one)]:
            raise StoreError(f"{path}: damaged ({where}.parents: found {odd[0]!r}, allowed are ids of stages). {remedy}")
    for number, arm in enumerate(manifest["arms"]):
        require_fields(path, arm, _ARM, where=f"arms[{number}]", remedy=remedy)
        for name in _ARM:
            if name.endswith(("_state", "_evaluation", "_before")) and arm[name] not in stages:
                raise StoreError(f"{path}: damaged (arms[{number}].{name}: no stage {arm[name]!r}). {remedy}")
