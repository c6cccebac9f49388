"""Where MLflow is, and what goes wrong on the way there."""

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
from midstudy.store.paths import LONGEST_DATABASE
from midstudy.store.store import Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE = "sqlite:///"
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; MLflow waits 120
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow tries 7 times more, and for minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""A server that is down is told of in seconds, one that hangs in a minute; who has set them otherwise means it."""


class TrackingError(ValueError):
    """MLflow cannot be brought up to date; the store and its results are untouched."""


def default_tracking_uri(store: Store) -> str:
    """MLflow's SQLite file inside the store."""
    return f"{_SQLITE}{store.paths.mlflow / 'mlflow.db'}"


def tracking_uri_of(store: Store, chosen: str | None = None) -> str:
    """MLflow's address: the chosen one, else MLFLOW_TRACKING_URI, else the store's own SQLite file."""
    return chosen or os.environ.get("MLFLOW_TRACKING_URI", "").strip() or default_tracking_uri(store)


def database_file(tracking_uri: str) -> tuple[int, int] | None:
    """Device and inode of the SQLite file at this address; none where there is no file, or MLflow is a server."""
    try:
        found = Path(tracking_uri.removeprefix(_SQLITE)).stat() if tracking_uri.startswith(_SQLITE) else None
    except OSError:
        found = None
    return (found.st_dev, found.st_ino) if found else None


def connect(tracking_uri: str) -> MlflowClient:
    """A client of MLflow at this address; a SQLite file is made where there is none."""
    _prepare()
    from mlflow.tracking import MlflowClient

    if tracking_uri.startswith(_SQLITE):
        _require_database(tracking_uri.removeprefix(_SQLITE))
    return MlflowClient(tracking_uri)


def _require_database(path: str) -> None:
    """Open MLflow's SQLite file before MLflow does, which retries silently for two minutes.

    Raises:
        OSError: the file cannot be opened or created, or is not a database.
    """
    if path.startswith(":memory:") or "?" in path:
        return
    where = Path(os.path.realpath(path))
    if (num_bytes := len(os.fsencode(where))) > LONGEST_DATABASE:
        raise OSError(f"its path has {num_bytes} bytes, of which SQLite takes {LONGEST_DATABASE}; name another")
    where.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(where)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        if "locked" not in str(error):  # MLflow waits for locks
            raise OSError(f"SQLite: {error}") from error
    for one in (where, where.parent):
        if one.exists() and not os.access(one, os.W_OK):
            raise OSError(f"{one} cannot be written")


def _prepare() -> None:
    """MLflow's settings, which it reads when it is imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def told_as_tracking_errors(store: Store, tracking_uri: str) -> Iterator[None]:
    """Turns what MLflow, its database or the network raise into one error that says that no result is lost.

    Raises:
        TrackingError: any of it.
    """
    _prepare()
    from alembic.util.exc import CommandError  # a database that is removed while it is being made
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints tracebacks of what is told here
    try:
        yield
    except StoreError:
        raise
    except (MlflowException, SQLAlchemyError, CommandError, OSError, ImportError, ValueError) as error:
        # ImportError: a database's driver. ValueError: an address that cannot be one.
        study = f"midstudy track sync --store {shlex.quote(str(store.root))}"
        said = " ".join(str(error).split()).partition(" [SQL: ")[0].removesuffix(".")
        raise TrackingError(f"MLflow at {tracking_uri}: {said}. The results are in the store; later: {study}") from error
