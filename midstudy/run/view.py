"""The interface of a view: it shows a running study and reports a cancellation made in it."""

from __future__ import annotations

from typing import Protocol

from midstudy.recipe.manifest import Manifest
from midstudy.run.watch import Watch
from midstudy.store.store import Store


class View(Protocol):
    """Shows a run. A failure of the view must not affect any result."""

    @property
    def trouble(self) -> str | None:
        """Why the closed view is incomplete; None if it is complete."""

    def start(self) -> None:
        """Start showing the run; return without waiting for it to appear."""

    def close(self, timeout_s: float) -> None:
        """Show how the run ended; return within `timeout_s` seconds."""

    async def cancelled(self) -> None:
        """Return once the run is cancelled in the view."""

    def is_cancelling(self, timeout_s: float) -> bool:
        """Return whether the run is being cancelled in the view; ask for at most `timeout_s` seconds."""


class ViewOf(Protocol):
    """Factory of the view of a run."""

    def __call__(
        self,
        store: Store,
        manifest: Manifest,
        watch: Watch,
        *,
        backend: str,
        max_jobs: int,
        tracking_uri: str,
    ) -> View:
        """Return a view of the run whose stages `watch` records."""
