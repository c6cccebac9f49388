"""A Hugging Face hub on loopback: data sets at commits, over the parts of its protocol that reading needs.

It answers `HF_ENDPOINT`: facts of a data set at a revision, its tree, facts of paths, and files with ranges. It can gate a
data set, and break connections while it sends a file.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Repeated:
    """A file of `num_bytes` that repeats a line and is not held in memory."""

    line: bytes
    num_bytes: int

    def __len__(self) -> int:
        return self.num_bytes

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.num_bytes)
        first = start // len(self.line) * len(self.line)
        return (self.line * ((stop - first) // len(self.line) + 1))[start - first : stop - first]


Content = bytes | Repeated


@dataclass
class Hub:
    """What the server has and what it was asked.

    `data_sets` maps an owner and name to the files of each commit. `gated` are the names that answer 403.
    `breaks` is how many of the next answers with the body of a Parquet or JSONL file end in the middle.
    """

    data_sets: dict[str, dict[str, dict[str, Content]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    breaks: int = 0
    broken: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    address: str = ""
    num_sent: int = 0
    """Bytes of the bodies of files sent so far."""


def _oid(content: Content) -> str:
    if isinstance(content, Repeated):
        return hashlib.sha1(repr(content).encode()).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve the hub on a free port of loopback; `hub.address` is its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(with_body=True, body=body)

        def _json(self, value: Any, status: int = 200, **headers: str) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _answer(self, *, with_body: bool, body: bytes = b"") -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            hub.requests.append(f"{self.command} {path}")
            names = [name for name in hub.data_sets if f"/datasets/{name}" in path]
            if not names:
                return self._json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            name = names[0]
            if name in hub.gated and not path.startswith("/api/datasets/" + name + "/gated"):
                message = f"Access to dataset {name} is restricted. Visit {hub.address}/datasets/{name} to ask for access."
                return self._json({"error": message}, 403, X_Error_Code="GatedRepo", X_Error_Message=message)
            rest = path.partition(f"/datasets/{name}")[2].strip("/").split("/")
            if path.startswith("/api/"):
                return self._api(name, rest, parse_qs(parts.query), body)
            kind, revision, *place = rest
            files = hub.data_sets[name].get(revision)
            if files is None:
                return self._json({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
            content = files.get("/".join(place))
            if kind != "resolve" or content is None:
                return self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=revision)
            return self._file("/".join(place), content, revision, with_body)

        def _api(self, name: str, rest: list[str], query: dict[str, list[str]], body: bytes) -> None:
            kind = rest[0] if rest[0] else "revision"
            newest = list(hub.data_sets[name])[-1]
            revision = rest[1] if len(rest) > 1 else newest
            files = hub.data_sets[name].get(revision)
            if files is None:
                return self._json({"error": f"Invalid rev id: {revision}"}, 404, X_Error_Code="RevisionNotFound")
            if kind == "revision":
                siblings = [{"rfilename": path} for path in sorted(files)]
                facts = {"id": name, "_id": "0" * 24, "sha": revision, "private": False, "gated": False, "disabled": False}
                return self._json({**facts, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})
            if kind == "tree":
                is_deep = query.get("recursive", ["false"])[0].lower() == "true"
                return self._json(_tree(files, "/".join(rest[2:]), is_deep=is_deep))
            if kind == "paths-info":
                is_json = body.startswith(b"{")
                asked = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
                return self._json([entry for path in asked for entry in _entry(files, path)])
            return self._json({"error": "no such address"}, 404)

        def _file(self, place: str, content: Content, revision: str, with_body: bool) -> None:
            first, last = 0, len(content) - 1
            if stated := self.headers.get("Range", ""):
                begin, _, end = stated.removeprefix("bytes=").partition("-")
                first, last = int(begin), min(int(end), last) if end else last
            part = content[first : last + 1]
            self.send_response(206 if stated else 200)
            if stated:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{_oid(content)}"')
            self.send_header("X-Repo-Commit", revision)
            self.end_headers()
            if not with_body:
                return
            hub.num_sent += len(part)
            is_data = place.endswith((".parquet", ".jsonl"))
            if is_data and hub.breaks and len(part) > 1:
                hub.breaks -= 1
                hub.broken.append(place)
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _tree(files: dict[str, Content], folder: str, *, is_deep: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    below = {path for path in files if path.startswith(prefix)}
    folders = {prefix + path[len(prefix) :].rsplit("/", 1)[0] for path in below if "/" in path[len(prefix) :]}
    paths = [path for path in sorted(below | folders) if is_deep or "/" not in path[len(prefix) :]]
    return [entry for path in paths for entry in _entry(files, path)]


def _entry(files: dict[str, Content], path: str) -> list[dict[str, Any]]:
    if path in files:
        return [{"type": "file", "path": path, "size": len(files[path]), "oid": _oid(files[path])}]
    if any(one.startswith(f"{path}/") for one in files):
        return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0}]
    return []
