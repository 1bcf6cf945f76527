"""`compfast watch`: the page of a run to this machine alone, drawn anew when the run changes."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import Sheet, chromium
from small_runs import small_config

import compfast
from compfast.report import serving, write_report
from compfast.watch import main

pytestmark = pytest.mark.usefixtures("native_extension")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> compfast.Run:
    return compfast.train(small_config(), tmp_path_factory.mktemp("watch") / "a run")


@pytest.fixture
def served(run: compfast.Run) -> Iterator[Any]:
    """(server, what it complained of) while it serves."""
    complaints: list[str] = []
    server, address = serving.server(run.path, 0, complaints.append)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield address, complaints
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(address: str, path: str, **headers: str) -> tuple[int, bytes, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer
    finally:
        connection.close()


def test_the_page_and_what_it_links_to(served: Any, run: compfast.Run) -> None:
    address, _ = served
    assert address.startswith("http://127.0.0.1:")
    code, _, answer = ask(address, "/")
    assert (code, answer.headers["Location"]) == (302, serving.PAGE)
    code, content, answer = ask(address, serving.PAGE)
    assert code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    text = content.decode()
    assert "finished, 46 steps" in text
    assert "/version" in text  # the script that looks for changes
    code, content, _ = ask(address, "/members.parquet")
    assert (code, content) == (200, (run.path / "members.parquet").read_bytes())


def test_a_change_of_the_folder_is_a_new_page(served: Any, run: compfast.Run) -> None:
    address, complaints = served
    write_report(run)
    first = ask(address, "/version")[1]
    assert ask(address, "/version")[1] == first
    page = run.path / "report" / "index.html"
    marked = page.read_text().replace("</h1>", " (marked)</h1>")
    page.write_text(marked)
    assert ask(address, "/version")[1] != first
    assert b"(marked)" in ask(address, serving.PAGE)[1]  # newer than the tables, so it is shown
    old = (run.path / "members.parquet").stat().st_mtime_ns - 10**9
    os.utime(page, ns=(old, old))
    assert b"(marked)" not in ask(address, serving.PAGE)[1]  # older: drawn from the tables
    page.write_text(marked.replace('content="compfast ', 'content="another '))
    assert b"(marked)" not in ask(address, serving.PAGE)[1]  # of another version
    assert complaints == []
    page.unlink()


def test_a_folder_that_cannot_be_read_leaves_the_last_page(served: Any, run: compfast.Run) -> None:
    address, complaints = served
    config = run.path / "config.json"
    kept = config.read_bytes()
    config.write_bytes(b"{")
    try:
        code, content, answer = ask(address, serving.PAGE)
        assert (code, answer.headers["Refresh"]) == (503, "2")
        assert content.startswith(b"There is no page yet: ")
        config.write_bytes(kept)
        assert ask(address, serving.PAGE)[0] == 200
        config.write_bytes(b"[")
        code, content, _ = ask(address, serving.PAGE)
        assert code == 200
        assert b"finished, 46 steps" in content
        assert len(complaints) == 2
    finally:
        config.write_bytes(kept)


@pytest.mark.parametrize(
    "path",
    ["/../a.txt", "/%2e%2e/a.txt", "/report/../../a.txt", "//etc/passwd", "/.lock", "/link",
     "/none", "/checkpoints"],
)  # fmt: skip
def test_nothing_outside_of_the_run_is_served(served: Any, run: compfast.Run, path: str) -> None:
    (run.path.parent / "a.txt").write_text("secret")
    link = run.path / "link"
    if not link.is_symlink():
        link.symlink_to(run.path.parent / "a.txt")
    code, content, _ = ask(served[0], path)
    assert code == 404
    assert b"secret" not in content


def test_another_host_name_is_refused(served: Any) -> None:
    assert ask(served[0], serving.PAGE, Host="example.org:80")[0] == 403


def _sentence(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_what_cannot_be_served_is_one_sentence(
    run: compfast.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is not a run folder" in _sentence(capsys)
    for port in ("70000", "-1", "x", "1e3", "9" * 5000):
        assert main([str(run.path), f"--port={port}"]) == 2
        assert "from 0 to 65535" in _sentence(capsys)
    with socket.socket() as taken:
        taken.bind((serving.HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main([str(run.path), "--port", port]) == 2
    assert f"port {port} cannot be served on 127.0.0.1" in _sentence(capsys)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well(run: compfast.Run, number: signal.Signals) -> None:
    given = [sys.executable, "-m", "compfast", "watch", str(run.path)]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as told:
        assert told.stdout is not None
        line = told.stdout.readline()
        assert "is shown at http://127.0.0.1:" in line
        told.send_signal(number)
        assert told.wait(60) == 0
        assert told.stderr is not None
        assert told.stderr.read() == ""


def test_an_open_page_follows_the_run(
    served: Any, run: compfast.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SECONDS", 0.1)
    with chromium() as browser:
        sheet = Sheet(browser, f"{served[0]}report/index.html#show=other")
        sheet.tab.wait_for_selector("text=Live: this page follows the run.")
        write_report(run)
        page = run.path / "report" / "index.html"
        page.write_text(page.read_text().replace("</h1>", " (marked)</h1>"))
        sheet.tab.wait_for_selector("h1:has-text('(marked)')")
        assert "show=other" in sheet.tab.url
        assert sheet.said == []
        assert all(asked.startswith(served[0]) for asked in sheet.asked)
        sheet.close()
        page.unlink()
