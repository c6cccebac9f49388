"""`python -m midstudy.track STORE STUDY`: one sync; with `--follow`, repeatedly until standard input closes.

`run` starts the following process beside a study, at low priority. Its standard input is a pipe from its parent, so it
exits when its parent does. A line on the pipe requests a sync at once. Before it exits it syncs once more and prints its
report as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from pathlib import Path

from midstudy.store.store import Store
from midstudy.track.client import database_file, tracking_uri_of
from midstudy.track.sync import sync

_NICE_VALUE = 15


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m midstudy.track", description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("study")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--follow", type=float, metavar="SECONDS", help="sync at this interval until standard input closes")
    options = parser.parse_args()
    store = Store.open(options.store)
    tracking_uri = tracking_uri_of(store, options.tracking_uri)
    if options.follow:
        _follow(store, options.study, tracking_uri, every_s=options.follow)
    try:
        report = sync(store, options.study, tracking_uri=tracking_uri)
    except ValueError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    print(json.dumps(report.as_json()))
    return 0


def _follow(store: Store, study: str, tracking_uri: str, *, every_s: float) -> None:
    """Sync every `every_s` seconds, and whenever a line arrives, until standard input closes."""
    os.setpriority(os.PRIO_PROCESS, 0, max(_NICE_VALUE, os.getpriority(os.PRIO_PROCESS, 0)))
    synced = database_file(tracking_uri)
    while not select.select([0], [], [], every_s)[0] or os.read(0, 4096):
        _restart_if_replaced(tracking_uri, synced)
        try:
            sync(store, study, tracking_uri=tracking_uri)
        except Exception as error:  # MLflow may be reachable again at the next sync
            print(f"{error}", file=sys.stderr)
        synced = synced or database_file(tracking_uri)
    _restart_if_replaced(tracking_uri, synced)


def _restart_if_replaced(tracking_uri: str, synced: tuple[int, int] | None) -> None:
    """Replace this process if MLflow's database file is not the one that was synced to: MLflow keeps a file open as long as
    the process lives, even after the file was removed."""
    if synced is not None and database_file(tracking_uri) != synced:
        os.execv(sys.executable, [sys.executable, "-m", "midstudy.track", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
