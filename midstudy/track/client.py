"""MLflow's address, a client for it, and one error for everything that can go wrong with it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from midstudy.files.errors import StoreError
from midstudy.store.store import Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE = "sqlite:///"
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; MLflow's default is 120
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's default is 7, which takes minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""With these, a server that is down is reported within seconds, one that hangs within a minute. Variables that the user has
set are kept."""


class TrackingError(ValueError):
    """MLflow could not be updated; the store and its results are unchanged."""


def default_tracking_uri(store: Store) -> str:
    """MLflow's SQLite file inside the store."""
    return f"{_SQLITE}{store.paths.mlflow / 'mlflow.db'}"


def tracking_uri_of(store: Store, chosen: str | None = None) -> str:
    """Return `chosen` if given, else $MLFLOW_TRACKING_URI, else the SQLite file in the store."""
    return chosen or os.environ.get("MLFLOW_TRACKING_URI", "").strip() or default_tracking_uri(store)


def database_file(tracking_uri: str) -> tuple[int, int] | None:
    """Device and inode of the SQLite file at this address; None if there is no file or the address is a server's."""
    try:
        found = Path(tracking_uri.removeprefix(_SQLITE)).stat() if tracking_uri.startswith(_SQLITE) else None
    except OSError:
        found = None
    return (found.st_dev, found.st_ino) if found else None


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client for this address; a missing SQLite file is created."""
    _prepare()
    from mlflow.tracking import MlflowClient

    if tracking_uri.startswith(_SQLITE):
        _require_database(tracking_uri.removeprefix(_SQLITE))
    return MlflowClient(tracking_uri)


def _require_database(path: str) -> None:
    """Check the SQLite file before MLflow opens it, because MLflow retries silently for two minutes.

    Raises:
        OSError: the file cannot be opened or created, or is not a database.
    """
    if path.startswith(":memory:") or "?" in path:
        return
    where = Path(os.path.realpath(path))
    where.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(where)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        if "locked" not in str(error):  # MLflow waits for locks
            raise OSError(f"SQLite: {error}") from error
    for path_needed in (where, where.parent):
        if path_needed.exists() and not os.access(path_needed, os.W_OK):
            raise OSError(f"{path_needed} cannot be written")


def _prepare() -> None:
    """Set MLflow's environment variables, which it reads when it is imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def as_tracking_errors(store: Store, tracking_uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its database or the network into a `TrackingError`, which says that no result is lost.

    Raises:
        TrackingError: MLflow, its database or the network failed.
    """
    _prepare()
    from alembic.util.exc import CommandError  # the database was removed while it was being created
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints tracebacks of the errors reported here
    try:
        yield
    except (StoreError, TrackingError):
        raise
    except (MlflowException, SQLAlchemyError, CommandError, OSError, ImportError, ValueError) as error:
        # ImportError: a missing database driver. ValueError: a malformed address.
        command = f"midstudy track sync --store {shlex.quote(str(store.root))}"
        reason = " ".join(str(error).split()).partition(" [SQL: ")[0].removesuffix(".")
        raise TrackingError(
            f"MLflow at {tracking_uri}: {reason}. The results are in the store; sync later with: {command}"
        ) from error
