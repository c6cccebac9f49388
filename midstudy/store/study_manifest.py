"""Study manifests: frozen by `run`, read by every command after it; former ones are kept."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from midstudy.store.atomic import write_json
from midstudy.store.errors import StoreError
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
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}). A former manifest is in {path.parent / 'history'}.") from error
