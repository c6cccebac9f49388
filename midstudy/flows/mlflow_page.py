"""The address of a study's page on an MLflow server, found by its REST API because importing MLflow takes a second."""

from __future__ import annotations

import json
import urllib.request
from urllib.parse import quote

from midstudy.recipe.manifest import Manifest
from midstudy.track.shared_view import VIEW_TAG, arms_page

_TIMEOUT_S = 5.0


def mlflow_page(tracking_uri: str, manifest: Manifest) -> str | None:
    """Return the address of the list of arms; None if MLflow is a file, does not answer or has no view of the arms."""
    if not tracking_uri.startswith(("http://", "https://")):
        return None
    server = tracking_uri.rstrip("/")
    try:
        request = f"{server}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(manifest.name)}"
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            experiment = json.load(answer)["experiment"]
        has_view = any(tag["key"] == VIEW_TAG for tag in experiment.get("tags", ()))
        return arms_page(server, experiment["experiment_id"]) if has_view else None
    except (OSError, ValueError, KeyError):
        return None
