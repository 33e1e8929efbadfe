"""The app: two visitors at once, each with a Studio of their own, code hidden, nothing asked of another host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labdrive import IDLE, VOILAS_OWN, compress_and_score, free_port

playwright = pytest.importorskip("playwright.sync_api")
APP = Path(__file__).parents[2] / "app"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[str]:
    """The address of the app as `make app` starts it, on four clips a corpus."""
    pytest.importorskip("voila", reason="the extra `app` is not installed")
    port = free_port()
    command = [sys.executable, "-m", "voila", "studio.ipynb", "--no-browser", f"--port={port}"]
    environment = {
        **os.environ, "JUPYTER_PATH": str(APP / "jupyter"), "ADAPTWIN_APP_CLIPS": "4", "TMPDIR": str(tmp_path),
    }  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=APP, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)
    assert not list(tmp_path.glob("adaptwin-visitor-*")), "a visitor's folder is left"


def visit(browser, address: str, problems: list[str]):
    """A visitor's page, in a context of its own, as another browser has; what goes wrong there joins `problems`."""
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.on("request", lambda r: problems.append(r.url) if "127.0.0.1" not in r.url and r.url[:4] == "http" else None)
    page.on("console", lambda m: problems.append(f"{m.text} {m.location.get('url')}") if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"uncaught: {error}"))
    end = time.monotonic() + 90
    while True:
        try:
            page.goto(address, timeout=240_000)
            return page
        except playwright.Error:  # it is not up yet
            assert time.monotonic() < end
            time.sleep(0.5)


def tries(page) -> str:
    return page.locator(".aw-section-frontier").inner_text()


@pytest.mark.slow
def test_two_visitors_at_once(browser, app: str, tmp_path: Path):
    problems: list[str] = []
    first, second = (visit(browser, app, problems) for _ in range(2))
    for page in (first, second):
        page.wait_for_selector(".aw-cell", timeout=240_000)
    assert "aw.Studio(" not in first.content(), "code is hidden"
    folders = list(tmp_path.glob("adaptwin-visitor-*"))
    assert len(folders) == 2
    for page in (first, second):
        page.wait_for_timeout(1500)
        page.wait_for_function(IDLE, timeout=400_000)

    compress_and_score(first, 40, "encoder-20", short=60_000, long=400_000)

    assert "encoder-20" not in tries(second)
    assert second.locator(".aw-budget").first.input_value() == "0", "the first one's budget moved the second's"
    second.reload(timeout=240_000)  # a kernel anew, and nothing of anybody's in it
    second.wait_for_selector(".aw-cell", timeout=240_000)
    second.wait_for_function(IDLE, timeout=400_000)
    assert "encoder-20" not in tries(second)
    first.locator(".aw-section-frontier tbody tr").filter(has_text="encoder-20").wait_for(timeout=10_000)
    for page in (first, second):
        page.close()
    assert not [p for p in problems if not any(part in p for part in VOILAS_OWN)], problems
