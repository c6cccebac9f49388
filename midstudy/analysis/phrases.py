"""Numbers with their uncertainty, in words: one way of writing them for the answer and the claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd


def percent(value: float) -> str:
    """A share as signed percent: 0.125 → '+12.5 %'."""
    return f"{100 * value:+.1f} %" if math.isfinite(value) else "unknown"


def nats(value: float) -> str:
    """A signed difference in nats per token."""
    return f"{value:+.3f} nats" if math.isfinite(value) else "unknown"


def trunk_seeds(n: int) -> str:
    """'3 trunk seeds', '1 trunk seed'."""
    return f"{n} trunk seed" if n == 1 else f"{n} trunk seeds"


def percent_with_interval(row: Mapping[str, Any] | pd.Series) -> str:
    """Relative improvement of a comparison row with its 95 % interval and the trunk seeds behind it."""
    low, high = _number(row, "relative_ci_low"), _number(row, "relative_ci_high")
    interval = f"95 % interval {percent(low)} to {percent(high)}" if math.isfinite(low) else "no interval"
    return f"{percent(_number(row, 'relative_improvement'))} ({interval}, {_seeds(row)})"


def nats_with_interval(row: Mapping[str, Any] | pd.Series) -> str:
    """Difference in nats of a comparison row with its 95 % interval and the trunk seeds behind it."""
    low, high = _number(row, "ci_low"), _number(row, "ci_high")
    interval = f"95 % interval {low:+.3f} to {high:+.3f}" if math.isfinite(low) else "no interval"
    return f"{nats(_number(row, 'difference_nats'))} ({interval}, {_seeds(row)})"


def reduction_with_interval(row: Mapping[str, Any] | pd.Series) -> str:
    """A lowering of the loss in percent and nats, unsigned: '12.5 % (0.571 nats; 95 % interval 11.0 to 14.0 %, …)'."""
    low, high = _number(row, "relative_ci_low"), _number(row, "relative_ci_high")
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" if math.isfinite(low) else "no interval"
    amount = f"{100 * _number(row, 'relative_improvement'):.1f} % ({_number(row, 'difference_nats'):.3f} nats"
    return f"{amount}; {interval}, {_seeds(row)})"


def _number(row: Mapping[str, Any] | pd.Series, column: str) -> float:
    return float(row[column])


def _seeds(row: Mapping[str, Any] | pd.Series) -> str:
    return trunk_seeds(int(row["n_trunk_seeds"]))
