"""The thread in which a study is shown in Prefect, and the server that is started for it where none is configured.

A thread of its own, so that a server that is slow, dies or never comes up costs the study nothing but this view.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.server import PrefectServer
from midstudy.environment import LOOPBACK, bypass_odd_proxies
from midstudy.recipe.manifest import Manifest
from midstudy.run.watch import Watch
from midstudy.store.store import Store

if TYPE_CHECKING:
    from flows.study_flow import StudyFlow

_RECORD_TIMEOUT_S = 30.0
_FLUSH_TIMEOUT_S = 10.0
_VIEW_LOGGERS = ("prefect.task_runs", "prefect.events", "prefect.client", "prefect._internal")
_LOGGERS = ("prefect", "prefect.flow_runs", *_VIEW_LOGGERS)


class PrefectView:
    """Shows a study in Prefect, from `start` until every stage has ended.

    Uses the configured server (PREFECT_API_URL, in the environment or in a profile), else one of its own whose database
    is in the store; or, with `in_flow_run`, the flow run that the caller is in. After `close`, `trouble` says what kept the
    view from being complete; none where all is recorded.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        watch: Watch,
        *,
        backend: str,
        max_jobs: int,
        tracking_uri: str,
        in_flow_run: bool = False,
    ) -> None:
        self._store, self._manifest, self._watch = store, manifest, watch
        self._backend, self._max_jobs, self._tracking_uri = backend, max_jobs, tracking_uri
        self._in_flow_run = in_flow_run
        self._server: PrefectServer | None = None
        # The flow run that the caller may be in is a context variable.
        run = (contextvars.copy_context().run, self._run) if in_flow_run else (self._run,)
        self._thread = threading.Thread(target=run[0], args=run[1:], name="prefect-view", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._shown: StudyFlow | None = None
        self._cancelled: Future[None] = Future()
        self._trouble: str | None = None  # the thread's
        self._given_up: str | None = None

    def start(self) -> None:
        """Begin to show; returns at once."""
        os.environ.setdefault("DO_NOT_TRACK", "1")  # read when Prefect is imported
        if not os.environ.get("PREFECT_API_URL") and not self._in_flow_run:
            self._server = PrefectServer(self._store.paths.prefect)
            with contextlib.suppress(OSError):  # said by the thread, which finds no server
                self._server.start()  # it comes up while Prefect is imported here
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Wait until all is recorded, at most `timeout_s`, and stop the server if it is our own."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._given_up = f"Prefect was not done within {timeout_s:g} s"
        if self._server is not None:
            self._server.stop()

    @property
    def trouble(self) -> str | None:
        """What went wrong, for people; after the view was given up, that, whatever its thread makes of its end."""
        return self._given_up or self._trouble

    async def cancelled(self) -> None:
        """Return when somebody has pressed the cancel button of the flow run; awaited by any loop."""
        await asyncio.shield(asyncio.wrap_future(self._cancelled))

    def is_cancelling(self, timeout_s: float) -> bool:
        """Whether the server says, within `timeout_s`, that the flow run is being cancelled."""
        if self._cancelled.done():
            return True
        loop, shown = self._loop, self._shown
        if loop is None or shown is None or not self._thread.is_alive():
            return False

        async def ask() -> bool:  # which server it is that is asked, says the context of the view's thread
            return await loop.create_task(shown.is_cancelling(), context=self._context)

        asked = asyncio.run_coroutine_threadsafe(ask(), loop)
        try:
            return asked.result(timeout_s)
        except Exception:  # no server, no answer, no such run: nobody has pressed anything that we know of
            asked.cancel()
            return False

    def _run(self) -> None:
        try:
            with self._settings():
                asyncio.run(self._show())
        except BaseException as error:  # Prefect has some that are no Exceptions; none is the study's business
            self._trouble = f"Prefect: {type(error).__name__}: {error}"

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """Prefect's settings for this view; a server that was started for nothing is stopped."""
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

        settings: dict[Any, Any] = {}
        if "PREFECT_LOGGING_TO_API_ENABLED" not in os.environ:
            settings[PREFECT_LOGGING_TO_API_ENABLED] = False
        if self._server is not None and PREFECT_API_URL.value() is not None:
            self._server.stop()
            self._server = None
        if self._server is not None or urlsplit(PREFECT_API_URL.value() or "").hostname in LOOPBACK:
            bypass_odd_proxies()
        if self._server is not None:
            settings |= {PREFECT_API_URL: self._server.api_url, PREFECT_HOME: self._server.folder}
        with temporary_settings(settings):
            yield

    async def _show(self) -> None:
        from prefect.events.worker import EventsWorker

        from flows.study_flow import StudyFlow

        if "PREFECT_LOGGING_LEVEL" not in os.environ:
            for name in _VIEW_LOGGERS if self._in_flow_run else _LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)  # the run itself says what failed
        if self._server is not None:
            await asyncio.to_thread(self._server.wait_until_healthy)
            print(f"Prefect: {self._server.api_url.removesuffix('/api')}/runs while this runs", file=sys.stderr, flush=True)
        shown = StudyFlow(self._store, self._manifest, self._watch, tracking_uri=self._tracking_uri, on_cancel=self._cancel)
        self._loop, self._context, self._shown = asyncio.get_running_loop(), contextvars.copy_context(), shown
        if self._in_flow_run:
            await shown.tell()
        else:
            await shown.show(backend=self._backend, max_jobs=self._max_jobs)
        flushed: Any = EventsWorker.drain_all(timeout=_FLUSH_TIMEOUT_S, at_exit=False)
        await flushed
        if self._server is not None and shown.run_id is not None:
            recorded = await asyncio.to_thread(
                self._server.wait_until_recorded, shown.run_id, shown.num_task_runs, _RECORD_TIMEOUT_S
            )
            if not recorded:
                shown.missed = f"fewer than the {shown.num_task_runs} task runs were recorded"
        if shown.missed is not None:
            self._trouble = f"Prefect: {shown.missed}"

    def _cancel(self) -> None:
        if not self._cancelled.done():
            self._cancelled.set_result(None)
