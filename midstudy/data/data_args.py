"""The `--data` arguments: which source each corpus and task of an experiment reads.

`DIR` names a folder for all of them; `NAME=DIR`, `NAME=wheels` or `NAME=hub:OWNER/SET[:CONFIG]@COMMIT` sets the source of
one. The default is `wheels`, the built-in text from pinned packages. A corpus is in DIR/NAME, a task in the folder that the
experiment gives. A source that cannot be read is an error; there is no fallback.
"""

from __future__ import annotations

from collections.abc import Sequence

from midstudy.data.source import resolve_source
from midstudy.recipe.data import Corpus, Source, Task
from midstudy.recipe.errors import RecipeError

DEFAULT = "wheels"


class DataChoice:
    """The `--data` arguments of one command, resolved when the experiment requests a corpus or task by name.

    Raises:
        RecipeError: a name or the default is given twice, or a name matches nothing in the experiment.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self._for_all: str | None = None
        self._for_one: dict[str, str] = {}
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
            elif name in self._for_one:
                raise RecipeError(f"--data {name}", expected="each name once", got=argument)
            else:
                self._for_one[name] = value
        self._notes: list[str] = []
        self._requested: list[str] = []

    def corpus(self, name: str, *, max_bytes: int | None) -> Corpus:
        """Return the corpus `name`, in folder `name` of a directory source."""
        return Corpus(name=name, source=self._source(name, folder=name, is_task=False), max_bytes=max_bytes)

    def task(self, name: str, *, folder: str, max_items: int | None) -> Task:
        """Return the task `name`, in `folder` of a directory source."""
        return Task(name=name, source=self._source(name, folder=folder, is_task=True), max_items=max_items)

    def notes(self) -> tuple[str, ...]:
        """Return notes on the data for the reader of the plan: carved splits, unread files, unusual split names.

        Raises:
            RecipeError: `--data` names a corpus or task that the experiment does not have.
        """
        for name in self._for_one:
            if name not in self._requested:
                raise RecipeError(f"--data {name}", expected=f"one of {', '.join(self._requested)}", got=name)
        return tuple(self._notes)

    def _source(self, name: str, *, folder: str, is_task: bool) -> Source:
        self._requested.append(name)
        argument = self._for_one.get(name) or self._for_all or DEFAULT
        source = resolve_source(argument, name=name, folder=folder, is_task=is_task)
        if source.note:
            self._notes.append(f"{name}: {source.note}")
        return source
