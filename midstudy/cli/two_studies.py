"""What `midstudy compare-studies` prints: two studies side by side as text or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from midstudy.analysis.phrases import name_of, telling_factors
from midstudy.recipe.explain import shown

if TYPE_CHECKING:
    import pandas as pd

    from midstudy.analysis.two_studies import TwoStudies
    from midstudy.recipe.manifest import Manifest

_MOST_FIELDS = 20
"""Recipe fields printed; `--json` has all of them."""


def as_json(two: TwoStudies, a: Manifest, b: Manifest) -> str:
    """Return all tables as JSON; numbers that are not known are null."""
    facts: dict[str, Any] = {
        "a": a.name,
        "b": b.name,
        "factors": two.factors,
        "own_factors": two.own_factors,
        "own_columns": two.own_columns,
        "own_arms": two.own_arms,
        "own_claims": two.own_claims,
    }
    for name in ("arms", "effects", "claims", "recipes"):
        records = getattr(two, name).astype(object).to_dict("records")
        facts[name] = [{key: _known(value) for key, value in record.items()} for record in records]
    return json.dumps(facts, indent=1)


def as_text(two: TwoStudies, a: Manifest, b: Manifest, *, places: Sequence[str]) -> str:
    """Return the tables as text. Measured values are means over the seeds that are finished in both studies."""
    num_both = len(a.arms) - two.own_arms[0]
    lines = [
        f"A  {a.name} in {places[0]}: {len(a.arms)} arms",
        f"B  {b.name} in {places[1]}: {len(b.arms)} arms",
        f"{num_both} arms in both, by {', '.join(two.factors)}; {two.own_arms[0]} only in A, {two.own_arms[1]} only in B",
    ]
    for side, names, columns in zip("AB", two.own_factors, two.own_columns, strict=True):
        lines += [f"factors only in {side}: {', '.join(names)}"] if names else []
        lines += [f"columns only in {side}, or measured otherwise: {', '.join(columns)}"] if columns else []
    seeds = {*a.seeds, *b.seeds}
    cell = [name for name in two.factors if name not in seeds]
    for column, rows in two.arms.groupby("column", sort=False):
        lines += ["", *_table((str(column), "A", "B", "B − A", "arms"), _values(rows, cell))]
    for (comparison, column), rows in two.effects.groupby(["comparison", "column"], sort=False):
        title = f"effect {comparison} on {column}"
        lines += ["", *_table((title, "A", "B", "B − A", "", "interval over"), _effects(rows, cell))]
    if len(two.effects):
        lines += ["", "Positive effects are better. Effects agree if the 95 % interval of B − A, uncorrected, holds 0."]
    if len(two.claims):
        rows_of_claims = [
            (
                one["text"],
                one["a"],
                one["b"],
                "agree" if one["agree"] else "differ",
                "" if one["same_test"] else "other test",
            )
            for _, one in two.claims.iterrows()
        ]
        lines += ["", *_table(("claim", "A", "B", "", ""), rows_of_claims)]
    lines += ["", *_recipes(two, num_both)]
    return "\n".join(line.rstrip() for line in lines)


def _values(rows: pd.DataFrame, cell: list[str]) -> list[tuple[str, ...]]:
    finished = rows.dropna(subset=["a", "b"])
    groups = [group for _, group in finished.groupby(cell, sort=False)] if cell else [finished] * bool(len(finished))
    names = _names([group.iloc[0] for group in groups], cell)
    found: list[tuple[str, ...]] = [
        (
            name,
            f"{group['a'].mean():.4f}",
            f"{group['b'].mean():.4f}",
            _signed(group["difference"].mean(), 4),
            str(len(group)),
        )
        for name, group in zip(names, groups, strict=True)
    ]
    if waiting := len(rows) - len(finished):
        found.append((f"({waiting} not finished in both)", "", "", "", ""))
    return found


def _effects(rows: pd.DataFrame, cell: list[str]) -> list[tuple[str, ...]]:
    names = _names([row for _, row in rows.iterrows()], cell)
    return [
        (
            name,
            _with_interval(row["a"], row["a_low"], row["a_high"]),
            _with_interval(row["b"], row["b_low"], row["b_high"]),
            _with_interval(row["difference"], row["low"], row["high"]),
            row["agreement"],
            row["basis"],
        )
        for name, (_, row) in zip(names, rows.iterrows(), strict=True)
    ]


def _recipes(two: TwoStudies, num_both: int) -> list[str]:
    if not num_both:
        return ["No arm is in both studies, so no recipes are compared."]
    if not len(two.recipes):
        return ["The arms in both have the same recipes."]
    lines = ["Recipe fields in which arms of both differ:"]
    for _, field in two.recipes.head(_MOST_FIELDS).iterrows():
        lines.append(f"  {field['part']}: {field['path']}  ({field['num_arms']} of {num_both} arms)")
        lines += [f"    {side.upper()}  {shown(field[side])}" for side in "ab"]
    if more := len(two.recipes) - _MOST_FIELDS:
        lines += [f"  and {more} more; --json has all of them"] if more > 0 else []
    return lines


def _names(rows: Sequence[pd.Series], cell: list[str]) -> list[str]:
    telling = telling_factors(rows, cell) if rows else []
    return [name_of(row, telling) or "all" for row in rows]


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{_signed(value, 3)} [{_signed(low, 3)}, {_signed(high, 3)}]" if math.isfinite(low) else _signed(value, 3)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    return [
        "  ".join(
            text.ljust(width) if not place else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]


def _known(value: Any) -> Any:
    """Return a plain value; None for NaN."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
