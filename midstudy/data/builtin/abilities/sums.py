"""Sums of one step with a call of the tool, in the form of a GSM8K answer. Test's pairs of numbers are in no other split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.abilities.messages import call, messages, said
from midstudy.data.builtin.draw import Draw
from midstudy.data.splits import split_by_hash

PACKAGES: tuple[str, ...] = ()
NUM_DRAWS = 26_000

_NAMES = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
_ASKED = (
    "What is {left} {sign} {right}?",
    "What is {left} {name} {right}?",
    "{left} {sign} {right}",
    "{left} {sign} {right} = ?",
    "How much is {left} {name} {right}?",
    "Calculate {left} {sign} {right}.",
    "Work out {left} {name} {right}.",
    "Please compute {left} {sign} {right}.",
)


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation, each calculation once; both orders of two numbers, and all signs, are in one split."""
    seen: set[str] = set()
    for number in range(NUM_DRAWS):
        draw = Draw(f"sums {number}")
        sign = "+-*/"[number % 4]
        left, right, result = _drawn(sign, draw)
        expression = f"{left}{sign}{right}"
        if expression in seen:
            continue
        seen.add(expression)
        split = split_by_hash(f"{min(left, right)} and {max(left, right)}", dev=0.03, test=0.04)
        asked = draw.choice(_ASKED).format(left=left, right=right, sign=sign, name=_NAMES[sign])
        reply = [said(f"{left} {sign} {right} = "), *call(expression, str(result)), said(f"{result}\n#### {result}")]
        yield split, {"messages": messages((asked, reply))}


def _drawn(sign: str, draw: Draw) -> tuple[int, int, int]:
    """Return two numbers and the result of the calculation, a whole number that is not negative."""
    if sign == "+":
        left, right = draw.between(2, 400), draw.between(2, 400)
        return left, right, left + right
    if sign == "-":
        right = draw.between(2, 400)
        left = right + draw.between(0, 400)
        return left, right, left - right
    small, large = draw.between(2, 30), draw.between(2, 300)
    if sign == "*":
        left, right = (small, large) if draw.chance(50) else (large, small)
        return left, right, left * right
    return small * large, small, large
