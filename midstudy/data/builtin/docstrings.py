"""Extract documented definitions from the syntax tree of Python source, which is not imported."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from midstudy.data.builtin.packages import Archive

_TESTS = re.compile(
    r"(?:^|/)(?:tests?|testing|testsuite|_vendor|vendored|vendor|conftest|examples?)(?:/|\.py$)|(?:^|/)test_"
)


@dataclass(frozen=True)
class Definition:
    """A documented module, class or function.

    `docstring` is without indentation. `source` is the definition from its `def` or `class` line, without indentation and
    docstring; it is empty for modules and for definitions that consist of a docstring only.
    """

    module: str
    name: str
    kind: str
    docstring: str
    source: str


def modules(archive: Archive, under: str = "") -> Iterator[str]:
    """Yield the names of a wheel's Python files below a folder, in sorted order, without tests and vendored code."""
    for name in archive.names:
        if name.endswith(".py") and name.startswith(under) and not _TESTS.search(name):
            yield name


def definitions(archive: Archive, module: str) -> Iterator[Definition]:
    """Yield the documented definitions of one file, in file order, without nested functions."""
    text = archive.text(module)
    with warnings.catch_warnings():
        # Old packages have "\d" in plain strings, for which newer Python versions warn.
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
    yield from _documented(tree, "", module, text.split("\n"))


def _documented(node: ast.AST, prefix: str, module: str, lines: list[str]) -> Iterator[Definition]:
    assert isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    literal = _docstring_node(node)
    if literal is not None:
        kind = {"Module": "module", "ClassDef": "class"}.get(type(node).__name__, "function")
        source = "" if isinstance(node, ast.Module) else _source(node, literal, lines)
        yield Definition(module, prefix, kind, dedented(literal.value.value), source)  # type: ignore[attr-defined]
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _documented(child, f"{prefix}.{child.name}".lstrip("."), module, lines)


def _docstring_node(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.Expr | None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def _source(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, literal: ast.Expr, lines: list[str]) -> str:
    if len(node.body) == 1:
        return ""
    assert node.end_lineno
    assert literal.end_lineno
    kept = lines[node.lineno - 1 : literal.lineno - 1] + lines[literal.end_lineno : node.end_lineno]
    indent = " " * node.col_offset
    return "\n".join(line.removeprefix(indent).rstrip() for line in kept).strip("\n")


def dedented(docstring: str) -> str:
    """Remove the common indentation of all lines but the first, and blank lines at both ends (PEP 257).

    Implemented here because Python 3.13 changed its handling of docstrings.
    """
    lines = docstring.expandtabs().split("\n")
    margins = [len(line) - len(line.lstrip(" ")) for line in lines[1:] if line.strip()]
    margin = min(margins, default=0)
    return "\n".join([lines[0].strip(), *(line[margin:].rstrip() for line in lines[1:])]).strip("\n")
