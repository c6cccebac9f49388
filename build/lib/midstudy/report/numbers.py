"""Numbers as the report prints them: as many digits as mean something, a true minus, a dash for what is not there."""

from __future__ import annotations

import math
from collections.abc import Callable

ABSENT = "–"


def number(value: float) -> str:
    """A whole number with thousands separators: 17112 → '17,112'."""
    return ABSENT if math.isnan(value) else _minus(f"{value:,.0f}")


def loss(value: float) -> str:
    """A loss in nats per token, three decimals."""
    return ABSENT if math.isnan(value) else f"{value:.3f}"


def difference(value: float) -> str:
    """A signed difference in nats per token, three decimals."""
    return ABSENT if math.isnan(value) else _minus(f"{value:+.3f}")


def signed_percent(value: float) -> str:
    """A signed share in percent without the sign %, one decimal: 0.125 → '+12.5'; what rounds to zero has no sign."""
    if math.isnan(value):
        return ABSENT
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else _minus(text)


def correlation(value: float) -> str:
    """A correlation, two decimals."""
    return ABSENT if math.isnan(value) else _minus(f"{value:.2f}")


def p_value(value: float) -> str:
    """A p value with two significant digits, '< 0.0001' below that."""
    if math.isnan(value):
        return ABSENT
    if value < 1e-4:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def interval(low: float, high: float, written: Callable[[float], str] = difference) -> str:
    """Both ends in one format, without plus signs: '[−0.033, 0.591]'; a dash where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ABSENT
    return f"[{written(low)}, {written(high)}]".replace("+", "")


def tokens(count: float) -> str:
    """A number of tokens, three significant digits: 88474 → '88.5k'."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def percent(share: float) -> str:
    """An unsigned share, three significant digits: 0.125 → '12.5 %'."""
    return f"{100 * share:.3g} %"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """'45 s', '8.5 min', '2.4 h'."""
    if math.isnan(seconds):
        return ABSENT
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} h"


UNITS = {"loss_nats": "nats per token", "bits_per_byte": "bits per byte"}
"""Units of metrics; others are shown by their name."""


def unit(metric: str) -> str:
    """The unit of a metric."""
    return UNITS.get(metric, metric.replace("_", " "))
