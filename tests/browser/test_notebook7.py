"""The Studio in Jupyter Notebook 7: drawn, moved by keyboard, a try made, its point seen; no console error."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from labdrive import IDLE, NotebookPage, compress_and_score, jupyterlab

playwright = pytest.importorskip("playwright.sync_api")
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_choose_ranks.ipynb"


@pytest.mark.slow
def test_the_studio_in_notebook_7(browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("notebook", reason="Notebook 7 is not installed")
    monkeypatch.setenv("ADAPTWIN_SHORT", "1")
    root, settings = tmp_path / "work", tmp_path / "settings"
    root.mkdir()
    shutil.copyfile(NOTEBOOK, root / "studio.ipynb")
    first_code = next(i for i, cell in enumerate(nbformat.read(NOTEBOOK, 4).cells) if cell.cell_type == "code")
    with jupyterlab(root, settings, module="notebook") as server:
        page = browser.new_context(viewport={"width": 1400, "height": 1100}).new_page()
        opened = NotebookPage(page)
        opened.open(server, "studio.ipynb")
        page.wait_for_timeout(1000)
        opened.errors.clear()  # what Notebook 7 says of itself before anything of ours runs
        opened.run(first_code, seconds=240)
        page.wait_for_selector(".aw-cell", timeout=60_000)
        page.wait_for_timeout(1500)
        page.wait_for_function(IDLE, timeout=240_000)
        compress_and_score(page, 50, "encoder-25", short=30_000, long=240_000)
        page.locator(".aw-section-frontier .js-plotly-plot").wait_for(timeout=30_000)
        page.locator(".aw-section-listen audio").first.wait_for(state="attached", timeout=30_000)
        errors = list(opened.errors)
        opened.close()
    assert not errors, errors
