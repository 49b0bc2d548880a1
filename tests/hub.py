"""A stand-in for a model hub, which cannot be reached where the tests run: the few routes that `huggingface_hub` asks,
over real HTTP, from a folder of files. It can hold a file back part of the way, for a download to be killed there."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """One repository `org/name`, known by `revision` and by its commit."""

    daemon_threads = True

    def __init__(self, folder: Path, revision: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.revisions = folder, {revision, COMMIT}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and range of each request."""
        self.hold_at: dict[str, int] = {}
        """Files to be given only so far, in bytes, until `release` is set."""
        self.spoiled: set[str] = set()
        """Files to be given with a wrong byte."""
        self.held, self.release = threading.Event(), threading.Event()

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {path.rsplit("/", 1)[-1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path}


@contextlib.contextmanager
def fake_hub(folder: Path, revision: str) -> Iterator[FakeHub]:
    """A running hub."""
    hub = FakeHub(folder, revision)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        hub.shutdown()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        match path.strip("/").split("/"):
            case ["api", "models", "org", "name", "revision", revision] if revision in self.server.revisions:
                siblings = [{"rfilename": file.name} for file in sorted(self.server.folder.iterdir())]
                self._json({"id": "org/name", "sha": COMMIT, "siblings": siblings})
            case ["api", "models", "org", "name", "tree", revision] if revision in self.server.revisions:
                files = sorted(self.server.folder.iterdir())
                self._json([{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in files])
            case ["org", "name", "resolve", revision, name] if revision in self.server.revisions:
                self._file(self.server.folder / name)
            case ["api", "models", "org", "name", *_]:
                self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            case _:
                self._json({"error": "no such repository"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {}))
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, path: Path) -> None:
        content = path.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(content) - start),
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if path.name in self.server.spoiled:
            content = bytes([content[0] ^ 1]) + content[1:]
        self._head(206 if start else 200, headers)
        if self.command == "GET":
            self._write(path.name, content, start)

    def _write(self, name: str, content: bytes, start: int) -> None:
        stop = self.server.hold_at.pop(name, None)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(content[start:stop])
            if stop is not None:
                self.wfile.flush()
                self.server.held.set()
                self.server.release.wait()
                self.wfile.write(content[stop:])

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""
