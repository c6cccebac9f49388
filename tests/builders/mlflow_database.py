"""Read an MLflow database with stage ids in place of MLflow's random ids, so that two databases can be compared."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from midstudy.track.facts import STAGE_ID_TAG

_STAGE = (
    "COALESCE((SELECT t.value FROM tags t WHERE t.run_uuid = {run} AND t.key = '" + STAGE_ID_TAG + "'), "
    "(SELECT 'study ' || r.name FROM runs r WHERE r.run_uuid = {run}))"
)
_RANDOM_TAGS = "('mlflow.parentRunId', 'mlflow.log-model.history')"


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of one query, without changing the database."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def mlflow_rows(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that MLflow stores about active runs and models."""
    stage, parent, source = (_STAGE.format(run=run) for run in ("r.run_uuid", "p.value", "m.source_run_id"))
    active = "r.lifecycle_stage = 'active'"
    joined = f"JOIN runs r ON r.run_uuid = x.run_uuid WHERE {active}"
    models = "m.lifecycle_stage = 'active'"
    queries = {
        "runs": f"SELECT {stage}, name, status, start_time, end_time FROM runs r WHERE {active}",
        "nesting": f"SELECT {stage}, {parent} FROM runs r JOIN tags p ON p.run_uuid = r.run_uuid "
        f"WHERE {active} AND p.key = 'mlflow.parentRunId'",
        "metrics": f"SELECT {stage}, x.key, x.value, x.timestamp, x.step FROM metrics x {joined}",
        "latest": f"SELECT {stage}, x.key, x.value, x.step FROM latest_metrics x {joined}",
        "params": f"SELECT {stage}, x.key, x.value FROM params x {joined}",
        "tags": f"SELECT {stage}, x.key, x.value FROM tags x {joined} AND x.key NOT IN {_RANDOM_TAGS}",
        "data": f"SELECT {stage}, d.name, d.digest, d.dataset_source_type, d.dataset_source, d.dataset_profile, t.value "
        "FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id JOIN runs r ON r.run_uuid = i.destination_id "
        f"JOIN input_tags t ON t.input_uuid = i.input_uuid WHERE {active}",
        "models": f"SELECT {source}, m.name, m.status, m.model_type FROM logged_models m WHERE {models}",
        "model tags": f"SELECT {source}, t.tag_key, t.tag_value FROM logged_models m JOIN logged_model_tags t "
        f"ON t.model_id = m.model_id WHERE {models}",
        "model params": f"SELECT {source}, p.param_key, p.param_value FROM logged_models m JOIN logged_model_params p "
        f"ON p.model_id = m.model_id WHERE {models}",
        "model metrics": f"SELECT {source}, x.metric_name, x.metric_value FROM logged_models m JOIN logged_model_metrics x "
        f"ON x.model_id = m.model_id WHERE {models}",
    }
    return {name: sorted(query(database, sql)) for name, sql in queries.items()}


def forget_connections() -> None:
    """Make MLflow reopen its database; otherwise this process would keep using a removed one."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service import utils

    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()
    SqlAlchemyStore._engine_map.clear()
    utils._tracking_store_registry._get_store_with_resolved_uri.cache_clear()
