"""Where MLflow shows a study, for where it is a server: asked over its REST API, since importing MLflow takes a second."""

from __future__ import annotations

import json
import urllib.request
from urllib.parse import quote

from midstudy.track.links import sft_page

_TIMEOUT_S = 5.0


def sft_runs_page(tracking_uri: str, study: str) -> str | None:
    """The page of the study's fine-tuned states; none where MLflow is a file, is away, or does not know the study."""
    if not tracking_uri.startswith(("http://", "https://")):
        return None
    server = tracking_uri.rstrip("/")
    try:
        asked = f"{server}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(study)}"
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as answer:
            return sft_page(server, json.load(answer)["experiment"]["experiment_id"])
    except (OSError, ValueError, KeyError):
        return None
