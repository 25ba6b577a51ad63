"""Data on disk and a hub on this machine, for the tests of the data sources."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "a" * 40


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file below the test's folder, with the folders it needs."""

    def write(name: str, content: str | bytes = b"") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of `datasets` that is this test's own."""
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    return cache


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A hub's address, and the folder it serves as the data set `me/set`."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as it takes to download one public data set."""

    folder: Path

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/datasets/me/set/resolve/"):
            self._send_file(self.folder / "/".join(path.split("/")[6:]))
        elif path.startswith("/api/datasets/me/set/tree/"):
            self._send_tree(self.folder / "/".join(path.split("/")[7:]))
        elif path.startswith("/api/datasets/me/set"):
            self._send_json({"id": "me/set", "sha": COMMIT, "siblings": [], "private": False, "tags": []})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = path.read_bytes()
        return self._send(200, content, {"ETag": hashlib.sha1(content).hexdigest(), "X-Repo-Commit": COMMIT})

    def _send_tree(self, folder: Path) -> None:
        if not folder.is_dir():
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        kinds = {True: "file", False: "directory"}
        return self._send_json(
            [
                {
                    "type": kinds[path.is_file()],
                    "path": str(path.relative_to(self.folder)),
                    "size": path.stat().st_size,
                    "oid": "0" * 40,
                }
                for path in sorted(folder.iterdir())
            ]
        )

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
