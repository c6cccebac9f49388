"""Load an experiment file and call its `study(...)` with the command line's settings."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, get_type_hints

from midstudy.data.data_args import DataChoice
from midstudy.plan.steps_of import StepsOf
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.study import Study

GIVEN = ("data", "steps_of")
"""Keywords of `study(...)` that midstudy gives, not the user."""


def load_study(
    path: Path, *, data: Sequence[str] = (), settings: Sequence[str] = (), steps_of: StepsOf | None = None
) -> Study:
    """Return the study of the experiment file at `path`.

    Args:
        data: `--data` arguments; see `DataChoice`.
        settings: `KEYWORD=VALUE` arguments for `study(...)`. A value is a Python literal; anything else is text.
        steps_of: lengths of whole epochs, for a `study(...)` with that keyword; by default estimates.

    Raises:
        RecipeError: there is no such file or no `study` function, a keyword is unknown, or a field of the study is invalid.
        ValueError: the experiment file itself raises; the message quotes the line.
    """
    with contextlib.redirect_stdout(sys.stderr):  # keep the file's own prints out of the output of `plan --json`
        build = _study_function(path)
        keywords = _keywords(build, path, settings)
        choice = DataChoice(data)
        has_steps_of = "steps_of" in inspect.signature(build).parameters
        given = {"steps_of": steps_of or StepsOf()} if has_steps_of else {}
        try:
            study = build(data=choice, **given, **keywords)
        except RecipeError:
            raise
        except (Exception, SystemExit) as error:
            raise _inside_experiment(path, error) from error
    if not isinstance(study, Study):
        raise RecipeError(f"{path.name}.study", expected="a function that returns a Study", got=type(study).__name__)
    choice.notes()  # raises if a --data name is not one of the experiment's
    return study


def study_parameters(path: Path) -> dict[str, inspect.Parameter]:
    """Return the keywords of an experiment's `study(...)` that a user can set, with their types and defaults.

    Raises:
        RecipeError: there is no such file or no `study` function.
        ValueError: the experiment file itself raises; the message quotes the line.
    """
    build = _study_function(path)
    types = get_type_hints(build)
    return {
        name: parameter.replace(annotation=types.get(name, Any))
        for name, parameter in inspect.signature(build).parameters.items()
        if name not in GIVEN
    }


def study_docstring(path: Path) -> str:
    """Return the docstring of an experiment's `study(...)`, empty without one; it says what the keywords mean.

    Raises: as `study_parameters`.
    """
    return inspect.getdoc(_study_function(path)) or ""


def _study_function(path: Path) -> Callable[..., Study]:
    if not path.is_file():
        raise RecipeError("experiment", expected="an existing Python file that defines study(...)", got=str(path))
    loader = SourceFileLoader(f"midstudy_experiment_{path.stem}", str(path))  # works for any file extension
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    try:
        loader.exec_module(module)
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:
        raise _inside_experiment(path, error) from error
    build = getattr(module, "study", None)
    if not callable(build):
        raise RecipeError(
            f"{path.name}.study", expected="def study(*, data, ...) -> midstudy.recipe.Study", got="no such function"
        )
    return build


def _keywords(build: Callable[..., Study], path: Path, settings: Sequence[str]) -> dict[str, Any]:
    known = [name for name in inspect.signature(build).parameters if name not in GIVEN]
    keywords: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise RecipeError("--set", expected="KEYWORD=VALUE", got=setting)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise RecipeError(
                f"--set {name}",
                expected=f"a keyword of study(...) in {path.name} ({', '.join(known)})",
                got=name,
                fix=f"Did you mean {close[0]}?" if close else "",
            )
        try:
            keywords[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two: nested too deeply
            keywords[name] = text
        default = inspect.signature(build).parameters[name].default
        if isinstance(default, bool | int | float) and isinstance(keywords[name], str):
            raise RecipeError(f"--set {name}", expected=f"a Python {type(default).__name__}, such as {default!r}", got=text)
        if isinstance(default, str):
            keywords[name] = text.strip("'\"")
        if isinstance(default, tuple) and not isinstance(keywords[name], tuple | list):
            keywords[name] = (keywords[name],)
        elif isinstance(keywords[name], list):
            keywords[name] = tuple(keywords[name])
    return keywords


def _inside_experiment(path: Path, error: BaseException) -> ValueError:
    """Return the error with the experiment's own line, so that no traceback through library code is needed."""
    frames = [
        (frame.lineno, frame.line) for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path
    ]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        frames.append((error.lineno, (error.text or "").strip()))
    number, line = frames[-1] if frames else (None, None)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, SystemExit):
        text = f"expected study(...) to return a study or to raise an error, got an exit with status {error.code!r}"
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return ValueError(f"{path}{f':{number}' if number else ''}: {kind}{text}" + (f"\n    {line}" if line else ""))
