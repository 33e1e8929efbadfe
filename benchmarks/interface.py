"""From key press to drawn, in a real JupyterLab in a real browser; a naive FigureWidget beside it in the same run.

    python benchmarks/interface.py [--json] [--model base] [--presses 40]

Three figures, each from many key presses in Chromium: one rank changed on the rank picker; the budget moved
(allocation included); the same rank change while a tune runs in the background with its own choice of threads.
"Drawn" is the first frame after the kernel's answer to that very press is on the canvas and in the table.
Also: seconds from running the cell to the first drawing of picker and frontier, and what the browser was sent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "browser"))

SETUP = """
import adaptwin_widgets as aw
model = aw.load({model!r})
speech = {{name: corpus.head(20) for name, corpus in aw.demo_speech().items()}}
"""
STUDIO = """
studio = aw.Studio(model, [speech["target_train"], speech["general_train"]], start=False, windows=4,
                   eval={{"target": speech["target_dev"].head(4), "general": speech["general_dev"].head(4)}})
studio
"""
TUNE = """
bench = studio.workbench
bench.planner.commit(bench.planner.budget("encoder", 0.3))
task = bench.attempt(minutes=30)
"""
NAIVE = """
import numpy as np, plotly.graph_objects as go
from ipywidgets import IntSlider, VBox
twins = {name: v for name, v in studio.workbench.spectra.values.items() if name.kind != "feed_forward"}
rows = [v[h] for v in twins.values() for h in range(len(v))]
figure = go.FigureWidget([go.Scatter(y=row, mode="lines") for row in rows])
slider = IntSlider(min=1, max=64, value=64, description="naive")
def moved(change):
    for trace, row in zip(figure.data, rows):  # one assignment a curve
        trace.y = np.where(np.arange(len(row)) < change.new, row, np.nan)
    figure.layout.title.text = f"seq {change.new}"
slider.observe(moved, "value")
VBox([slider, figure])
"""
# Resolves with milliseconds once the answer to the press is drawn: a frame after the mark is on the element.
WATCH = """(selector) => {
  const root = document.querySelector('.aw-spectra'), target = document.querySelector(selector);
  window.awTimes = [];
  window.awBusy = false;
  target.focus();
  target.addEventListener('keydown', () => {
    const begun = performance.now(), before = root.dataset.drawn;
    window.awBusy = true;
    const look = () => {
      if (root.dataset.drawn !== before && root.dataset.drawn === root.dataset.seq && !root.dataset.busy) {
        window.awTimes.push(performance.now() - begun);
        window.awBusy = false;
      } else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
}"""
WATCH_NAIVE = """() => {
  window.awTimes = [];
  const handle = document.querySelector('.noUi-handle');
  handle.focus();
  handle.addEventListener('keydown', () => {
    const begun = performance.now(), title = () => document.querySelector('.gtitle')?.textContent;
    const before = title();
    window.awBusy = true;
    const look = () => {
      if (title() !== before) { window.awTimes.push(performance.now() - begun); window.awBusy = false; }
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }, true);
}"""


def press(page, presses: int, keys: tuple[str, ...], pause: int = 120) -> list[float]:
    """Times of the presses; the first three warm up."""
    for number in range(presses + 3):
        page.keyboard.press(keys[number % len(keys)])
        page.wait_for_function("() => !window.awBusy", timeout=30_000)
        page.wait_for_timeout(pause)
    return page.evaluate("window.awTimes")[3:]


def figures(name: str, times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        f"{name}_median_ms": round(statistics.median(ordered), 1),
        f"{name}_p95_ms": round(ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))], 1),
    }


def measure(model: str, presses: int) -> dict[str, float | int | str]:
    from labdrive import NotebookPage, chromium, find_chromium, jupyterlab

    executable = find_chromium()
    if executable is None:
        sys.exit("Chromium is missing; install it (apt-get install chromium) and run this again.")
    cells = [SETUP.format(model=model), STUDIO.format(), TUNE, "task.cancel()", NAIVE]
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    result: dict[str, float | int | str] = {"model": model, "presses": presses}
    with tempfile.TemporaryDirectory() as folder:
        root, settings = Path(folder, "work"), Path(folder, "settings")
        root.mkdir()
        nbformat.write(document, root / "interface.ipynb")
        with jupyterlab(root, settings) as lab, chromium(executable) as browser:
            page = browser.new_context(viewport={"width": 1280, "height": 1400}).new_page()
            sent = {"bytes": 0}
            page.on("websocket", lambda socket: socket.on("framereceived", lambda data: _count(sent, data)))
            notebook = NotebookPage(page)
            notebook.open(lab, "interface.ipynb")
            notebook.run(0, seconds=300)
            sent["bytes"] = 0
            page.evaluate("window.awBegan = performance.now()")
            page.evaluate(FIRST)
            notebook.run(1, seconds=300)
            page.wait_for_function("() => window.awPicker && window.awFrontier", timeout=60_000)
            result["picker_first_s"] = round(page.evaluate("window.awPicker") / 1000, 2)
            result["frontier_first_s"] = round(page.evaluate("window.awFrontier") / 1000, 2)
            page.wait_for_timeout(2000)
            result["sent_mb"] = round(sent["bytes"] / 1e6, 2)

            page.evaluate(WATCH, ".aw-cell")
            result |= figures("rank", press(page, presses, ("ArrowLeft",), 500))  # each its own change, committed
            page.evaluate(WATCH, ".aw-budget")
            result |= figures("budget", press(page, presses, ("ArrowRight",)))
            notebook.run(2)
            page.wait_for_function(
                "() => document.querySelector('.aw-section-tuner').textContent.match(/[Ss]tep\\\\s*[1-9]/)",
                timeout=300_000,
            )
            page.evaluate(WATCH, ".aw-cell")
            result |= figures("tuning", press(page, presses, ("ArrowLeft", "ArrowRight"), 500))
            notebook.run(3)
            page.wait_for_function(
                "() => document.querySelector('.aw-section-jobs').innerText.includes('Nothing')", timeout=120_000
            )
            notebook.run(4, seconds=120)
            page.wait_for_selector(".gtitle", state="attached", timeout=60_000)
            page.evaluate(WATCH_NAIVE)
            result |= figures("naive", press(page, max(8, presses // 5), ("ArrowLeft",)))
            result["errors"] = len(notebook.errors)
            notebook.close()
    result["naive_over_rank"] = round(float(result["naive_median_ms"]) / float(result["rank_median_ms"]), 1)
    return result


FIRST = """() => {
  const look = () => {
    const now = performance.now() - window.awBegan;
    if (!window.awPicker && document.querySelector('.aw-spectra')?.dataset.drawn !== undefined) window.awPicker = now;
    if (!window.awFrontier && document.querySelector('.aw-section-frontier .main-svg')) window.awFrontier = now;
    if (!window.awPicker || !window.awFrontier) requestAnimationFrame(look);
  };
  look();
}"""


def _count(sent: dict[str, int], data: str | bytes) -> None:
    sent["bytes"] += len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", default="base")
    parser.add_argument("--presses", type=int, default=40)
    chosen = parser.parse_args()
    result = measure(chosen.model, chosen.presses)
    if chosen.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
