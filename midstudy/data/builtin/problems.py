"""Generate word problems with worked solutions from templates.

Templates are in TOML files in this folder. A template's texts are sentences with slots. `{A}`, `{B}`, `{C}` are people
(`{he}`, `{his}`, `{him}`, `{He}`, `{His}` refer to A), `{toy}` and the other names of `NOUNS` are things, other names are
numbers. `<buys|gets>` is a choice, and ` | ` separates whole alternatives. In `work`, `[total=boxes*each]` writes the
calculation with its result, as in GSM8K `4 * 6 = <<4*6=24>>24` (Cobbe et al. 2021), and names the result; `[$cost=...]` puts
a dollar sign before the result. The last result is the answer, so a solution's arithmetic is correct by construction.
"""

from __future__ import annotations

import ast
import operator
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.problem_words import ASIDES, NOUNS, NUMBER_WORDS, OPENINGS, PEOPLE

MAX_DRAWS = 400
"""Attempts to draw numbers that satisfy a template's conditions before the template is considered wrong."""


@dataclass(frozen=True)
class Template:
    """One kind of problem.

    `numbers` is a list of `name low-high`, `name low-high/step`, `name = expression` and `need condition`, separated by `;`
    and evaluated in order. If `shuffled`, the sentences of `story` after the first are in random order.
    """

    name: str
    numbers: str
    story: tuple[str, ...]
    ask: str
    work: tuple[str, ...]
    shuffled: bool = False


def templates(file: str, key: str) -> tuple[Template, ...]:
    """Return the templates under a key of a TOML file of this package, in file order."""
    tables = tomllib.loads(Path(__file__).with_name(file).read_text("utf-8"))[key]
    return tuple(Template(**table | {"story": tuple(table["story"]), "work": tuple(table["work"])}) for table in tables)


@dataclass(frozen=True)
class Problem:
    """A question, its worked answer ending in `#### result`, and the name of its template."""

    question: str
    answer: str
    template: str


def problem(template: Template, draw: Draw, asides: str) -> Problem:
    """Generate one problem from a template.

    Args:
        asides: pool of irrelevant sentences, `corpus` or `task`; the two have none in common.
    """
    numbers = _draw_numbers(template, draw)
    cast = _cast(draw)
    as_words = draw.chance(15)

    def fill(text: str, *, spoken: bool) -> str:
        return _fill(_choose(text, draw), numbers, cast, draw, spoken=spoken and as_words)

    story = [fill(sentence, spoken=True) for sentence in template.story]
    if template.shuffled:
        story = [story[0], *draw.shuffled(story[1:])]
    if draw.chance(25):
        story[0] = f"{draw.choice(OPENINGS[asides])}, {_lower_start(story[0], cast)}"
    if draw.chance(30):
        story.insert(1, fill(draw.choice(ASIDES[asides]), spoken=True))
    ask = fill(template.ask, spoken=True)
    sign = draw.choice((" * ", " * ", "*", " x "))
    lines, result = [], 0
    for step in template.work:
        text = _choose(step, draw)
        while (match := _CALCULATION.search(text)) is not None:
            result = _whole(evaluate(match["expression"], numbers), template.name)
            shown = re.sub(r"[a-z_]+", lambda name: str(numbers[name[0]]), match["expression"])
            compact = shown.replace(" ", "")
            spaced = re.sub(r"([+*/-])", r" \1 ", compact) if sign != "*" else compact
            spaced = spaced.replace(" * ", sign)
            equals = " = " if sign != "*" else "="
            numbers[match["name"]] = result
            calculation = f"{spaced}{equals}{match['money']}<<{compact}={result}>>{result}"
            text = f"{text[: match.start()]}{calculation}{text[match.end() :]}"
        lines.append(_fill(text, numbers, cast, draw, spoken=False))
    return Problem(f"{' '.join(story)} {ask}", "\n".join([*lines, f"#### {result}"]), template.name)


_CALCULATION = re.compile(r"\[(?P<money>\$?)(?P<name>[a-z_]+)=(?P<expression>[^\]]+)\]")
_SLOT = re.compile(r"\{([A-Za-z_0-9]+)\}")
_CHOICE = re.compile(r"<([^<>]*\|[^<>]*)>")


def _choose(text: str, draw: Draw) -> str:
    return _CHOICE.sub(lambda match: draw.choice(match[1].split("|")), draw.choice(text.split(" | ")))


def _cast(draw: Draw) -> dict[str, str]:
    (first, pronoun), *others = draw.sample(PEOPLE, 3)
    he, his, him = ("he", "his", "him") if pronoun == "he" else ("she", "her", "her")
    cast = {"A": first, "B": others[0][0], "C": others[1][0]}
    return cast | {"he": he, "his": his, "him": him, "He": he.title(), "His": his.title()}


def _fill(text: str, numbers: Mapping[str, int], cast: dict[str, str], draw: Draw, *, spoken: bool) -> str:
    def value(match: re.Match[str]) -> str:
        slot = match[1]
        if slot in numbers:
            number = numbers[slot]
            after_dollar = match.start() > 0 and text[match.start() - 1] == "$"
            return NUMBER_WORDS[number] if spoken and number in NUMBER_WORDS and not after_dollar else str(number)
        if slot not in cast:
            kind = slot.rstrip("0123456789")
            taken = {word for name, word in cast.items() if name.rstrip("0123456789") == kind}
            cast[slot] = draw.choice([word for word in NOUNS[kind] if word not in taken])
        return cast[slot]

    filled = _SLOT.sub(value, text)
    return filled[:1].upper() + filled[1:]


def _lower_start(sentence: str, cast: Mapping[str, str]) -> str:
    is_name = any(sentence.startswith(cast[person]) for person in "ABC")
    return sentence if is_name or not sentence[1:2].islower() else sentence[:1].lower() + sentence[1:]


def _draw_numbers(template: Template, draw: Draw) -> dict[str, int]:
    for _ in range(MAX_DRAWS):
        numbers: dict[str, int] = {}
        for clause in template.numbers.split(";"):
            clause = clause.strip()
            if clause.startswith("need "):
                if not evaluate(clause[5:], numbers):
                    break
            elif "=" in clause:
                name, expression = clause.split("=", 1)
                value = Fraction(evaluate(expression, numbers))
                if value.denominator != 1:
                    break
                numbers[name.strip()] = int(value)
            else:
                name, bounds = clause.split()
                bounds, _, step = bounds.partition("/")
                low, high = (int(bound) for bound in bounds.split("-"))
                numbers[name] = low + int(step or 1) * draw.below((high - low) // int(step or 1) + 1)
        else:
            return numbers
    raise AssertionError(f"template {template.name}: no numbers satisfy its conditions in {MAX_DRAWS} draws")


_OPERATORS: dict[type, Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@cache
def _parsed(expression: str) -> ast.expr:
    return ast.parse(expression.strip(), mode="eval").body


def evaluate(expression: str, numbers: Mapping[str, int]) -> Fraction:
    """Return the exact value of an arithmetic expression over named integers; 0 or 1 for a comparison."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Compare):
            return _OPERATORS[type(node.ops[0])](value(node.left), value(node.comparators[0]))
        if isinstance(node, ast.Name):
            return Fraction(numbers[node.id])
        assert isinstance(node, ast.Constant), f"not arithmetic: {expression}"
        assert isinstance(node.value, int), f"not a whole number: {expression}"
        return Fraction(node.value)

    return value(_parsed(expression))


def _whole(value: Fraction, template: str) -> int:
    assert (value.denominator, value >= 0) == (1, True), f"template {template}: a step's result is {value}"
    return int(value)
