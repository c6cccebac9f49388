"""Which source each corpus and task of an experiment reads: what `--data` says, and nothing else.

`DIR` names a folder for all of them, `NAME=DIR`, `NAME=wheels` or `NAME=hub:OWNER/SET[:CONFIG]@COMMIT` one of them; without
any, all come from the pinned wheels. A corpus lives in DIR/NAME, a task in the folder the experiment gives. Nothing falls
back to another source.
"""

from __future__ import annotations

from collections.abc import Sequence

from midstudy.data.source import resolve_source
from midstudy.recipe.data import Corpus, Source, Task
from midstudy.recipe.errors import RecipeError

DEFAULT = "wheels"


class DataChoice:
    """The `--data` arguments of one command, resolved as the experiment asks for its corpora and tasks by name.

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
                    got="nothing" if not separator else repr(argument),
                    expected="a folder, wheels or hub:OWNER/SET[:CONFIG]@COMMIT, or NAME= and one of these",
                    fix="Is a variable not set?",
                )
            if not separator:
                if self._for_all is not None:
                    raise RecipeError("--data", got=argument, expected="one source for all; NAME=SOURCE for others")
                self._for_all = argument
            elif name in self._for_one:
                raise RecipeError(f"--data {name}", got=argument, expected="each name once")
            else:
                self._for_one[name] = value
        self._notes: list[str] = []
        self._asked: list[str] = []

    def corpus(self, name: str, *, max_bytes: int | None) -> Corpus:
        """The corpus called `name`, in folder `name` of a directory source."""
        return Corpus(name=name, source=self._source(name, folder=name, is_task=False), max_bytes=max_bytes)

    def task(self, name: str, *, folder: str, max_items: int | None) -> Task:
        """The task called `name`, in `folder` of a directory source."""
        return Task(name=name, source=self._source(name, folder=folder, is_task=True), max_items=max_items)

    def notes(self) -> tuple[str, ...]:
        """What a reader of the plan must know of the data: every split that was carved from another.

        Raises:
            RecipeError: `--data` named something that the experiment does not have.
        """
        for name in self._for_one:
            if name not in self._asked:
                raise RecipeError(f"--data {name}", got=name, expected=", ".join(self._asked))
        return tuple(self._notes)

    def _source(self, name: str, *, folder: str, is_task: bool) -> Source:
        self._asked.append(name)
        argument = self._for_one.get(name) or self._for_all or DEFAULT
        source = resolve_source(argument, name=name, folder=folder, is_task=is_task)
        if source.note:
            self._notes.append(f"{name}: {source.note}")
        return source
