"""Study manifests: frozen by `run` and read by later commands; earlier versions are kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from midstudy.files.atomic import write_json
from midstudy.files.errors import StoreError
from midstudy.files.reading import read_as, read_object
from midstudy.recipe.manifest import SCHEMA, Manifest
from midstudy.store.registration import register
from midstudy.store.store import Store


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
    fields = read_object(path, remedy=remedy)
    if fields.get("schema") != SCHEMA:
        command = fields.get("command")
        again = f": {command}" if isinstance(command, str) else ""
        raise StoreError(
            f"{path}: expected schema {SCHEMA}, got {fields.get('schema', 'an older one')}. Run the study again{again}. Its "
            "finished stages are reused."
        )
    manifest = read_as(path, Manifest, remedy=remedy)
    if manifest.name != name:
        raise StoreError(f"{path}: expected the manifest of study {name!r}, got that of {manifest.name!r}. {remedy}")
    return manifest
