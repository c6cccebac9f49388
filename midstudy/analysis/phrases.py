"""Numbers with their uncertainty, in words: one way of writing them for the answer, the claims and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from midstudy.recipe.manifest import ColumnEntry

RELATIVE = "relative improvement"
"""The unit that is shown in percent."""


def readable(name: object) -> str:
    """A name as it appears in a sentence or figure: 'best_fit' → 'best fit'."""
    return str(name).replace("_", " ")


def percent(value: float) -> str:
    """A share as signed percent: 0.125 → '+12.5 %'."""
    return f"{100 * value:+.1f} %" if math.isfinite(value) else "unknown"


def amount(value: float, unit: str) -> str:
    """A signed value with its unit, a relative improvement in percent."""
    if unit == RELATIVE:
        return percent(value)
    return f"{value:+.3f} {unit}" if math.isfinite(value) else "unknown"


def unit_of(column: ColumnEntry) -> str:
    """The unit of differences in a column: 'nats' of a loss in nats, otherwise the metric's name."""
    return "nats" if column.metric.endswith("_nats") else column.metric


def seeds(n: int) -> str:
    """'3 seeds', '1 seed'."""
    return f"{n} seed" if n == 1 else f"{n} seeds"


def with_interval(value: float, low: float, high: float, unit: str, *, num_seeds: int) -> str:
    """'+12.5 % (95 % interval +11.0 % to +14.0 %, 3 seeds)'; says so if there is no interval."""
    return f"{amount(value, unit)} ({_interval(low, high, unit)}, {seeds(num_seeds)})"


def percent_with_interval(row: Mapping[str, Any] | pd.Series) -> str:
    """Relative improvement of a row of effects with its 95 % interval and the seeds behind it."""
    value, low, high = (float(row[f"relative_{part}"]) for part in ("improvement", "ci_low", "ci_high"))
    return with_interval(value, low, high, RELATIVE, num_seeds=int(row["num_seeds"]))


def difference_with_interval(row: Mapping[str, Any] | pd.Series, unit: str) -> str:
    """Difference of a row of effects with its 95 % interval and the seeds behind it."""
    value, low, high = (float(row[part]) for part in ("difference", "ci_low", "ci_high"))
    return with_interval(value, low, high, unit, num_seeds=int(row["num_seeds"]))


def improvement(row: Mapping[str, Any] | pd.Series, unit: str) -> str:
    """An improvement in percent and in the column's unit: '12.5 % (0.571 nats; 95 % interval 11.0 to 14.0 %, 3 seeds)'."""
    relative, low, high = (float(row[f"relative_{part}"]) for part in ("improvement", "ci_low", "ci_high"))
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" if math.isfinite(low) else "no interval"
    lead = f"{100 * relative:.1f} %" if math.isfinite(relative) else "an unknown share"
    return f"{lead} ({float(row['difference']):.3f} {unit}; {interval}, {seeds(int(row['num_seeds']))})"


def telling_factors(rows: Sequence[Mapping[str, Any] | pd.Series], names: Sequence[str]) -> list[str]:
    """Return the factors in `names` that tell the rows apart; only those with text values, if they suffice."""
    differing = [name for name in names if len({row[name] for row in rows}) > 1]
    words = [name for name in differing if all(isinstance(row[name], str) for row in rows)]
    is_enough = len({tuple(row[name] for name in words) for row in rows}) == len(rows)
    return words if words and is_enough else differing


def name_of(row: Mapping[str, Any] | pd.Series, names: Sequence[str]) -> str:
    """An arm by some of its factors: 'code', or 'code, start step 24'."""
    return ", ".join(
        readable(row[name]) if isinstance(row[name], str) else f"{readable(name)} {row[name]:g}" for name in names
    )


def capitalised(sentence: str) -> str:
    """The sentence with a capital first letter."""
    return sentence[:1].upper() + sentence[1:]


def _interval(low: float, high: float, unit: str) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    if unit == RELATIVE:
        return f"95 % interval {percent(low)} to {percent(high)}"
    return f"95 % interval {low:+.3f} to {high:+.3f}"
