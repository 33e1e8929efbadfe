"""The first notebook in a real JupyterLab: it runs, its slider answers to the keyboard, its figures are drawn."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api")
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_first_look.ipynb"
SHORT = 'import os\nos.environ["ADAPTWIN_SHORT"] = "1"'
FIND_CELL = """(words) => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const index = notebook.widgets.findIndex(cell => cell.model.sharedModel.getSource().includes(words));
    notebook.activeCellIndex = index;
    notebook.scrollToItem(index, 'start');
    return index;
}"""


@pytest.fixture
def first_look(open_notebook, tmp_path: Path):
    """The notebook without its results, told to be short, open and run from top to bottom."""
    document = nbformat.read(NOTEBOOK, as_version=4)
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    document.metadata.pop("widgets", None)
    document.cells.insert(0, nbformat.v4.new_code_cell(SHORT))
    file = tmp_path / "first_look.ipynb"
    nbformat.write(document, file)
    notebook = open_notebook(file)
    notebook.run_all(seconds=300)
    return notebook


@pytest.mark.notebook
def test_the_first_look_in_jupyterlab(first_look, lab):
    page = first_look.page

    def cell(words: str):
        """The cell whose source holds these words, scrolled into view: Lab draws no other."""
        index = page.evaluate(FIND_CELL, words)
        assert index >= 0
        return page.locator(f'.jp-Cell[data-windowed-list-index="{index}"]')

    spectra = cell("figures.spectra(twins)")
    spectra.locator(".js-plotly-plot .scatterlayer .trace").nth(20).wait_for(timeout=15_000)

    budget = cell("widgets.FloatSlider(")
    ranks = budget.locator(".js-plotly-plot .heatmap-label")
    ranks.first.wait_for(timeout=15_000)
    costs = budget.locator(".jp-OutputArea-output", has_text="Whole model")
    kept, cost = ranks.all_text_contents(), costs.inner_text()
    handle = budget.locator(".noUi-handle")
    handle.focus()
    for _ in range(2):  # the first message of a control takes another way through the kernel than the next
        page.keyboard.press("ArrowRight")
    budget.get_by_text("55%").wait_for(timeout=10_000)
    playwright.expect(costs).not_to_have_text(cost, timeout=10_000)
    playwright.expect(ranks).not_to_have_text(kept, timeout=10_000)
    playwright.expect(ranks).to_have_count(len(kept))
    assert budget.locator(".js-plotly-plot").count() == 1

    frontier = cell("study.figure()")
    frontier.locator(".js-plotly-plot .scatterlayer .trace").nth(3).wait_for(timeout=15_000)
    assert frontier.locator(".errorbars path").count() >= 6
    assert "Word errors against compression" in frontier.locator(".gtitle").text_content()

    said = cell("study.draw()").inner_text()
    written = re.search(r"runs/first_look/\S+/frontier\.html", said)
    assert written and (lab.root / written.group()).is_file()
