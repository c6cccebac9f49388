"""Dependencies point one way: a room (package) imports only rooms on lower floors (README, "The house")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.places import REPOSITORY

FLOORS = (
    ("files", "environment", "streams"),
    ("recipe",),
    ("store", "model", "similarity"),
    ("data",),
    ("plan", "train", "prepare"),
    ("evaluate",),
    ("analysis", "execute", "track", "export"),
    ("report", "launch"),
    ("run", "studies"),
    ("flows",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """`recipe` of `midstudy.recipe.phase`."""
    return module.split(".")[1]


def imports_of(source: str) -> Iterator[str]:
    """Yield the modules of this project that a source text imports, including imports inside functions."""
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("midstudy."):
                yield name


def upward(module: str, source: str) -> list[str]:
    """Return the imports of a module that do not lead to a lower floor."""
    own = room_of(module)
    return [name for name in imports_of(source) if room_of(name) != own and FLOOR_OF[room_of(name)] >= FLOOR_OF[own]]


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join(path.relative_to(REPOSITORY).with_suffix("").parts), path)
        for path in (REPOSITORY / "midstudy").rglob("*.py")
        if path.parent.name != "midstudy"
    ]


def test_the_list_of_floors_names_exactly_the_existing_rooms():
    rooms = {room_of(module) for module, _ in modules()}
    alone = {path.stem for path in (REPOSITORY / "midstudy").glob("*.py")} - {"__init__"}
    assert rooms | alone == {*FLOOR_OF}


def test_a_room_imports_only_lower_floors():
    sources = modules()
    assert len(sources) > 100
    assert {module: names for module, path in sources if (names := upward(module, path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from midstudy.plan.planner import make_plan", ["midstudy.plan.planner"]),
        ("def f():\n    import midstudy.run.study", ["midstudy.run.study"]),
        ("from midstudy.recipe.phase import Phase\nfrom midstudy.store.paths import is_name\nimport torch", []),
    ],
)
def test_an_import_from_a_higher_floor_is_detected(source: str, expected: list[str]):
    assert upward("midstudy.store.store", source) == expected


def test_only_flows_imports_prefect():
    for module, path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert room_of(module) == "flows" or not any(name.partition(".")[0] == "prefect" for name in names), module


def test_analysis_and_report_do_not_import_torch():
    for module, path in modules():
        if room_of(module) in ("analysis", "report"):
            assert "import torch" not in path.read_text("utf-8"), module


NAMES = ("pycode", "word_problems", "science_qa", "long_form", "hqweb", "sft_loss", "general_loss", "control", "bridging")
"""Mixes, tasks, columns and the name of the bridging study; `code` and `math` also mean other things and are left out."""


def text_literals(source: str) -> Iterator[str]:
    """Yield the string literals of a source text, except docstrings."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_only_studies_name_a_mix_a_task_or_a_column_of_a_study():
    """Exception: data/builtin/ names its own parts."""
    offenders: dict[str, list[str]] = {}
    for module, path in modules():
        if module.startswith(("midstudy.studies.", "midstudy.data.builtin.")):
            continue
        named = [name for name in NAMES for text in text_literals(path.read_text("utf-8")) if text == name]
        if named:
            offenders[module] = named
    assert offenders == {}


def test_a_column_named_in_a_study_is_detected():
    assert "sft_loss" in list(text_literals((REPOSITORY / "midstudy/studies/bridging/scale.py").read_text("utf-8")))
