"""The store: which stages were asked for, which are finished, and what they left."""

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

_REQUEST = {"id": str, "kind": str, "label": str, "parents": list, "canonical": dict, "recipe": dict}


class Store:
    """Everything below one folder. Open it with `Store.open`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = StorePaths(root)

    @classmethod
    def open(cls, root: Path, *, create: bool = False) -> Store:
        """The store at `root`, made where `create` says so.

        Commands that only read leave `create` out, and need no permission to write.

        Raises:
            StoreError: there is none, it is of another schema, or it was to be written and cannot.
        """
        store = cls(Path(checked_root(os.path.abspath(root))))
        path = store.paths.schema
        if not create and (not root.exists() or (root.is_dir() and not os.path.lexists(path))):
            raise StoreError(f"{root}: no store here. Run a study first, or name its store with --store.")
        if not store._is_made():
            write_json(path, {"schema": SCHEMA})
        remedy = f"Restore it: its whole text is {json.dumps({'schema': SCHEMA})}."
        schema = read_object(path, fields={"schema": int}, remedy=remedy)["schema"]
        if schema != SCHEMA:
            raise StoreError(f"{path}: store of schema {schema}; this midstudy reads {SCHEMA}.")
        if create:
            store.require_writable()
        return store

    @classmethod
    def found(cls, root: Path) -> Store | None:
        """The store at `root`, opened for writing. None if it does not exist yet but can be created, which `open` does.

        Raises:
            StoreError: `root` is not a store, has another schema, cannot be written, or cannot be created.
        """
        store = cls(Path(checked_root(os.path.abspath(root))))
        if store._is_made():
            return cls.open(root, create=True)
        above = store.root
        while not os.path.lexists(above):
            above = above.parent
        if not above.is_dir():
            raise StoreError(f"{root}: {above} is a file. Name a folder with --store.")
        try:
            probe = above / f".writable.{uuid.uuid4().hex}"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise unwritable(store.root, error) from error
        return None

    def _is_made(self) -> bool:
        """Whether a store of any schema exists; false if one could be created."""
        path, root = self.paths.schema, self.root
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root}: a file. Name a folder with --store.")
        if os.path.lexists(path):
            return True
        others = [one for one in root.iterdir() if not one.name.startswith(f".{path.name}.")] if root.exists() else []
        if others and not os.path.lexists(path):  # otherwise another command is creating it right now
            raise StoreError(f"{root}: a folder with other files. Name an empty or new folder with --store.")
        return os.path.lexists(path)

    def require_writable(self) -> None:
        """For commands that write in a store that is there.

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
        """Write down what is asked of a stage, for the job that will make it; again is harmless.

        Raises:
            RecipeMismatchError: the stage was asked for before with another recipe.
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
        """What was asked of a stage.

        Raises:
            StoreError: nothing was, or the file was damaged.
        """
        path = self.paths.recipe(stage_id)
        remedy = "Remove it and run the study again, which writes it anew."
        try:
            wanted = read_object(path, fields=_REQUEST, remedy=remedy)
        except FileNotFoundError:
            raise StoreError(f"stage {stage_id}: never asked for in {self.root}; run its study again.") from None
        if wanted["id"] != stage_id:
            raise StoreError(f"{path}: the recipe of stage {wanted['id']}. {remedy}")
        return wanted

    def has(self, stage_id: str) -> bool:
        """Whether the stage is finished."""
        return self.paths.record(stage_id).exists()

    def published(self, stage_ids: Iterable[str]) -> set[str]:
        """Of these stages, the finished ones."""
        return {one for one in stage_ids if self.has(one)}

    def published_folder(self, stage_id: str) -> Path:
        """Where a finished stage's files are."""
        return self.paths.published(stage_id)

    def record(self, stage_id: str, *, beside_files: bool = True) -> Record:
        """The record of a finished stage; `beside_files=False` skips the check of the stage's other files.

        Raises:
            StoreError: it is not finished, or its record was damaged or edited.
        """
        path = self.paths.record(stage_id)
        if not path.exists():
            raise StoreError(f"stage {stage_id}: not finished.")
        return read_record(path, stage_id, beside_files=beside_files)

    def require_unchanged(self, stage_id: str) -> None:
        """Read the files of a finished stage and compare them with its record.

        Raises:
            StoreError: a file is not what was published, or the stage is not finished.
        """
        for name, noted in self.record(stage_id).files.items():
            path = self.published_folder(stage_id) / name
            if digest_file(path) != noted:
                raise StoreError(f"{path}: not what was published. Remove {path.parent} to make the stage again.")

    def records(self, stage_ids: Iterable[str]) -> dict[str, Record]:
        """The records of the finished ones among these stages."""
        return {one: self.record(one) for one in stage_ids if self.has(one)}

    def verify(self, stage: Stage) -> None:
        """Check that a finished stage was made from the recipe that is now asked for.

        Raises:
            StoreError: it is not finished, or its record was damaged or edited.
            RecipeMismatchError: it was made from another recipe.
        """
        _require_same(self.paths.record(stage.id), self.record(stage.id).canonical, stage.canonical_form)

    def stage_ids(self) -> Iterator[str]:
        """Every stage that was asked for or is finished."""
        for path in entries(self.paths.stages.resolve()):
            if path.is_dir() and is_name(path.name):  # nothing here has made the others
                yield path.name

    def attempt(self, stage_id: str) -> Attempt:
        """Begin an attempt at a stage; what no attempt reads of interrupted ones before it is removed."""
        former = self.former_attempts(stage_id)
        attempt = Attempt(self.paths, stage_id)
        clear_interrupted(former)
        return attempt

    def former_attempts(self, stage_id: str) -> list[Path]:
        """Folders that unfinished attempts left, newest first."""
        return [path for path in reversed(entries(self.paths.attempts(stage_id))) if not path.name.startswith(".")]

    # -- failures -----------------------------------------------------------------------------------------------------

    def report_failure(self, stage_id: str, failure: dict[str, Any]) -> None:
        """Write down why an attempt failed."""
        write_json(self.paths.failure(stage_id), failure)

    def failure(self, stage_id: str) -> dict[str, Any] | None:
        """Why the last attempt failed; none where it did not.

        Raises:
            StoreError: the file was damaged.
        """
        path = self.paths.failure(stage_id)
        try:
            return read_object(path, fields={"cause": str}, remedy="Remove it; the stage can then be run again.")
        except FileNotFoundError:
            return None

    def clear_failure(self, stage_id: str) -> None:
        """Forget why the last attempt failed.

        Raises:
            StoreError: the store cannot be written.
        """
        path = self.paths.failure(stage_id)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error

    def interruptions(self, stage_id: str) -> list[dict[str, Any]]:
        """The jobs that ended in the middle of a stage since it was last begun anew: job, cause, text, time.

        Raises:
            StoreError: the file was damaged.
        """
        return read_interruptions(self.paths.interruptions(stage_id))

    def write_interruptions(self, stage_id: str, interruptions: list[dict[str, Any]]) -> None:
        if interruptions:
            write_json(self.paths.interruptions(stage_id), interruptions)
        else:
            self.paths.interruptions(stage_id).unlink(missing_ok=True)

    # -- studies ------------------------------------------------------------------------------------------------------

    def studies(self) -> list[str]:
        """Names of the studies that were run."""
        found = entries(self.paths.studies.resolve())
        return [path.name for path in found if is_name(path.name) and (path / "manifest.json").exists()]


def _require_same(path: Path, found: Any, wanted: Any) -> None:
    different = differences(found, wanted)
    if different:
        lines = "\n".join(f"  {one.path}: found {one.left!r}, asked for {one.right!r}" for one in different[:10])
        raise RecipeMismatchError(
            f"{path}: made from another recipe than the one asked for under this id:\n{lines}\n"
            "Two recipes with one id are a bug or a file edited by hand: remove the stage's folder to make it again."
        )
