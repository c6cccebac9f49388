"""Addresses of pages of MLflow's that answer a study's questions, with the filter and the order that make them readable."""

from __future__ import annotations

from urllib.parse import quote, urlencode


def sft_page(server_url: str, experiment_id: str, *, charts: bool = False) -> str:
    """The fine-tuned states, the lowest loss on their task's test split first; select some and compare them.

    Ordered by a metric because the page nests runs, and hides those nested, where it is ordered by time.
    """
    ordered = {"searchFilter": "tags.stage_kind = 'sft'", "orderByKey": "metrics.`loss/sft_test`", "orderByAsc": "true"}
    shown = {"compareRunsMode": "CHART"} if charts else {}
    return f"{server_url.rstrip('/')}/#/experiments/{experiment_id}/runs?{_query(**ordered, **shown)}"


def _query(**settings: str) -> str:
    return urlencode({"workflowType": "machine_learning", "startTime": "ALL", **settings}, quote_via=quote)
