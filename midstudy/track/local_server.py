"""A web server in a process of its own, on a free loopback port.

The parent holds the listening socket, so no other process can take the port, and the pipe that is the server's standard
input, so the server exits when its parent is killed.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_POLL_S = 0.1


class LocalServer:
    """One server process: `start` returns at once, `wait_until_healthy` before using it. Its log is in `folder`.

    `module` is run with the descriptor of the listening socket and `arguments`, and calls `serve`.
    """

    module: str
    health = "/health"
    stop_timeout_s: float

    def __init__(self, folder: Path, *arguments: str, cwd: str | None = None) -> None:
        self.folder, self.log = folder, folder / "server.log"
        self._arguments, self._cwd = arguments, cwd
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> Mapping[str, str]:
        """Return the environment of the process; `url` is known."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the process and return at once.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as listening, self.log.open("wb") as log:
            listening.bind(("127.0.0.1", 0))
            listening.listen(128)
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, str(listening.fileno()), *self._arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(listening.fileno(),),
                start_new_session=True,  # Ctrl-C must reach the parent alone, which stops the server
                env=self.environment(),
                cwd=self._cwd or self.folder,  # Prefect reads settings from the current folder
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_until_healthy(self, timeout_s: float = 90.0) -> None:
        """Wait until the server answers.

        Raises:
            OSError: the process exited, or did not answer within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while self.is_running and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.request(self.health, timeout_s=min(2.0, timeout_s))
                return
            time.sleep(_POLL_S)
        raise OSError(f"expected an answer from {self.module} within {timeout_s:g} s, got none; its log is {self.log}")

    def request(self, path: str, body: Any = None, *, timeout_s: float) -> bytes:
        """Return what the server answers, given a body as JSON or none.

        Raises:
            OSError: there is no answer, or an error.
        """
        data = None if body is None else json.dumps(body).encode("utf-8")
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: never through a proxy
        with opener.open(request, timeout=timeout_s) as answer:
            content: bytes = answer.read()
            return content

    def stop(self) -> None:
        """Stop the process; kill it if it does not exit in time. Does nothing if it never started or has exited."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(self.stop_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve(application: Any, descriptor: int) -> None:
    """Run an ASGI application on an inherited listening socket until standard input closes."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))

    def stop_at_end_of_input() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])
