"""Drive a real JupyterLab, or Notebook 7, in a real Chromium, for tests.

The server listens on the loopback address only, keeps its settings in a directory of its own, and takes a
token that lives as long as the test run, so that nothing else on the machine can use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the skip without Playwright has to be able to import this module
    from playwright.sync_api import Browser, BrowserType, Page

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Everything the server and Lab are told; written as files, so that no user's settings mix in.
SERVER_CONFIG = {
    "ServerApp": {"ip": "127.0.0.1", "port_retries": 0, "open_browser": False, "allow_root": True},
    "LabApp": {
        "expose_app_in_browser": True,
        "news_url": None,
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    },
    "JupyterNotebookApp": {"expose_app_in_browser": True},
}
PLACES = {"jupyterlab": "lab/tree", "notebook": "notebooks"}  # by module: where it shows a notebook
LAB_SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}

# Parts of errors that are voila's own: its bundle cannot share modules with some extensions that are installed beside
# it, and its word that a visitor has left carries no token and is refused.
VOILAS_OWN = ("favicon", "The getter for the shared module is not a function", "/voila/api/shutdown")

# Lab's current notebook, its kernel's state, one cell's outputs: asked of the application itself.
KERNEL_STATUS = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
START_CELL = """(index) => {
    const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
    notebook.deselectAll();
    notebook.activeCellIndex = index;
    window.adaptwinRun = {done: false};
    const run = window.adaptwinRun;
    app.commands.execute('notebook:run-cell').finally(() => { run.done = true; });
}"""
CELL_OUTPUTS = """(index) => window.jupyterapp.shell.currentWidget.content.widgets[index]
    .model.outputs?.toJSON() ?? []"""
CELL_TYPES = "() => window.jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.type)"


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome, or None."""
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its token, the folder it shows, its own files (`data`: kernels), its place
    for notebooks."""

    url: str
    token: str
    root: Path
    data: Path
    place: str = PLACES["jupyterlab"]

    def address(self, notebook: str) -> str:
        return f"{self.url}/{self.place}/{notebook}?reset&token={self.token}"


@contextlib.contextmanager
def jupyterlab(root: Path, settings: Path, seconds: float = 90, module: str = "jupyterlab") -> Iterator[Lab]:
    """JupyterLab (or "notebook") showing `root`, with all of its own files under `settings`; stopped at the end.

    Raises RuntimeError with the end of the server's log if it does not answer within `seconds`.
    """
    config = settings / "config"
    user = config / "lab" / "user-settings"
    for name, values in LAB_SETTINGS.items():
        file = user / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    (config / "jupyter_server_config.json").write_text(json.dumps(SERVER_CONFIG))

    port, token = free_port(), secrets.token_hex(16)
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(settings / "data"),
        "JUPYTER_RUNTIME_DIR": str(settings / "runtime"),
        "IPYTHONDIR": str(settings / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_TOKEN": token,
    }
    command = [sys.executable, "-m", module, f"--port={port}", f"--ServerApp.root_dir={root}"]
    log = settings / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            lab = Lab(f"http://127.0.0.1:{port}", token, root, settings / "data", PLACES[module])
            _wait_until_up(lab, server, log, seconds)
            yield lab
        finally:
            server.terminate()  # the server takes its kernels with it
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_until_up(lab: Lab, server: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    request = urllib.request.Request(f"{lab.url}/api/status", headers={"Authorization": f"token {lab.token}"})
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(request, timeout=5).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, launched(playwright.chromium, executable) as browser:
        yield browser


@contextlib.contextmanager
def launched(kind: BrowserType, executable: str, *flags: str) -> Iterator[Browser]:
    """A headless Chromium of a Playwright that runs already (there is one a process), `browser.browser_type`, with more
    flags. Its sandbox is off only for root, who cannot have one."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    browser = kind.launch(executable_path=executable, args=[*CHROMIUM_FLAGS, *flags], chromium_sandbox=not root)
    yield browser
    browser.close()


IDLE = "() => document.querySelector('.aw-section-jobs')?.innerText.includes('Nothing is running')"


def compress_and_score(page: Page, presses: int, name: str, *, short: int, long: int) -> None:
    """In a Studio on this page, press the encoder's budget up, make the small model and wait for its row in the
    frontier. short, long: milliseconds that a drawing and the work may take."""
    page.locator(".aw-budget").first.focus()
    for _ in range(presses):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => !document.querySelector('.aw-spectra').dataset.busy", timeout=short)
    page.get_by_role("button", name="Only compress and score").click()
    page.wait_for_timeout(1500)
    page.wait_for_function(IDLE, timeout=long)
    page.locator(".aw-section-frontier tbody tr").filter(has_text=name).wait_for(timeout=short)


@dataclass
class NotebookPage:
    """One notebook open in the browser.

    `page` is Playwright's, for clicks and keys; `errors` fills with what the browser's console calls errors
    and with uncaught exceptions of its scripts.
    """

    page: Page
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def open(self, lab: Lab, name: str, seconds: float = 90) -> None:
        self.page.goto(lab.address(name))
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=seconds * 1000)
        self.page.wait_for_function(f"() => {KERNEL_STATUS} === 'idle'", timeout=seconds * 1000)

    def run(self, index: int, seconds: float = 60) -> list[dict]:
        """Run one cell as a user does and return its outputs; an exception in it is an AssertionError."""
        self.page.evaluate(START_CELL, index)
        self.page.wait_for_function("() => window.adaptwinRun.done", timeout=seconds * 1000)
        outputs = self.outputs(index)
        raised = [o for o in outputs if o["output_type"] == "error"]
        assert not raised, f"cell {index}: {raised[0]['ename']}: {raised[0]['evalue']}"
        return outputs

    def run_all(self, seconds: float = 60) -> None:
        """Run every code cell from top to bottom; `seconds` is for each."""
        for index, kind in enumerate(self.page.evaluate(CELL_TYPES)):
            if kind == "code":
                self.run(index, seconds)

    def outputs(self, index: int) -> list[dict]:
        """The cell's outputs in the notebook format."""
        return self.page.evaluate(CELL_OUTPUTS, index)

    def close(self) -> None:
        """Shut the kernel down and leave."""
        with contextlib.suppress(Exception):  # a page that never came up has no session to end
            self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
