"""The view of a study's arms in MLflow's list of runs: which runs, columns, groups and order.

MLflow keeps a view that people share as a tag of the experiment, `mlflow.sharedViewState.KEY`; a page's address names it by
`viewStateShareKey=KEY`, and the page lists it among its saved views. The format is the one that the page of MLflow 3.17.2
reads (its bundle, `mlflow/server/js/build`): JSON with the view's name, its times in Unix milliseconds, and its state,
which is JSON, or `deflate;` and zlib's compressed JSON in base64.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from midstudy.recipe.manifest import Manifest
from midstudy.track.facts import ARM_TAG, result_name

VIEW_KEY = "midstudy"
"""Key of the view. It does not depend on the study, so a link stays valid when the study grows."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
_COMPRESSED = "deflate;"
_NAME, _NAME_WIDTH = "attributes.`Run Name`", 320
"""MLflow's column of names, always shown, and its width in CSS pixels; at its default width names end in dots."""


def view_tag(manifest: Manifest, *, created_ms: int) -> str:
    """Return the value of the tag `VIEW_TAG`.

    Args:
        created_ms: when the study was first seen, Unix milliseconds.
    """
    state = json.dumps(arms_view(manifest), ensure_ascii=False).encode("utf-8")
    packed = _COMPRESSED + base64.b64encode(zlib.compress(state)).decode("ascii")
    return json.dumps({"name": "Arms", "createdAt": created_ms, "updatedAt": created_ms, "state": packed})


def arms_view(manifest: Manifest) -> dict[str, Any]:
    """Return the state of the view: the arms' last states, best first, with the study's factors and measures as columns.

    Arms that differ in their seeds alone are one group, whose row shows their means. Columns: the factors except seeds, the
    measured columns, from the one that the list is sorted by, and the seeds. Curves are not columns.
    """
    factors = [name for name in manifest.factor_names if name not in manifest.seeds]
    measured = [name for name, column in manifest.columns.items() if not column.is_curve]
    state: dict[str, Any] = {"searchFilter": f"tags.`{ARM_TAG}` = 'yes'", "startTime": "ALL"}
    if measured:
        first = next((name for comparison in manifest.comparisons for name in comparison.columns), measured[0])
        measured.sort(key=lambda name: name != first)
        state |= {"orderByKey": _column("metrics", result_name(first))}
        state |= {"orderByAsc": manifest.columns[first].better == "lower"}
    columns = [_column("params", name) for name in factors]
    columns += [_column("metrics", result_name(name)) for name in measured]
    columns += [_column("params", name) for name in manifest.seeds if name in manifest.factor_names]
    state |= {"selectedColumns": columns, "columnOrder": [_NAME, *columns], "columnWidths": {_NAME: _NAME_WIDTH}}
    varying = [name for name in factors if len({arm.factors[name] for arm in manifest.arms}) > 1]
    if varying and manifest.seeds:
        keys = [{"mode": "param", "groupByData": name} for name in varying]
        state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
    return state


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def arms_page(server_url: str, experiment_id: str) -> str:
    """Return the address of the list of the arms' last states, in the view that a sync keeps in the experiment's tag
    `VIEW_TAG`.

    MLflow ignores the view if the address also has a filter or an order.
    """
    return f"{server_url.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}"
