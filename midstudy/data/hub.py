"""Data sets of the Hugging Face Hub, streamed at a pinned revision through `datasets`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from midstudy.data.splits import SPLIT_NAMES


def load(name: str, config: str, revision: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one split. Rows are streamed; the data set is not downloaded.

    Args:
        name: `owner/name`; a local folder with JSONL files is read the same way, without network.
        config: the data set's configuration; empty for the default.
        revision: the commit, 40 hex digits; `datasets` ignores it for a local folder.
        split: `train`, `dev` or `test`.

    Raises:
        ValueError: no revision, no such data set, configuration or split, or no network; the message says which.
    """
    import datasets

    if not revision:
        raise ValueError(f"hub:{name}: expected hub:OWNER/NAME[:CONFIG]@COMMIT, got no commit; the commit pins the text.")
    present = present_splits(name, config, revision)
    hub_split = present.get(split)
    if hub_split is None:
        raise ValueError(f"hub:{name}: expected a {split} split, got {', '.join(present)}.")
    with _clear_errors(name):
        rows = datasets.load_dataset(name, config or None, revision=revision, split=hub_split, streaming=True)
        yield from rows


def present_splits(name: str, config: str, revision: str) -> dict[str, str]:
    """Map each of train, dev and test that the data set has at the revision to its Hub name. Needs the network.

    Raises:
        ValueError: no such data set, no network, or two Hub splits map to the same split.
    """
    import datasets

    require_no_folder(name)
    with _clear_errors(name):
        hub_names = datasets.get_dataset_split_names(name, config or None, revision=revision)
    present = {}
    for split, names in SPLIT_NAMES.items():
        known = [candidate for candidate in names if candidate in hub_names]
        if len(known) > 1:
            raise ValueError(
                f"hub:{name}: expected one {split} split, got {' and '.join(known)}. Save the right one as JSONL in a "
                "folder, with the other splits, and pass the folder with --data."
            )
        if known:
            present[split] = known[0]
    if "train" not in present:
        raise ValueError(f"hub:{name}: expected a train split, got {', '.join(hub_names) or 'no split'}.")
    return present


@cache
def files(name: str, config: str, revision: str) -> dict[str, tuple[tuple[str, int], ...]]:
    """Return the path and the size in bytes of the files of train, dev and test, in the order in which they are read.

    The repository is listed; no file of data is opened.

    Raises:
        ValueError: no such data set or no network, or a split that is not made of files (see also `present_splits`).
    """
    import datasets
    from huggingface_hub import HfFileSystem

    present = present_splits(name, config, revision)
    with _clear_errors(name):
        by_split = datasets.load_dataset_builder(name, config or None, revision=revision).config.data_files or {}
        paths = {split: [url.removeprefix("hf://") for url in by_split[named]] for split, named in present.items()}
        sizes: dict[str, int] = {}
        for folder in {posixpath.dirname(path) for found in paths.values() for path in found}:
            entries: list[dict[str, Any]] = HfFileSystem().ls(folder, detail=True)  # type: ignore[assignment]
            sizes |= {entry["name"]: entry["size"] for entry in entries}
        return {split: tuple((path, sizes[path]) for path in found) for split, found in paths.items()}


def load_file(name: str, config: str, revision: str, split: str, number: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file of a split, as `load` yields them; no other file is opened.

    Args:
        number: of the file, in the order of `files`.

    Raises:
        ValueError: see `load`; or the split is read in another number of pieces than it has files.
    """
    import datasets

    num_files = len(files(name, config, revision)[split])
    with _clear_errors(name):
        hub_split = present_splits(name, config, revision)[split]
        rows = datasets.load_dataset(name, config or None, revision=revision, split=hub_split, streaming=True)
        if rows.num_shards != num_files:
            raise ValueError(f"expected a piece for each of the {num_files} files of {split}, got {rows.num_shards} pieces")
        yield from rows.shard(num_shards=num_files, index=number)


def require_no_folder(name: str) -> None:
    """Reject a Hub data set name that is also a local folder: `datasets` would read the folder and ignore the revision.

    Raises:
        ValueError: a folder of this name exists.
    """
    if not Path(name).is_absolute() and Path(name).exists():
        raise ValueError(
            f"hub:{name}: the folder {Path(name).absolute()} has the same name and would be read instead of the data set on "
            "the Hub. Run the command from another folder, or pass this folder with --data."
        )


def require_commit(name: str, revision: str) -> None:
    """Reject branches and tags, which can move.

    Raises:
        ValueError: the revision is not a commit hash.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"hub:{name}: expected a commit of 40 hex digits (listed on its page on the Hub), got {revision!r}."
        )


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    """Turn the errors of `datasets` into a `ValueError` of one clear sentence."""
    try:
        yield
    except Exception as error:
        if _is_gated(error):
            from huggingface_hub import constants

            raise ValueError(
                f"hub:{name}: its owner asks readers to accept terms. Open {constants.ENDPOINT}/datasets/{name}, accept "
                "them with your account, and set HF_TOKEN to a token of that account."
            ) from error
        if isinstance(error, FileNotFoundError | ValueError):
            raise ValueError(f"hub:{name}: cannot be read: {error}") from error
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):  # the Hub's HTTP library
            raise
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"hub:{name}: the Hub cannot be reached ({first}). Connect to the network, or pass a folder with --data."
        ) from error


def _is_gated(error: Exception) -> bool:
    """Return whether the terms of a data set are not accepted; `datasets` raises an error that says so in its text alone."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError) or (isinstance(error, DatasetNotFoundError) and "gated" in str(error))
