"""The tool that a model may call: arithmetic on numbers, and `text.count(letters)`. Nothing else is evaluated.

An expression is parsed to its syntax tree. A tree of numbers, + − * / and parentheses is computed exactly, on fractions; one
call of `count` on a text literal with a text literal counts. Anything else, such as a name, a power, an attribute or a
number of too many digits, has no result. Source of what is allowed: karpathy/nanochat `engine.py` (`use_calculator`), which
calls Python's `eval` on filtered text and stops it after three seconds; here nothing can run, so nothing has to be stopped.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from fractions import Fraction

MOST_CHARACTERS = 200
MOST_DIGITS = 40
"""Of a number, and of a result: longer ones have none."""

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}


def calculated(expression: str) -> str | None:
    """Return what the tool answers to an expression; `None` if it has no answer.

    Commas in numbers are left out. A whole result is written as one; any other as the nearest fp64, as Python prints it.
    """
    if len(expression) > MOST_CHARACTERS:
        return None
    try:
        tree = _parsed(expression)
        return str(_count(tree)) if isinstance(tree, ast.Call) else _written(_value(_parsed(expression.replace(",", ""))))
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _parsed(expression: str) -> ast.expr:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of an unknown escape in a text literal
        return ast.parse(expression.strip(), mode="eval").body


def _count(call: ast.Call) -> int:
    function = call.func
    if not isinstance(function, ast.Attribute) or function.attr != "count" or len(call.args) != 1 or call.keywords:
        raise ValueError("expected one call of count")
    return _text(function.value).count(_text(call.args[0]))


def _text(tree: ast.expr) -> str:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return tree.value
    raise ValueError("expected a text literal")


def _value(tree: ast.expr) -> Fraction:
    if isinstance(tree, ast.Constant) and type(tree.value) in (int, float):
        number = Fraction(repr(tree.value))
        if max(abs(number.numerator), number.denominator) >= 10**MOST_DIGITS:
            raise ValueError("expected fewer digits")
        return number
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub | ast.UAdd):
        operand = _value(tree.operand)
        return -operand if isinstance(tree.op, ast.USub) else operand
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATIONS:
        return _OPERATIONS[type(tree.op)](_value(tree.left), _value(tree.right))
    raise ValueError("expected arithmetic on numbers")


def _written(value: Fraction) -> str:
    if abs(value) >= 10**MOST_DIGITS:
        raise ValueError("expected a smaller result")
    return str(value.numerator) if value.denominator == 1 else repr(float(value))
