"""`python -m midstudy.track STORE STUDY`: one sync; with `--follow`, again and again until standard input ends.

The following process is what `run` keeps beside a study: at low priority, in no one's way, and gone with its parent,
since the pipe that is its standard input closes then. It ends with a last sync and prints its report as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from pathlib import Path

from midstudy.store.store import Store
from midstudy.track.sync import default_tracking_uri, sync

_LOW_PRIORITY = 15


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m midstudy.track", description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("study")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--follow", type=float, metavar="SECONDS", help="sync this often until standard input ends")
    options = parser.parse_args()
    store = Store.open(options.store)
    tracking_uri = options.tracking_uri or default_tracking_uri(store)
    if options.follow:
        os.nice(_LOW_PRIORITY)
        while not select.select([sys.stdin], [], [], options.follow)[0]:
            try:
                sync(store, options.study, tracking_uri=tracking_uri)
            except Exception as error:  # a view that cannot be reached now may be there at the next turn
                print(f"MLflow: {error}", file=sys.stderr)
    try:
        report = sync(store, options.study, tracking_uri=tracking_uri)
    except ValueError as error:
        print(f"MLflow: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report.as_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
