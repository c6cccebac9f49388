"""What a run asks of a view: to show a study while it runs, and to say whether it was cancelled there."""

from __future__ import annotations

from typing import Protocol

from midstudy.recipe.manifest import Manifest
from midstudy.run.watch import Watch
from midstudy.store.store import Store


class View(Protocol):
    """Shows a run. Nothing that goes wrong with it may cost a result."""

    @property
    def trouble(self) -> str | None:
        """Why the view is incomplete, once it is closed; None if it is complete."""

    def start(self) -> None:
        """Begin to show the run, without waiting for it to appear."""

    def close(self, timeout_s: float) -> None:
        """Show how the run ended; returns after `timeout_s` at the latest."""

    async def cancelled(self) -> None:
        """Return when the run was cancelled in the view."""

    def is_cancelling(self, timeout_s: float) -> bool:
        """Whether the run is being cancelled in the view; asks for at most `timeout_s`."""


class ViewOf(Protocol):
    """Makes the view of a run."""

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
        """The view of the run that `watch` watches."""
