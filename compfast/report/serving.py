"""A run's page over HTTP on this machine alone, drawn anew when the run's folder changes."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from compfast.errors import CompfastError, UsageError
from compfast.report.page import asset, page, signature
from compfast.runs.reading import load
from compfast.storage import durable

HOST = "127.0.0.1"
PAGE = "/report/index.html"  # as in the folder, so that the page's links lead to the same files
SECONDS = 2  # between two looks of an open page
_HOSTS = ("127.0.0.1", "localhost")
_LIVE = "live.js"

Say = Callable[[str], None]


class Watched:
    """A run folder as an open page sees it."""

    def __init__(self, path: Path, complain: Say) -> None:
        self.path = path
        self._complain = complain
        self._lock = threading.Lock()
        self._drawn: tuple[str, str] | None = None  # version and text of the last page

    def version(self) -> str:
        """Changes when the folder does."""
        names = ["config.json", "members.parquet", "report/index.html"]
        rooms = [self.path / "checkpoints", self.path / "metrics"]
        files = [self.path / name for name in names]
        stamps = [path.stat() if path.exists() else None for path in (*files, *rooms)]
        seen = [(stamp.st_mtime_ns, stamp.st_size) if stamp else None for stamp in stamps]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    def text(self) -> str:
        """The page of now; the last one where the folder cannot be read at the moment.

        Raises CompfastError where there is none yet.
        """
        with self._lock:
            version = self.version()
            if self._drawn is None or self._drawn[0] != version:
                try:
                    self._drawn = (version, self._written() or self._made())
                except CompfastError as error:
                    self._complain(f"the page is not drawn anew: {error}")
                    if self._drawn is None:
                        raise
                    self._drawn = (version, self._drawn[1])
            return self._drawn[1]

    def _written(self) -> str | None:
        """The report of the folder, where it is this version's and newer than the tables."""
        report, members = self.path / "report" / "index.html", self.path / "members.parquet"
        if not (report.is_file() and members.is_file()):
            return None
        if report.stat().st_mtime_ns < members.stat().st_mtime_ns:
            return None
        text = durable.read_bytes(report).decode("utf-8", "replace")
        return text if signature() in text[:2000] else None

    def _made(self) -> str:
        return page(load(self.path), b"", self.path / "report")

    def file(self, parts: list[str]) -> Path | None:
        """A file of the run by its path in it; None for all that is not inside."""
        if any(part in ("", "..") or part.startswith(".") for part in parts):
            return None
        root = self.path.resolve()
        found = root.joinpath(*parts).resolve()
        return found if found.is_relative_to(root) and found.is_file() else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, watched: Watched) -> None:
        self.watched = watched
        super().__init__((HOST, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        watched, path = self.server.watched, unquote(urlsplit(self.path).path)
        name = self.headers.get("Host", "").rsplit(":", 1)[0]
        if name not in _HOSTS:  # a page of elsewhere that had this machine's address put in
            self._answer(403, "this is served to this machine alone", "text/plain")
        elif path == "/":
            self.send_response(302)
            self.send_header("Location", PAGE)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/version":
            self._answer(200, watched.version(), "text/plain")
        elif path == PAGE:
            self._page()
        else:
            self._file(watched.file(path.strip("/").split("/")))

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a line a look would hide what is worth reading."""

    def _page(self) -> None:
        try:
            text = live(self.server.watched.text())
        except CompfastError as error:
            self._answer(503, f"There is no page yet: {error}", "text/plain", refresh=True)
            return
        self._answer(200, text, "text/html")

    def _file(self, path: Path | None) -> None:
        if path is None:
            self._answer(404, "there is no such file in this run", "text/plain")
            return
        with path.open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile)

    def _answer(self, code: int, text: str, kind: str, refresh: bool = False) -> None:
        content = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        if refresh:
            self.send_header("Refresh", str(SECONDS))
        self.end_headers()
        self.wfile.write(content)


def live(text: str) -> str:
    """The page with the script that looks for changes."""
    script = asset(_LIVE).replace("SECONDS", str(SECONDS))
    head, _, tail = text.rpartition("</body>")
    return f"{head}<script>{script}</script></body>{tail}"


def server(path: Path, port: int, complain: Say) -> tuple[_Server, str]:
    """A server of the run in a folder, and its address; port 0: any that is free.

    Raises UsageError where there is no run, and for a port that is taken or none.
    """
    load(path)
    try:
        made = _Server(port, Watched(path, complain))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"port {port} cannot be served on {HOST}: {reason}") from error
    return made, f"http://{HOST}:{made.server_port}/"
