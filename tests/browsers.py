"""This machine's Chromium for tests of the page; without one they are skipped, and say why."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds, for a machine that has other things to do


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright; skips the test that asks where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser on this machine: none of {', '.join(NAMES)} is on the PATH")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Sheet:
    """An open page, and everything that it said and asked for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        size = {"width": 1280, "height": 900}
        self.context = browser.new_context(viewport=size, **options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("dialog", self._dialog)
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(address)
        self.settle()

    def settle(self) -> None:
        """Until everything is drawn that was asked for."""
        self.tab.wait_for_selector("html[data-ready=all]")
        self.tab.wait_for_function("!compfast.busy()")

    def choose(self, name: str, value: str) -> None:
        self.tab.select_option(f"#choose-{name}", value)
        self.settle()

    def text(self, selector: str) -> str:
        return str(self.tab.inner_text(selector))

    def close(self) -> None:
        self.context.close()

    def _dialog(self, dialog: Any) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()


def written(folder: Path, text: str) -> str:
    """The address of a page with this text."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "index.html"
    file.write_text(text, encoding="utf-8")
    return file.as_uri()
