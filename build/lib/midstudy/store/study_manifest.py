"""Study manifests: frozen by `run`, read by every command after it; earlier ones are kept."""

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
from midstudy.store.store import Store

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def freeze(store: Store, manifest: Manifest) -> None:
    """Make `manifest` the study's, and keep it among the earlier ones under its digest."""
    plain = asdict(manifest)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode("utf-8")).hexdigest()[:16]
    write_json(store.paths.study(manifest.name) / "history" / f"{digest}.json", plain)
    write_json(store.paths.manifest(manifest.name), plain)


def load(store: Store, name: str | None) -> Manifest:
    """The manifest of a study; of the only one where `name` is None.

    Raises:
        StoreError: there is no such study, or several to choose from; its manifest is damaged, or of another version.
    """
    studies = store.studies()
    if name is None:
        if len(studies) != 1:
            raise StoreError(f"{store.root}: {len(studies)} studies; name one of: {', '.join(studies) or '(none yet)'}.")
        name = studies[0]
    if name not in studies:
        raise StoreError(f"{store.root}: no study called {name!r}; there are: {', '.join(studies) or '(none yet)'}.")
    path = store.paths.manifest(name)
    remedy = f"Earlier manifests are in {path.parent / 'history'}; the newest one is a copy of what this one was."
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
        raise StoreError(f"{path}: the manifest of study {manifest.name!r}. {remedy}")
    if problem := _broken_link(manifest):
        raise StoreError(f"{path}: damaged ({problem}). {remedy}")
    return manifest


@cache
def _decoder() -> TypeAdapter[Manifest]:
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)


def _first_line(error: Exception) -> str:
    """The first problem of a decoder, with its dotted path."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or 'the file'}: {problem['msg']}"


def _broken_link(manifest: Manifest) -> str | None:
    """The first part of a manifest that is not a name, or that refers to a stage or row that is not in it."""
    for identity, stage in manifest.stages.items():
        if not is_name(identity) or not stage.label.isprintable():
            return f"stages.{identity}: odd characters in its id or label"
        for parent in stage.parents:  # some may be states of other studies, which this one does not list
            if not is_name(parent):
                return f"stages.{identity}.parents: expected ids, got {parent!r}"
    for row, arm in enumerate(manifest.arms):
        for identity in (arm.state, *(one for ids in arm.measures.values() for one in ids)):
            if identity not in manifest.stages:
                return f"arms[{row}]: no stage {identity!r}"
    for comparison in manifest.comparisons:
        if any(not 0 <= row < len(manifest.arms) for row in (*comparison.arms, *comparison.references)):
            return f"comparisons.{comparison.name}: a row that is not there"
    return None
