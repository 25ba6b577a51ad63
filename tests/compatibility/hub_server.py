"""A hub on loopback that speaks the protocol of uploads: repositories, LFS objects, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """What was pushed: `files[repository][path]` are the bytes, `commits` the messages, `tokens` who pushed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[tuple[str, str]] = []
        self.tokens: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def answer(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.*)?", self.path.split("?")[0]):
            name, files = found[1], self.server.files.get(found[1], {})
            self.answer({"id": name, "sha": "0" * 40, "siblings": [{"rfilename": path} for path in files]})
        else:
            self.answer({"error": "not found"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        content = self.body()
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_POST(self) -> None:
        path, content = self.path.split("?")[0], self.body()
        if path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token != "right":
            self.answer({"error": "Invalid credentials"}, 401)
            return
        self.server.tokens.add(token)
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.files.setdefault(name, {})
            self.answer({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        elif path.endswith("/preupload/main"):
            files = json.loads(content)["files"]
            self.answer({"files": [{"path": one["path"], "shouldIgnore": False,
                                    "uploadMode": "lfs" if one["path"].endswith("safetensors") else "regular"}
                                   for one in files]})  # fmt: skip
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            self.answer({"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/object/{one['oid']}"}}}
                for one in objects]})  # fmt: skip
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in content.splitlines()])
        else:
            self.answer({"error": "not found"}, 404)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append((name, value["summary"]))
            elif line["key"] == "file":
                self.server.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[name][value["path"]] = self.server.objects[value["oid"]]
        oid = f"{len(self.server.commits):040x}"
        self.answer(
            {"commitUrl": f"{self.server.address}/{name}/commit/{oid}", "commitOid": oid, "success": True}
        )


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
