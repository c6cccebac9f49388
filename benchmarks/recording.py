"""Write measured rates to the table for plans' cost estimates, midstudy/plan/rates.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from midstudy.plan.device import RATES, Rate

_KIND = ("device", "shape", "precision", "vocab_size", "seq_len", "compiled")


def record(new: Iterable[Rate]) -> None:
    """Write the rates to the table; each replaces an older rate of the same kind."""
    rows = json.loads(RATES.read_text("utf-8"))
    for rate in new:
        rows = [row for row in rows if any(row[key] != getattr(rate, key) for key in _KIND)] + [asdict(rate)]
    lines = ",\n".join(json.dumps(row) for row in rows)
    RATES.write_text(f"[\n{lines}\n]\n", "utf-8")
