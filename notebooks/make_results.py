"""Run a notebook from top to bottom and keep it with its results, as it is committed and as `make demo` shows it.

    python notebooks/make_results.py notebooks/01_first_look.ipynb                 # in place
    python notebooks/make_results.py notebooks/01_first_look.ipynb -o runs/demo    # a copy, and a page beside it

Where Chromium and Playwright are there, every plotly figure gets a still picture beside it, for viewers that do
not know plotly; the page needs neither, its figures stay interactive and are drawn without a network.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import plotly.io as pio
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
WIDTH = 820  # pixels of a still picture: the width of a cell in a window of 1280
DRAW = """([figure, width]) => Plotly.toImage(
    {data: figure.data, layout: {...figure.layout, width, height: figure.layout.height || 450}}, {format: 'png'})"""


def run(source: Path, folder: Path) -> nbformat.NotebookNode:
    """Execute a notebook in a folder; raises nbclient's CellExecutionError at the first cell that fails."""
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel python3 is this environment's
    notebook = nbformat.read(source, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=None, record_timing=False, resources=resources).execute()
    for output in outputs(notebook, WIDGET):  # what a viewer without a kernel shows in a widget's place
        if "text/html" in output.data:  # ours say so themselves; Lab would show an error until the cell is run
            del output.data[WIDGET]
        else:
            output.data["text/plain"] = "(A control: run the notebook to use it.)"
    if not list(outputs(notebook, WIDGET)):
        notebook.metadata.pop("widgets", None)  # with every widget's script in it
    return notebook


def figures(notebook: nbformat.NotebookNode) -> Iterator[tuple[nbformat.NotebookNode, dict]]:
    """Every output that is a plotly figure, or a widget that holds one, and the figure."""
    widgets = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    for output in outputs(notebook, PLOTLY):
        yield output, output.data[PLOTLY]
    for output in outputs(notebook, WIDGET):
        for inner in widgets.get(output.data[WIDGET]["model_id"], {}).get("state", {}).get("outputs", []):
            if PLOTLY in inner.get("data", {}):
                yield output, inner["data"][PLOTLY]


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[nbformat.NotebookNode]:
    """The outputs of a notebook that come in this MIME type."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in found if kind in output.get("data", {})]


def add_pictures(notebook: nbformat.NotebookNode) -> bool:
    """Put a PNG beside every plotly figure; whether the browser to draw them is there."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "browser"))
    if importlib.util.find_spec("playwright") is None or importlib.util.find_spec("labdrive") is None:
        return False
    from labdrive import chromium, find_chromium

    if (executable := find_chromium()) is None:
        return False
    with chromium(executable) as browser:
        page = browser.new_page()
        page.add_script_tag(content=get_plotlyjs())
        for output, figure in figures(notebook):
            picture = page.evaluate(DRAW, [figure, WIDTH])
            output.data["image/png"] = picture.partition(",")[2]
    return True


def to_html(notebook: nbformat.NotebookNode) -> str:
    """The notebook as a page with interactive figures; plotly.js is in it once."""
    notebook = copy.deepcopy(notebook)
    for number, (output, figure) in enumerate(list(figures(notebook))):
        output.data = {"text/html": pio.to_html(figure, full_html=False, include_plotlyjs=number == 0)}
    for output in outputs(notebook, WIDGET):
        del output.data[WIDGET]
    notebook.metadata.pop("widgets", None)  # the exporter would fetch a script for them
    return HTMLExporter().from_notebook_node(notebook)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="a folder for a copy of it and a page; default: in place")
    chosen = parser.parse_args()
    notebook = run(chosen.notebook, chosen.notebook.parent)
    if not add_pictures(notebook):
        print("No still pictures: they need Chromium and Playwright.", file=sys.stderr)
    target = (chosen.output or chosen.notebook.parent) / chosen.notebook.name
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".tmp")
    nbformat.write(notebook, new)
    new.replace(target)
    if chosen.output:
        new.write_text(to_html(notebook), encoding="utf-8")
        new.replace(target.with_suffix(".html"))


if __name__ == "__main__":
    main()
