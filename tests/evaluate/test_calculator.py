"""The calculator computes arithmetic and counts letters, and has no answer to anything else."""

from __future__ import annotations

import ast
import random
import string
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstudy.evaluate import calculator
from midstudy.evaluate.calculator import calculated


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("3+4", "7"),
        (" 2 * (3 - 5) ", "-4"),
        ("1,234,567 + 1", "1234568"),
        ("6/3", "2"),
        ("1/4", "0.25"),
        ("10/3", "3.3333333333333335"),
        ("0.1+0.2", "0.3"),
        ("-3--4", "1"),
        ("'strawberry'.count('r')", "3"),
        ('"a,b,a".count("a")', "2"),
        ("'aaa'.count('aa')", "1"),
    ],
)
def test_arithmetic_is_exact_and_letters_are_counted(expression: str, answer: str) -> None:
    assert calculated(expression) == answer


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "x",
        "2**9999999",
        "9**9",
        "7//2",
        "7%2",
        "1<2",
        "~1",
        "True",
        "1j",
        "1e400",
        "1/0",
        "'a'",
        "'a'*3",
        "'a'+'b'",
        "f'{1}'",
        "[1]",
        "(1).__class__",
        "__import__('os').system('true')",
        "'a'.upper()",
        "'a'.count('a', 0)",
        "'a'.count(x)",
        "'a'.count('a') + 1",
        "''.join('a')",
        "len('a')",
        "print(1)",
        "(lambda: 1)()",
        "1 if 1 else 2",
        "9" * 41,
        "*".join(["9" * 39] * 3),
        "1" + "+1" * 100,
        "(" * 90 + "1" + ")" * 90 + "1",
        "1\n2",
        "1;2",
        "'\\d'.count",
    ],
)
def test_anything_else_has_no_answer(expression: str) -> None:
    assert calculated(expression) is None


NUMBERS = st.integers(0, 10**6).map(str) | st.tuples(st.integers(0, 999), st.integers(0, 99)).map(
    lambda p: f"{p[0]}.{p[1]:02}"
)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda p: f"({p[0]}{p[1]}{p[2]})")
        | inner.map(lambda one: f"-{one}")
    ),
    max_leaves=5,
)


def by_fractions(tree: ast.expr) -> Fraction:
    """Return the value of an expression, with operators of Python's own on fractions."""
    code = ast.unparse(_Fractions().visit(ast.Expression(tree)))
    return eval(code, {"Fraction": Fraction})


class _Fractions(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Call(ast.Name("Fraction"), [ast.Constant(repr(node.value))], [])


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS)
def test_results_equal_those_of_fractions(expression: str) -> None:
    try:
        expected = by_fractions(ast.parse(expression, mode="eval").body)
    except ZeroDivisionError:
        assert calculated(expression) is None
        return
    answer = calculated(expression)
    if len(expression) <= calculator.MOST_CHARACTERS and abs(expected) < 10**calculator.MOST_DIGITS:
        assert answer is not None
        assert float(answer) == float(expected)
        assert ("." in answer or "e" in answer) == (expected.denominator != 1)


FRAGMENTS = [
    *string.printable,
    *"0123456789+-*/()" * 4,
    "count",
    "'r'",
    ".count(",
    "__",
    "import",
    "lambda",
    "**",
    "'straw'",
]


def test_of_ten_thousand_texts_only_arithmetic_and_counts_have_an_answer() -> None:
    """What has an answer holds nothing but numbers, signs and parentheses, or is one count of a literal in a literal."""
    rng, num_answers = random.Random(0), 0
    for _ in range(10_000):
        text = "".join(rng.choices(FRAGMENTS, k=rng.randint(1, 10)))
        answer = calculated(text)
        if answer is None:
            continue
        num_answers += 1
        float(answer)
        tree = ast.parse(text.strip(), mode="eval").body if ".count(" in text else None
        if isinstance(tree, ast.Call):
            assert [type(node) for node in ast.walk(tree)].count(ast.Constant) == 2
            assert not any(isinstance(node, ast.Name) for node in ast.walk(tree))
        else:
            nodes = ast.walk(ast.parse(text.strip().replace(",", ""), mode="eval"))
            allowed = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)
            assert all(isinstance(node, allowed) for node in nodes)
    assert num_answers > 100
