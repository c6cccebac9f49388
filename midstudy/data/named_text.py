"""NAME=SOURCE arguments of `midstudy compare` and `recommend`: the text of a corpus or task, read document by document.

A source is what `--data` takes, with declared fields and shares (`source_argument.py`), or one file, all of whose rows are
read. `wheels` and a folder are read by the name: NAME is a corpus or task of the wheels, or the folder NAME or sft/NAME. A
folder that holds the train split itself is read as it is. The sources of a mix are read as `--data` reads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.data import builtin
from midstudy.data.digests import file_digest
from midstudy.data.file_sequence import FileSequence
from midstudy.data.rows import as_example, as_text, with_fields
from midstudy.data.source import load_rows, resolve_source, resolve_sources
from midstudy.data.source_argument import SourceArgument
from midstudy.data.source_files import FileRows, files_of
from midstudy.data.split_files import ENDINGS, ending_of, split_files
from midstudy.data.splits import split_of_row
from midstudy.recipe.canonical import identify
from midstudy.recipe.data import Corpus, Source, SourceMix, Task, sources_of
from midstudy.recipe.errors import RecipeError, require_name

_EXPECTED = "NAME=SOURCE with a folder, a file, wheels or hub:OWNER/SET[:CONFIG]@COMMIT"

_Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NamedText:
    """The train text of one source or of a mix. `path` is a single file, which has no splits; its source is `None`.

    `values` are the arguments after NAME=, one for each source of a mix. `revision` is the digest of the files or of the
    list of wheels, the Hub's commit, or the id of a mix. `fields` are those declared of a single file.
    """

    name: str
    values: tuple[str, ...]
    source: Source | SourceMix | None
    path: Path | None
    is_task: bool
    revision: str
    fields: _Fields = ()

    @property
    def argument(self) -> str:
        """The source as it was given."""
        return " + ".join(self.values)

    @property
    def size_bytes(self) -> int | None:
        """Bytes of the files that are read, compressed if it is; `None` if unknown before it is fetched."""
        if self.path is not None:
            return self.path.stat().st_size or None
        sizes = [_size_bytes(source) for source in sources_of(self._source)]
        return None if None in sizes else sum(size or 0 for size in sizes) or None

    @property
    def identity(self) -> list[Any]:
        """What the text depends on, as plain data, for the keys of caches."""
        if self.path is not None:
            return [self.revision, self.is_task, "file", *map(list, self.fields)]
        if isinstance(self.source, SourceMix):
            return [self.revision, self.is_task, "mix"]
        source = sources_of(self._source)[0]
        return [self.revision, self.is_task, source.kind, source.part, source.config, *map(list, source.fields)]

    @property
    def place(self) -> str:
        """The file or folder, or those of a mix; empty for wheels and the Hub."""
        return str(self.path or " + ".join(source.location for source in sources_of(self._source)))

    def study_values(self) -> tuple[str, ...] | None:
        """Return the values of `--data NAME=...` with which a study reads the text; `None` if it cannot.

        It cannot read a folder of another name.
        """
        if self.path is not None:
            return (f"{self.path}{''.join(f',{key}={field}' for key, field in self.fields)}",)
        if not isinstance(self.source, Source) or self.source.kind != "files":
            return self.values
        folder = Path(self.source.location)
        declared = "".join(f",{key}={field}" for key, field in self.source.fields)
        if self.is_task:
            return (f"{folder.parent.parent}{declared}",)
        return (f"{folder.parent}{declared}",) if folder.name == self.name else None

    @property
    def _source(self) -> Source | SourceMix:
        assert self.source is not None
        return self.source

    def documents(self, on_read: Callable[[float], None] = lambda share: None, *, split: str = "train") -> Iterator[str]:
        """Yield the documents, stripped, without blank ones. The text of a task item is its prompt and target.

        All rows of a single file are its train split; its dev split is those of them that a folder without a dev file would
        give to dev.

        Raises:
            ValueError: a row is damaged or has other fields, a single file is asked for its test split, or the text has
                changed since the argument was resolved.
        """
        if self.path is not None:
            if split == "test":
                raise ValueError(f"{self.name}: expected a source with a test split, got the single file {self.path}.")
            rows = _file_rows([self.path], self.fields, on_read)
            if split == "dev":
                rows = ((where, row) for where, row in rows if split_of_row(row, carved=("dev",), is_task=False) == "dev")
            texts = (as_text(row, where) for where, row in rows)
        else:
            texts = (text for _, text in self._rows_of_source(split, on_read))
        yield from filter(None, map(str.strip, texts))

    @property
    def num_train_files(self) -> int:
        """The number of train files of a folder, each of which can be read alone (`FileText`); 0 for other sources."""
        if not isinstance(self.source, Source) or self.source.kind != "files":
            return 0
        return len(split_files(Path(self.source.location), "train"))

    def located_documents(self, on_read: Callable[[float], None] = lambda share: None) -> Iterator[tuple[str, str]]:
        """Yield FILE:LINE, or NAME train:ROW of wheels, the Hub and mixes, and the document of every row, blank ones too.

        Of a folder, all rows of its train files, also those that are carved from it for other splits.

        Raises:
            ValueError: as for `documents`.
        """
        if self.path is not None:
            rows = _file_rows([self.path], self.fields, on_read)
        elif isinstance(self.source, Source) and self.source.kind == "files":
            rows = _file_rows(split_files(Path(self.source.location), "train"), self.source.fields, on_read)
        else:
            yield from self._rows_of_source("train", on_read)
            return
        for where, row in rows:
            yield where, (_item_text(row, where) if self.is_task else as_text(row, where))

    def _rows_of_source(self, split: str, on_read: Callable[[float], None]) -> Iterator[tuple[str, str]]:
        rows = load_rows(self._source, split=split, is_task=self.is_task, on_read=on_read)
        for number, row in enumerate(rows, start=1):
            where = f"{self.name} {split}:{number}"
            yield where, (_item_text(row, where) if self.is_task else as_text(row, where))


class FileText:
    """The documents of one train file of a folder, as `NamedText.documents` yields them.

    Args:
        number: of the file, in the order of reading.
    """

    def __init__(self, text: NamedText, number: int) -> None:
        assert isinstance(text.source, Source)
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


def _size_bytes(source: Source) -> int | None:
    if source.kind == "files":
        return sum(path.stat().st_size for path in split_files(Path(source.location), "train"))
    if source.kind == "wheels":
        return int(builtin.part_facts(source.part)["splits"]["train"]["bytes"])
    return None


def _file_rows(
    paths: Sequence[Path], fields: _Fields, on_read: Callable[[float], None]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, row in FileSequence(paths, fields=fields, on_read=on_read).rows():
        yield where, with_fields(row, fields, where) if fields else row


def named_texts(arguments: Sequence[str], *, where: str) -> list[NamedText]:
    """Resolve NAME=SOURCE arguments; those of one name are the sources of a mix, with a share each. Nothing is fetched.

    Args:
        where: how messages name the option.

    Raises:
        RecipeError: an argument has another form, or a name is given twice without shares.
        ValueError: a file, folder, split or part is missing, or a declaration is not whole.
    """
    values: dict[str, list[str]] = {}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator or not name.strip() or not value.strip():
            raise RecipeError(where, expected=_EXPECTED, got=argument or "nothing", fix="Is a variable not set?")
        require_name(f"{where}.name", name)
        stated = SourceArgument.parse(value, name=name, option=where)
        if name in values and stated.share is None:
            raise RecipeError(
                f"{where}.{name}", expected="each name once, or a share for each of its sources, such as share=0.7",
                got=argument, fix="Rename one of the two, or add shares.",
            )  # fmt: skip
        values.setdefault(name, []).append(value)
    return [_resolved(name, tuple(stated), where) for name, stated in values.items()]


def named_text(*arguments: str, where: str) -> NamedText:
    """Resolve one NAME=SOURCE argument, or those of one mix, as `named_texts` does.

    Raises:
        RecipeError: the arguments have several names.
    """
    first, *others = named_texts(arguments, where=where)
    if others:
        raise RecipeError(where, expected="one name", got=f"{first.name} and {', '.join(one.name for one in others)}")
    return first


def _resolved(name: str, values: tuple[str, ...], where: str) -> NamedText:
    stated = SourceArgument.parse(values[0], name=name, option=where)
    if len(values) > 1 or stated.share is not None:
        mix = resolve_sources(values, name=name, folder=name, is_task=False)
        return NamedText(name, values, mix, None, False, identify(mix))
    if stated.place == "wheels" or stated.place.startswith("hub:"):
        is_task = stated.place == "wheels" and name in builtin.TASKS + builtin.CONVERSATIONS
        source = resolve_source(values[0], name=name, folder=name, is_task=is_task)
        return NamedText(name, values, source, None, is_task, source.revision)
    path = Path(os.path.expanduser(stated.place))
    if path.is_file():
        if ending_of(path) is None:
            raise RecipeError(f"{where}.{name}", expected=f"a file that ends in {' or '.join(ENDINGS)}", got=values[0])
        return NamedText(name, values, None, path.absolute(), False, file_digest(path), stated.fields)
    if not path.exists():
        raise RecipeError(f"{where}.{name}", expected=_EXPECTED, got=f"{stated.place}, which does not exist")
    is_task = not (path / name).is_dir() and (path / "sft" / name).is_dir()
    folder = f"sft/{name}" if is_task else name
    source = resolve_source(values[0], name=name, folder=folder, is_task=is_task, may_be_itself=True)
    return NamedText(name, values, source, None, is_task, source.revision)
