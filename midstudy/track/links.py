"""The address of MLflow's page of a study's arms, filtered and sorted."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from midstudy.recipe.manifest import Manifest
from midstudy.track.facts import result_name


def arms_page(server_url: str, experiment_id: str, manifest: Manifest) -> str:
    """Return the address of the list of the arms' last states, best first, where some can be selected and compared.

    The list is sorted by a metric because MLflow collapses nested runs when it sorts by time.
    """
    settings = {"workflowType": "machine_learning", "startTime": "ALL"}
    roles = sorted({manifest.stages[arm.state].role for arm in manifest.arms})
    if roles:
        settings["searchFilter"] = (
            f"tags.stage_kind = '{roles[0]}'" if len(roles) == 1 else "tags.stage_kind != 'evaluation'"
        )
    first = manifest.comparisons[0].columns[0] if manifest.comparisons else None
    column = first or next((name for name, about in manifest.columns.items() if not about.is_curve), None)
    if column is not None:
        lower = manifest.columns[column].better == "lower"
        settings |= {"orderByKey": f"metrics.`{result_name(column)}`", "orderByAsc": "true" if lower else "false"}
    query = urlencode(settings, quote_via=quote)
    return f"{server_url.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"
