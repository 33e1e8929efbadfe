"""Fixtures of the browser tests: one JupyterLab and one Chromium a session, one fresh page a notebook.

Every test in this folder carries the marker `browser`. Without Chromium or Playwright they are skipped by
name; where ADAPTWIN_REQUIRE_BROWSER is set (continuous integration) that is a failure instead.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from labdrive import Lab, NotebookPage, chromium, find_chromium, jupyterlab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser_path() -> str:
    path = find_chromium()
    if importlib.util.find_spec("playwright") is None:
        problem = "Playwright is missing (pip install playwright)"
    elif path is None:
        problem = "Chromium is missing (apt-get install chromium)"
    else:
        return path
    if os.environ.get("ADAPTWIN_REQUIRE_BROWSER"):
        pytest.fail(f"{problem}, and ADAPTWIN_REQUIRE_BROWSER asks for it")
    pytest.skip(f"browser test: {problem}")


@pytest.fixture(scope="session")
def lab(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with jupyterlab(tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("lab-settings")) as lab:
        yield lab


@pytest.fixture(scope="session")
def browser(browser_path: str) -> Iterator:
    with chromium(browser_path) as browser:
        yield browser


@pytest.fixture
def open_notebook(lab: Lab, browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., NotebookPage]]:
    """Call with a notebook's path: it is copied into Lab's folder and opened, nothing run yet.

    At the end of the test the page's console must hold no error. ADAPTWIN_SCREENSHOTS=folder keeps a
    picture of every notebook as the test left it.
    """
    opened: list[NotebookPage] = []

    def _open(path: Path | str, name: str | None = None) -> NotebookPage:
        name = name or Path(path).name
        shutil.copyfile(path, lab.root / name)
        context = browser.new_context(viewport={"width": 1400, "height": 1100})
        notebook = NotebookPage(context.new_page())
        opened.append(notebook)
        notebook.open(lab, name)
        return notebook

    yield _open
    stem = re.sub(r"\W+", "_", request.node.name)
    for number, notebook in enumerate(opened):
        if folder := os.environ.get("ADAPTWIN_SCREENSHOTS"):
            notebook.page.screenshot(path=Path(folder) / f"{stem}_{number}.png")
        errors = list(notebook.errors)  # what closing adds is not the notebook's doing
        notebook.close()
        assert not errors, errors


@pytest.fixture(scope="session")
def older_kernel(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a kernel of this environment that runs on ipykernel 6."""
    packages = tmp_path_factory.mktemp("ipykernel6")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"--target={packages}", "ipykernel==6.31.0"]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("ipykernel 6.31.0 could not be installed beside this environment")
    folder = lab.data / "kernels" / "older"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "older", "language": "python", "env": {"PYTHONPATH": str(packages)}}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return "older"


@pytest.fixture
def notebook(open_notebook, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., NotebookPage]:
    """Call with the source of some code cells: opens a new notebook of them and runs each."""

    def _notebook(*cells: str, kernel: str = "python3") -> NotebookPage:
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        document.metadata["kernelspec"] = {"name": kernel, "display_name": kernel}
        file = tmp_path / f"{re.sub(r'[^A-Za-z0-9]+', '_', request.node.name)}.ipynb"
        nbformat.write(document, file)
        page = open_notebook(file)
        page.run_all()
        return page

    return _notebook
