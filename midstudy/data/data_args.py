"""The `--data` arguments: which source each corpus and task of an experiment reads.

`DIR` names a folder for all of them; `NAME=DIR`, `NAME=FILE`, `NAME=wheels` or `NAME=hub:OWNER/SET[:CONFIG]@COMMIT` sets the
source of one, with the fields that hold its text after it: `,text=FIELD` or `,prompt=FIELD,completion=FIELD`. A name given
several times, each time with `,share=NUMBER`, is one corpus of several sources; the shares of its bytes add up to 1. The
default is `wheels`, the built-in text from pinned packages. A corpus is in DIR/NAME, a task in the folder that the
experiment gives; without such a folder, the DIR of one NAME may be the data set itself. A source that cannot be read is an
error; there is no fallback.
"""

from __future__ import annotations

from collections.abc import Sequence

from midstudy.data.source import resolve_source, resolve_sources
from midstudy.data.source_argument import SourceArgument
from midstudy.recipe.data import Corpus, Source, SourceMix, Task, sources_of
from midstudy.recipe.errors import RecipeError

DEFAULT = "wheels"


class DataChoice:
    """The `--data` arguments of one command, resolved when the experiment requests a corpus or task by name.

    Raises:
        RecipeError: the default is given twice, a name is given twice without shares, or a name matches nothing in the
            experiment.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self._for_all: str | None = None
        self._for_one: dict[str, list[str]] = {}
        for argument in arguments:
            name, separator, value = argument.partition("=")
            if not name.strip() or (separator and not value.strip()):  # an unset shell variable expands to this
                raise RecipeError(
                    f"--data {name.strip()}".rstrip(),
                    expected="a folder, wheels or hub:OWNER/SET[:CONFIG]@COMMIT, or NAME= and one of these",
                    got="nothing" if not separator else repr(argument),
                    fix="Is a variable not set?",
                )
            if not separator:
                if self._for_all is not None:
                    raise RecipeError("--data", expected="one source for all, and NAME=SOURCE for others", got=argument)
                self._for_all = argument
            elif "," in name:  # DIR,text=FIELD
                raise RecipeError(
                    f"--data {argument}",
                    expected="fields and shares for one corpus or task, after NAME=SOURCE",
                    got="a source for all",
                )
            else:
                self._for_one.setdefault(name, []).append(value)
        for name, values in self._for_one.items():
            if len(values) > 1 and not any(SourceArgument.parse(value, name=name).share for value in values):
                expected = "each name once, or a share for each of its sources, such as share=0.7"
                raise RecipeError(f"--data {name}", expected=expected, got=" and ".join(values))
        self._notes: list[str] = []
        self._requested: list[str] = []

    def corpus(self, name: str, *, max_bytes: int | None, otherwise: Source | None = None) -> Corpus:
        """Return the corpus `name`, in folder `name` of a directory source; `otherwise` is its source by default."""
        source = self._source(name, folder=name, is_task=False, otherwise=otherwise)
        return Corpus(name=name, source=source, max_bytes=max_bytes)

    def task(self, name: str, *, folder: str, max_items: int | None, otherwise: Source | None = None) -> Task:
        """Return the task `name`, in `folder` of a directory source; `otherwise` is its source by default."""
        source = self._source(name, folder=folder, is_task=True, otherwise=otherwise)
        assert isinstance(source, Source)  # a task has one source
        return Task(name=name, source=source, max_items=max_items)

    def notes(self) -> tuple[str, ...]:
        """Return notes on the data for the reader of the plan: carved splits, unread files, unusual split names.

        Raises:
            RecipeError: `--data` names a corpus or task that the experiment does not have.
        """
        for name in self._for_one:
            if name not in self._requested:
                raise RecipeError(f"--data {name}", expected=f"one of {', '.join(self._requested)}", got=name)
        return tuple(self._notes)

    def _source(self, name: str, *, folder: str, is_task: bool, otherwise: Source | None) -> Source | SourceMix:
        self._requested.append(name)
        if otherwise is not None and name not in self._for_one and self._for_all is None:
            return otherwise
        if stated := self._for_one.get(name):
            source = resolve_sources(stated, name=name, folder=folder, is_task=is_task)
        else:
            source = resolve_source(self._for_all or DEFAULT, name=name, folder=folder, is_task=is_task)
        parts = sources_of(source)
        for part in parts:
            if part.note:
                self._notes.append(f"{name}: {f'{part}: ' if len(parts) > 1 else ''}{part.note}")
        return source
