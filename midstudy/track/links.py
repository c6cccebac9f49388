"""The address of MLflow's page of a study's arms."""

from __future__ import annotations

from midstudy.track.shared_view import VIEW_KEY


def arms_page(server_url: str, experiment_id: str) -> str:
    """Return the address of the list of the arms' last states, in the view that a sync keeps in the experiment's tag
    `shared_view.VIEW_TAG`.

    MLflow ignores the view if the address also has a filter or an order.
    """
    return f"{server_url.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}"
