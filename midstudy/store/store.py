"""The store: which stages were requested, which are finished, and their records and failures."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from midstudy.files.atomic import write_json
from midstudy.files.errors import RecipeMismatchError, StoreError, unwritable
from midstudy.files.reading import read_object
from midstudy.recipe.explain import differences
from midstudy.recipe.stage import Stage
from midstudy.store.attempt import Attempt, read_interruptions
from midstudy.store.leftovers import clear_interrupted, entries
from midstudy.store.paths import StorePaths, checked_root, is_name
from midstudy.store.record import SCHEMA, Record, digest_file, read_record

_REQUEST = ("id", "kind", "label", "parents", "canonical", "recipe")


class Store:
    """A store in one folder. Open it with `Store.open`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = StorePaths(root)

    @classmethod
    def open(cls, root: Path, *, create: bool = False) -> Store:
        """Open the store at `root`; with `create`, create it if it does not exist.

        Commands that only read do not set `create` and need no permission to write.

        Raises:
            StoreError: there is no store, it has another schema, or `create` is set and it cannot be written.
        """
        store = cls(Path(checked_root(os.path.abspath(root))))
        path = store.paths.schema
        if not create and (not root.exists() or (root.is_dir() and not os.path.lexists(path))):
            raise StoreError(f"{root}: no store here. Run a study first, or name its store with --store.")
        if not store._exists():
            write_json(path, {"schema": SCHEMA})
        remedy = f"Restore the file: its content is {json.dumps({'schema': SCHEMA})}."
        schema = read_object(path, needs=("schema",), remedy=remedy)["schema"]
        if schema != SCHEMA:
            raise StoreError(f"{path}: expected schema {SCHEMA}, got {schema}. Use the midstudy that made the store.")
        if create:
            store.require_writable()
        return store

    @classmethod
    def open_existing(cls, root: Path) -> Store | None:
        """Open the store at `root` for writing. Return `None` if it does not exist but `open` could create it.

        Raises:
            StoreError: `root` is not a store, has another schema, cannot be written, or cannot be created.
        """
        store = cls(Path(checked_root(os.path.abspath(root))))
        if store._exists():
            return cls.open(root, create=True)
        above = store.root
        while not os.path.lexists(above):
            above = above.parent
        if not above.is_dir():
            raise StoreError(f"{root}: expected {above} to be a folder, got a file. Name another folder with --store.")
        try:
            probe = above / f".writable.{uuid.uuid4().hex}"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise unwritable(store.root, error) from error
        return None

    def _exists(self) -> bool:
        """Return whether a store of any schema exists; False if one could be created.

        Raises:
            StoreError: `root` is a file, or a folder with other files.
        """
        path, root = self.paths.schema, self.root
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root}: expected a folder, got a file. Name another folder with --store.")
        if os.path.lexists(path):
            return True
        others = [other for other in root.iterdir() if not other.name.startswith(f".{path.name}.")] if root.exists() else []
        if others and not os.path.lexists(path):  # otherwise another command has just created the store
            raise StoreError(
                f"{root}: expected a store, got a folder with other files. Name an empty or new one with --store."
            )
        return os.path.lexists(path)

    def require_writable(self) -> None:
        """Check that an existing store can be written.

        Raises:
            StoreError: it cannot be written.
        """
        probe = self.root / f".writable.{uuid.uuid4().hex}"
        try:
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise unwritable(self.root, error) from error

    # -- stages -------------------------------------------------------------------------------------------------------

    def request(self, stage: Stage) -> None:
        """Write the recipe of a stage for the job that will make it; repeated requests are harmless.

        Raises:
            RecipeMismatchError: the stage was requested before with another recipe.
        """
        wanted = {
            "id": stage.id,
            "kind": stage.kind,
            "label": stage.label,
            "parents": list(stage.parents),
            "canonical": stage.canonical_form,
            "recipe": stage.expanded_form,
        }
        path = self.paths.recipe(stage.id)
        if path.exists():
            known = self.requested(stage.id)
            _require_same(path, known["canonical"], wanted["canonical"])
            if known == wanted:
                return
        write_json(path, wanted, durable=False)

    def requested(self, stage_id: str) -> dict[str, Any]:
        """Return what `request` wrote for a stage: id, kind, label, parents, canonical and expanded recipe.

        Raises:
            StoreError: the stage was never requested, or the file is damaged.
        """
        path = self.paths.recipe(stage_id)
        remedy = "Remove the file and run the study again, which rewrites it."
        try:
            wanted = read_object(path, needs=_REQUEST, remedy=remedy)
        except FileNotFoundError:
            raise StoreError(f"stage {stage_id}: never requested in {self.root}. Run its study again.") from None
        if wanted["id"] != stage_id:
            raise StoreError(f"{path}: expected the recipe of stage {stage_id}, got that of {wanted['id']}. {remedy}")
        return wanted

    def has(self, stage_id: str) -> bool:
        """Return whether the stage is finished."""
        return self.paths.record(stage_id).exists()

    def published(self, stage_ids: Iterable[str]) -> set[str]:
        """Return the finished ones among these stages."""
        return {stage_id for stage_id in stage_ids if self.has(stage_id)}

    def published_folder(self, stage_id: str) -> Path:
        """Return the folder with a finished stage's files."""
        return self.paths.published(stage_id)

    def record(self, stage_id: str, *, check_files: bool = True) -> Record:
        """Return the record of a finished stage; `check_files=False` skips the check of the files it lists.

        Raises:
            StoreError: the stage is not finished, or its record was damaged or edited.
            DamagedFileError: a file it lists is missing or has another size.
        """
        path = self.paths.record(stage_id)
        if not path.exists():
            raise StoreError(f"stage {stage_id}: not finished.")
        return read_record(path, stage_id, check_files=check_files)

    def require_unchanged(self, stage_id: str) -> None:
        """Read the files of a finished stage and compare them with its record.

        Raises:
            StoreError: a file differs from what was published, or the stage is not finished.
        """
        for name, recorded in self.record(stage_id).files.items():
            path = self.published_folder(stage_id) / name
            if digest_file(path) != recorded:
                raise StoreError(f"{path}: not what was published. Remove {path.parent} to make the stage again.")

    def records(self, stage_ids: Iterable[str]) -> dict[str, Record]:
        """Return the records of the finished ones among these stages, by stage id."""
        return {stage_id: self.record(stage_id) for stage_id in stage_ids if self.has(stage_id)}

    def verify(self, stage: Stage) -> None:
        """Check that a finished stage was made from the recipe of `stage`.

        Raises:
            StoreError: the stage is not finished, or its record was damaged or edited.
            RecipeMismatchError: the stage was made from another recipe.
        """
        _require_same(self.paths.record(stage.id), self.record(stage.id).canonical, stage.canonical_form)

    def stage_ids(self) -> Iterator[str]:
        """Yield the id of every stage that was requested or is finished."""
        for path in entries(self.paths.stages.resolve()):
            if path.is_dir() and is_name(path.name):  # other folders are not midstudy's
                yield path.name

    def attempt(self, stage_id: str) -> Attempt:
        """Start an attempt at a stage; remove the leftovers of interrupted attempts that no attempt can use.

        Raises:
            StoreError: the store cannot be written.
        """
        previous = self.previous_attempts(stage_id)
        attempt = Attempt(self.paths, stage_id)
        clear_interrupted(previous)
        return attempt

    def previous_attempts(self, stage_id: str) -> list[Path]:
        """Return the folders of attempts that were not published, newest first."""
        return [path for path in reversed(entries(self.paths.attempts(stage_id))) if not path.name.startswith(".")]

    # -- failures -----------------------------------------------------------------------------------------------------

    def report_failure(self, stage_id: str, failure: dict[str, Any]) -> None:
        """Record why an attempt failed."""
        write_json(self.paths.failure(stage_id), failure)

    def failure(self, stage_id: str) -> dict[str, Any] | None:
        """Return why the last attempt failed; `None` if it did not fail.

        Raises:
            StoreError: the file is damaged.
        """
        path = self.paths.failure(stage_id)
        try:
            return read_object(path, needs=("cause",), remedy="Remove the file to run the stage again.")
        except FileNotFoundError:
            return None

    def clear_failure(self, stage_id: str) -> None:
        """Remove the record of the last failure.

        Raises:
            StoreError: the store cannot be written.
        """
        path = self.paths.failure(stage_id)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error

    def interruptions(self, stage_id: str) -> list[dict[str, Any]]:
        """Return the jobs that ended during a stage since it was last started from scratch: job, cause, text, time.

        Raises:
            StoreError: the file is damaged.
        """
        return read_interruptions(self.paths.interruptions(stage_id))

    def write_interruptions(self, stage_id: str, interruptions: list[dict[str, Any]]) -> None:
        if interruptions:
            write_json(self.paths.interruptions(stage_id), interruptions)
        else:
            self.paths.interruptions(stage_id).unlink(missing_ok=True)

    # -- studies ------------------------------------------------------------------------------------------------------

    def studies(self) -> list[str]:
        """Return the names of the studies that were run."""
        folders = entries(self.paths.studies.resolve())
        return [path.name for path in folders if is_name(path.name) and (path / "manifest.json").exists()]


def _require_same(path: Path, stored: Any, requested: Any) -> None:
    different = differences(requested, stored)
    if different:
        lines = "\n".join(f"  {field.path}: expected {field.left!r}, got {field.right!r}" for field in different[:10])
        raise RecipeMismatchError(
            f"{path}: expected the recipe that was requested under this id, got another one:\n{lines}\n"
            "Two recipes with one id are a bug or a file edited by hand: remove the stage's folder to make it again."
        )
