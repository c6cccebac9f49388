"""Number formats of the report: significant digits only, a true minus sign, a dash for a missing value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

ABSENT = "–"


def number(value: float) -> str:
    """Format a whole number with thousands separators: 17112 → '17,112'."""
    return ABSENT if math.isnan(value) else _minus(f"{value:,.0f}")


def counted(count: int, noun: str) -> str:
    """Format a whole number of things: (1, 'claim') → '1 claim', (2, 'claim') → '2 claims'."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def decimal(value: float) -> str:
    """Format an unsigned number, such as a loss in nats per token, with three decimals."""
    return ABSENT if math.isnan(value) else f"{value:.3f}"


def difference(value: float) -> str:
    """Format a signed difference in nats per token with three decimals."""
    return ABSENT if math.isnan(value) else _minus(f"{value:+.3f}")


def signed_percent(value: float) -> str:
    """Format a signed fraction in percent, without the % sign: 0.125 → '+12.5'; a value that rounds to zero is '0.0'."""
    if math.isnan(value):
        return ABSENT
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else _minus(text)


def correlation(value: float) -> str:
    """Format a correlation with two decimals."""
    return ABSENT if math.isnan(value) else _minus(f"{value:.2f}")


def p_value(value: float) -> str:
    """Format a p value with about two significant digits, or as '< 0.0001'."""
    if math.isnan(value):
        return ABSENT
    if value < 1e-4:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def interval(low: float, high: float, write: Callable[[float], str] = difference) -> str:
    """Format both ends with `write`, without plus signs: '[−0.033, 0.591]'; a dash if there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return ABSENT
    return f"[{write(low)}, {write(high)}]".replace("+", "")


def tokens(count: float) -> str:
    """Format a number of tokens with three significant digits: 88474 → '88.5k'."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def percent(share: float) -> str:
    """Format an unsigned fraction with three significant digits: 0.125 → '12.5 %'."""
    return ABSENT if math.isnan(share) else f"{100 * share:.3g} %"


def whole_percent(share: float) -> str:
    """Format a share of few items, of which more digits would say nothing: 0.1267 → '13 %'."""
    return ABSENT if math.isnan(share) else f"{100 * share:.0f} %"


def with_minus(text: str) -> str:
    """Return a sentence with true minus signs before numbers: 'by -0.3 %' → 'by −0.3 %'; ranges and exponents are kept."""
    return re.sub(r"(?<![\w.–-])-(?=\d)", "−", text)


def _minus(text: str) -> str:
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """Format seconds as '45 s', '8.5 min' or '2.4 h'."""
    if math.isnan(seconds):
        return ABSENT
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} h"


UNITS = {
    "loss_nats": "nats per token",
    "bits_per_byte": "bits per byte",
    "accuracy": "share of questions",
    "exact_match": "share of answers",
    "well_formed": "share of answers",
    "mean_diagonal_cka": "linear CKA, mean over layers",
    "last_layer_cka": "linear CKA of the last layer",
    "layer_distortion": "norm of the change of the last MLP's output weights",
}
"""Units of metrics; for other metrics the name is shown."""


def unit(metric: str) -> str:
    """Return the unit of a metric."""
    if metric.startswith("loss_nats_"):  # of a part of the positions
        return UNITS["loss_nats"]
    return "share of items" if metric.startswith("pass_at_") else UNITS.get(metric, metric.replace("_", " "))
