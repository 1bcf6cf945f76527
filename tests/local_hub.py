"""A hub on this machine: what `huggingface_hub`'s own client asks of one when it pushes and pulls.

Repositories are held in memory, a commit being all files of it. huggingface_hub has none of its
own: its tests go to a server on the internet.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repo:
    url: str
    visibility: str
    commits: list[tuple[str, Files]] = field(default_factory=list)  # (message, all files then)
    tags: dict[str, int] = field(default_factory=dict)  # name -> number of a commit

    def place(self, revision: str) -> int:
        """The number of a commit by its tag, its id or "main"; KeyError where there is none."""
        if revision == "main":
            return len(self.commits) - 1
        return int(revision) if re.fullmatch(r"\d{40}", revision) else self.tags[revision]


@dataclass
class LocalHub:
    endpoint: str
    repos: dict[str, Repo] = field(default_factory=dict)
    down: str = ""  # part of an address that is answered with "no room left"


@contextlib.contextmanager
def local_hub() -> Iterator[LocalHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = LocalHub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Nothing is told of requests."""

    def _answer(self) -> None:
        hub: LocalHub = self.server.hub  # type: ignore[attr-defined]
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        if hub.down and hub.down in path:
            self._send(507, {"error": "no room left"})
        elif path == "/api/repos/create":
            self._create(hub, json.loads(body))
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/([^/]+)", path):
            self._api(hub.repos[found[1]], found[2], found[3], body)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/refs", path):
            tags = hub.repos[found[1]].tags
            told = [{"name": n, "ref": n, "targetCommit": f"{c:040d}"} for n, c in tags.items()]
            self._send(200, {"branches": [], "converts": [], "tags": told})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(hub.repos[found[1]], found[2], found[3])
        else:
            self._send(404, {"error": f"nothing at {path}"})

    def _create(self, hub: LocalHub, told: dict[str, Any]) -> None:
        name = f"{told['organization']}/{told['name']}"
        url = f"{hub.endpoint}/{name}"
        if name in hub.repos:
            self._send(409, {"error": "You already created this model repo", "url": url})
            return
        hub.repos[name] = Repo(url, told["visibility"], [("first", {})])
        self._send(200, {"url": url})

    def _api(self, repo: Repo, what: str, revision: str, body: bytes) -> None:
        if what == "preupload":
            files = json.loads(body)["files"]
            told = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._send(200, {"files": [{"path": f["path"], **told} for f in files]})
        elif what == "commit":
            self._commit(repo, [json.loads(line) for line in body.splitlines()])
        elif what == "tag" and self.command == "DELETE":
            del repo.tags[revision]
            self._send(200, {})
        elif what == "tag":
            tag = json.loads(body)["tag"]
            status = 409 if tag in repo.tags else 200
            repo.tags.setdefault(tag, repo.place(revision))
            self._send(status, {"error": "Reference already exists"} if status == 409 else {})
        else:
            self._read(repo, what, repo.place(revision))

    def _commit(self, repo: Repo, lines: list[dict[str, Any]]) -> None:
        files, message = dict(repo.commits[-1][1]), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        repo.commits.append((message, files))
        oid = f"{len(repo.commits) - 1:040d}"
        told = {"commitOid": oid, "commitUrl": f"{repo.url}/commit/{oid}"}
        self._send(200, told | {"success": True, "hookOutput": ""})

    def _read(self, repo: Repo, what: str, place: int) -> None:
        files = repo.commits[place][1]
        if what == "revision":
            names = [{"rfilename": name} for name in files]
            self._send(
                200,
                {
                    "id": "/".join(repo.url.split("/")[-2:]),
                    "sha": f"{place:040d}",
                    "siblings": names,
                },
            )
        else:
            assert what == "tree"
            self._send(
                200,
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
                    for name, content in files.items()
                ],
            )

    def _file(self, repo: Repo, revision: str, name: str) -> None:
        place = repo.place(revision)
        content = repo.commits[place][1][name]
        headers = {"X-Repo-Commit": f"{place:040d}", "ETag": f'"{_digest(content)}"'}
        self._send(200, content, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, told: Any, headers: dict[str, str] | None = None) -> None:
        content = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
