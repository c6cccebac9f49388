"""NAME=SOURCE arguments of `midstudy compare` and `recommend`: the text of a corpus or task, read document by document.

A source is what `--data` takes, or one file, all of whose rows are read. `wheels` and a folder are read by the name: NAME is
a corpus or task of the wheels, or the folder NAME or sft/NAME. A folder that holds the train split itself is read as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.data import builtin
from midstudy.data.builtin.prepare import frozen_manifest
from midstudy.data.digests import file_digest
from midstudy.data.file_sequence import FileSequence
from midstudy.data.rows import as_example, as_text
from midstudy.data.source import load_rows, resolve_source
from midstudy.data.source_files import FileRows, files_of
from midstudy.data.split_files import ENDINGS, ending_of, split_files
from midstudy.data.splits import split_of_row
from midstudy.recipe.data import Corpus, Source, Task
from midstudy.recipe.errors import RecipeError, require_name

_EXPECTED = "NAME=SOURCE with a folder, a file, wheels or hub:OWNER/SET[:CONFIG]@COMMIT"


@dataclass(frozen=True)
class NamedText:
    """The train text of one source. `path` is a single file, which has no splits; its source is `None`.

    `revision` is the digest of the files or of the list of wheels, or the Hub's commit.
    """

    name: str
    argument: str
    source: Source | None
    path: Path | None
    is_task: bool
    revision: str

    @property
    def size_bytes(self) -> int | None:
        """Bytes of the files that are read, compressed if it is; `None` if unknown before it is fetched."""
        if self.source is None or self.source.kind == "files":
            place = self.path or Path(self.source.location if self.source else "")
            return sum(path.stat().st_size for path in split_files(place, "train")) or None
        if self.source.kind == "wheels":
            return int(frozen_manifest()["parts"][self.source.part]["splits"]["train"]["bytes"])
        return None

    def documents(self, on_read: Callable[[float], None] = lambda share: None, *, split: str = "train") -> Iterator[str]:
        """Yield the documents, stripped, without blank ones. The text of a task item is its prompt and target.

        All rows of a single file are its train split; its dev split is those of them that a folder without a dev file would
        give to dev.

        Raises:
            ValueError: a row is damaged or has other fields, a single file is asked for its test split, or the text has
                changed since the argument was resolved.
        """
        if self.path is not None:
            rows = FileSequence([self.path], on_read=on_read).rows()
            if split == "test":
                raise ValueError(f"{self.name}: expected a source with a test split, got the single file {self.path}.")
            if split == "dev":
                rows = ((where, row) for where, row in rows if split_of_row(row, carved=("dev",), is_task=False) == "dev")
            texts = (as_text(row, where) for where, row in rows)
        else:
            texts = (text for _, text in self._rows_of_source(split, on_read))
        yield from filter(None, map(str.strip, texts))

    @property
    def num_train_files(self) -> int:
        """The number of train files of a folder, each of which can be read alone (`FileText`); 0 for other sources."""
        if self.source is None or self.source.kind != "files":
            return 0
        return len(split_files(Path(self.source.location), "train"))

    def located_documents(self, on_read: Callable[[float], None] = lambda share: None) -> Iterator[tuple[str, str]]:
        """Yield FILE:LINE, or NAME train:ROW of wheels and the Hub, and the document of every row, blank ones too.

        Of a folder, all rows of its train files, also those that are carved from it for other splits.

        Raises:
            ValueError: as for `documents`.
        """
        if self.path is None and (self.source is None or self.source.kind != "files"):
            yield from self._rows_of_source("train", on_read)
            return
        place = self.path or Path(self.source.location if self.source else "")
        for where, row in FileSequence(split_files(place, "train"), on_read=on_read).rows():
            yield where, (_item_text(row, where) if self.is_task else as_text(row, where))

    def _rows_of_source(self, split: str, on_read: Callable[[float], None]) -> Iterator[tuple[str, str]]:
        assert self.source is not None
        rows = load_rows(self.source, split=split, is_task=self.is_task, on_read=on_read)
        for number, row in enumerate(rows, start=1):
            where = f"{self.name} {split}:{number}"
            yield where, (_item_text(row, where) if self.is_task else as_text(row, where))


class FileText:
    """The documents of one train file of a folder, as `NamedText.documents` yields them.

    Args:
        number: of the file, in the order of reading.
    """

    def __init__(self, text: NamedText, number: int) -> None:
        assert text.source is not None
        data = (Task if text.is_task else Corpus)(name=text.name, source=text.source)
        source_files = files_of(data)
        assert source_files is not None
        self._files, self.file, self._is_task = source_files, source_files.files[number], text.is_task
        self._rows = FileRows(text.source, self.file, is_task=text.is_task)
        self.digest = ""
        """SHA-256 of the file, after the iteration."""

    def __iter__(self) -> Iterator[str]:
        for row in self._rows:
            if self._files.split_of(row, self.file, is_task=self._is_task) == "train":
                document = _item_text(row, self.file.name) if self._is_task else as_text(row, self.file.name)
                if stripped := document.strip():
                    yield stripped
        self.digest = self._rows.finish()


def _item_text(row: Mapping[str, Any], where: str) -> str:
    item = as_example(row, where)
    return item.prompt + item.target


def named_texts(arguments: Sequence[str]) -> list[NamedText]:
    """Resolve NAME=SOURCE arguments; nothing is fetched.

    Raises:
        RecipeError: an argument has another form, a name is given twice, or there are fewer than two.
        ValueError: a file, folder, split or part is missing.
    """
    found: dict[str, NamedText] = {}
    for argument in arguments:
        text = named_text(argument, where="compare")
        if text.name in found:
            raise RecipeError(f"compare.{text.name}", expected="each name once", got=argument, fix="Rename one of the two.")
        found[text.name] = text
    if len(found) < 2:
        raise RecipeError("compare", expected="at least two corpora, each as NAME=SOURCE", got=f"{len(found)}")
    return list(found.values())


def named_text(argument: str, *, where: str) -> NamedText:
    """Resolve one NAME=SOURCE argument; nothing is fetched.

    Args:
        where: how messages name the option.

    Raises:
        RecipeError: the argument has another form.
        ValueError: a file, folder, split or part is missing.
    """
    name, separator, value = argument.partition("=")
    if not separator or not name.strip() or not value.strip():
        raise RecipeError(where, expected=_EXPECTED, got=argument or "nothing", fix="Is a variable not set?")
    require_name(f"{where}.name", name)
    if value == "wheels":
        source = resolve_source(value, name=name, folder=name, is_task=name in builtin.TASKS)
        return NamedText(name, value, source, None, name in builtin.TASKS, source.revision)
    if value.startswith("hub:"):
        source = resolve_source(value, name=name, folder=name, is_task=False)
        return NamedText(name, value, source, None, False, source.revision)
    path = Path(os.path.expanduser(value))
    if path.is_file():
        if ending_of(path) is None:
            raise RecipeError(f"{where}.{name}", expected=f"a file that ends in {' or '.join(ENDINGS)}", got=value)
        return NamedText(name, value, None, path.absolute(), False, file_digest(path))
    if not path.exists():
        raise RecipeError(f"{where}.{name}", expected=_EXPECTED, got=f"{value}, which does not exist")
    is_task = not (path / name).is_dir() and (path / "sft" / name).is_dir()
    source = resolve_source(value, name=name, folder=f"sft/{name}" if is_task else name, is_task=is_task, may_be_itself=True)
    return NamedText(name, value, source, None, is_task, source.revision)
