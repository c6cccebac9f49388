"""Study manifests: frozen by `run` and read by later commands; earlier versions are kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from midstudy.files.atomic import write_json
from midstudy.files.errors import StoreError
from midstudy.files.reading import read_object
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.manifest import SCHEMA, Manifest
from midstudy.store.paths import is_name
from midstudy.store.registration import register
from midstudy.store.store import Store

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def freeze(store: Store, manifest: Manifest) -> None:
    """Write `manifest` as the study's current one, and into its history under its digest; register its claims.

    The claims are registered first, so that no stage can be finished of a study whose claims are not.
    """
    register(store, manifest, evaluations=manifest.evaluations | _evaluations_before(store, manifest.name))
    plain = asdict(manifest)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode("utf-8")).hexdigest()[:16]
    write_json(store.paths.study(manifest.name) / "history" / f"{digest}.json", plain)
    write_json(store.paths.manifest(manifest.name), plain)


def _evaluations_before(store: Store, name: str) -> set[str]:
    """Return the evaluations of the study's manifest until now; none if there is none or it cannot be read."""
    try:
        return load(store, name).evaluations
    except (StoreError, FileNotFoundError):
        return set()


def load(store: Store, name: str | None) -> Manifest:
    """Return the manifest of the study `name`; if it is `None`, of the store's only study.

    Raises:
        StoreError: there is no such study, `name` is `None` and there is not exactly one study, or the manifest is damaged
            or has another schema.
    """
    studies = store.studies()
    if name is None:
        if len(studies) != 1:
            raise StoreError(f"{store.root}: {len(studies)} studies; name one of: {', '.join(studies) or '(none yet)'}.")
        name = studies[0]
    if name not in studies:
        raise StoreError(f"{store.root}: no study called {name!r}; there are: {', '.join(studies) or '(none yet)'}.")
    path = store.paths.manifest(name)
    remedy = f"Restore it from {path.parent / 'history'}, whose newest file is a copy."
    fields = read_object(path, fields={"name": str}, remedy=remedy)
    if fields.get("schema") != SCHEMA:
        command = fields.get("command")
        again = f": {command}" if isinstance(command, str) else ""
        raise StoreError(
            f"{path}: expected schema {SCHEMA}, got {fields.get('schema', 'an older one')}. Run the study again{again}. Its "
            "finished stages are reused."
        )
    from pydantic import ValidationError

    try:
        manifest = _decoder().validate_json(path.read_bytes(), strict=True)
    except (ValidationError, RecipeError) as error:
        raise StoreError(f"{path}: damaged ({_first_line(error)}). {remedy}") from None
    if manifest.name != name:
        raise StoreError(f"{path}: expected the manifest of study {name!r}, got that of {manifest.name!r}. {remedy}")
    if problem := _broken_link(manifest):
        raise StoreError(f"{path}: damaged ({problem}). {remedy}")
    return manifest


@cache
def _decoder() -> TypeAdapter[Manifest]:
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)


def _first_line(error: Exception) -> str:
    """Return the first problem that a decoder reports, with its dotted path."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or 'the file'}: {problem['msg']}"


def _broken_link(manifest: Manifest) -> str | None:
    """Return the first invalid name or reference in a manifest; `None` if all are valid."""
    for stage_id, stage in manifest.stages.items():
        if not is_name(stage_id) or not stage.label.isprintable():
            return f"stages.{stage_id}: invalid characters in its id or label"
        for parent in stage.parents:  # may be a state of another study, which this manifest does not list
            if not is_name(parent):
                return f"stages.{stage_id}.parents: expected ids, got {parent!r}"
    for row, arm in enumerate(manifest.arms):
        for stage_id in (arm.state, *(evaluation for ids in arm.measures.values() for evaluation in ids)):
            if stage_id not in manifest.stages:
                return f"arms[{row}]: no stage {stage_id!r}"
    for comparison in manifest.comparisons:
        if any(not 0 <= row < len(manifest.arms) for row in (*comparison.arms, *comparison.references)):
            return f"comparisons.{comparison.name}: a row that does not exist"
    return None
