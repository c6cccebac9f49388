"""Registrations of studies in the store: `run` writes what is claimed before the first result, and every later change.

The file is sealed, so that a change by hand is noticed. A file that cannot be read stops no run: nothing is added to it, and
commands that show registrations say so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from midstudy.files.atomic import write_bytes
from midstudy.files.errors import StoreError
from midstudy.files.reading import read_as
from midstudy.files.sealed import sealed
from midstudy.recipe.manifest import Manifest
from midstudy.recipe.registration import Registered, changes, definitions_of, digest_of
from midstudy.store.store import Store

_REMEDY = "Restore it from a backup. Without it, it is unknown whether the claims were fixed before the first result."


@dataclass(frozen=True)
class _Entries:
    entries: tuple[Registered, ...]


@dataclass(frozen=True)
class Registration:
    """A study's registrations, the first one first: none if no run with claims has been registered.

    `problem` says why they cannot be read; it is `None` if they can.
    """

    entries: tuple[Registered, ...] = ()
    problem: str | None = None

    @property
    def sentence(self) -> str:
        """When the claims were fixed, in one line: `registered before the first result (2026-01-02T03:04:05+00:00)`."""
        if self.problem is not None:
            return f"registration unknown: {self.problem}"
        if not self.entries:
            return "not registered"
        first = self.entries[0]
        return f"registered {first.when} ({first.time}, digest {first.digest[:12]})"

    @property
    def later(self) -> tuple[str, ...]:
        """The later changes in words, each with when it was made."""
        return tuple(f"{change} ({one.when}, {one.time})" for one in self.entries[1:] for change in one.changes)

    def as_json(self) -> dict[str, Any]:
        """Return the registrations without the definitions, as JSON-serialisable data."""
        facts = [{**asdict(one), "when": one.when, "changes": list(one.changes)} for one in self.entries]
        for one in facts:
            del one["definitions"]
        return {"registered": self.sentence, "problem": self.problem, "entries": facts}


def registration(store: Store, name: str) -> Registration:
    """Return the registrations of the study `name`."""
    try:
        return Registration(read_as(store.paths.registration(name), _Entries, remedy=_REMEDY, is_sealed=True).entries)
    except FileNotFoundError:
        return Registration()
    except StoreError as error:
        return Registration(problem=str(error))


def register(store: Store, manifest: Manifest, *, evaluations: Collection[str]) -> None:
    """Register the claims of `manifest`; if they are registered and unchanged, or if there are none, do nothing.

    Args:
        evaluations: ids of the evaluations whose results count as results of the study.
    """
    definitions = definitions_of(manifest)
    known = registration(store, manifest.name)
    if known.problem is not None or (not known.entries and not manifest.claims):
        return
    digest = digest_of(definitions)
    if known.entries and known.entries[-1].digest == digest:
        return
    entry = Registered(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        digest=digest,
        num_results=len(store.published(evaluations)),
        num_evaluations=len(set(evaluations)),
        definitions=definitions,
        changes=changes(known.entries[-1].definitions, definitions) if known.entries else (),
    )
    written = {"study": manifest.name, **asdict(_Entries((*known.entries, entry)))}
    with contextlib.suppress(StoreError):  # the manifest, written next to it, reports a disk that cannot be written
        write_bytes(store.paths.registration(manifest.name), sealed(written))
