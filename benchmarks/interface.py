"""From key press to drawn, in a real JupyterLab in a real browser; a naive FigureWidget beside it in the same run.

    python benchmarks/interface.py [--json] [--model base] [--presses 40]

Three figures, each from many key presses in Chromium: one rank changed on the rank picker; the budget moved
(allocation included); the same rank change while a tune runs in the background with its own choice of threads. And
while a key is held down: the time between two frames of the table ("held").
A press is "drawn" when the frame has been painted that shows its plan on the canvas and its numbers in the table: the
page works them out. "Answer": until the frame that shows what the kernel says of it, to the press of a budget.
"Echo" is the least that JupyterLab allows such an answer, in the same run: a widget that does nothing but answer.
The naive figure redraws the encoder's query-key curves alone, by one assignment a curve, from the kernel.
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
twins = {twin: v for twin, v in studio.workbench.spectra.values.items() if str(twin).endswith(".query_key")}
twins = {twin: v for twin, v in twins.items() if twin.part == "encoder"}  # all of them take half a minute a press
rows = [v[h] for v in twins.values() for h in range(len(v))]
figure = go.FigureWidget([go.Scatter(y=row, mode="lines") for row in rows], layout={"title": {"text": "seq 64"}})
slider = IntSlider(min=1, max=64, value=64, description="naive")
def moved(change):
    for trace, row in zip(figure.data, rows):  # one assignment a curve
        trace.y = np.where(np.arange(len(row)) < change.new, row, np.nan)
    figure.layout.title.text = f"seq {change.new}"
slider.observe(moved, "value")
VBox([slider, figure])
"""
ECHO = """
import anywidget, traitlets
class Echo(anywidget.AnyWidget):
    _esm = '''export default { render({ model, el }) {
      const button = document.createElement("button");
      button.className = "aw-echo";
      button.dataset.lmSuppressShortcuts = "true";
      button.onkeydown = () => model.send({});
      model.on("change:count", () => { button.textContent = model.get("count"); });
      el.append(button);
    } }'''
    count = traitlets.Int(0).tag(sync=True)
echo = Echo()
def again(*_):
    echo.count += 1
echo.on_msg(again)
echo
"""
# An observer sees what is new as soon as the page holds it (a page that asks for every animation frame draws all of
# Lab sixty times a second meanwhile). The time is taken when the frame that shows it has been painted: `after`.
LOOK = """
  const after = (act) => {
    const channel = new MessageChannel();
    channel.port2.onmessage = act;
    channel.port1.postMessage(0);
  };
  const seen = (times, where, drawn, inFrame = false) => {
    const begun = performance.now();
    const done = () => { times.push(performance.now() - begun); window.awBusy -= 1; };
    const observer = new MutationObserver(() => {
      if (!drawn()) return;
      observer.disconnect();
      if (inFrame) after(done);
      else requestAnimationFrame(() => after(done));
    });
    window.awBusy += 1;
    observer.observe(where, { subtree: true, childList: true, characterData: true, attributes: true });
  };
  const times = window.awTimes = [];
  const answers = window.awAnswers = [];
  window.awBusy = 0;
"""
WATCH = f"""(selector) => {{
  {LOOK}
  const root = document.querySelector('.aw-spectra'), target = document.querySelector(selector);
  window.awWatch?.abort();
  window.awWatch = new AbortController();
  target.focus();
  target.addEventListener('keydown', () => {{
    const before = root.dataset.drawn;
    seen(times, root, () => root.dataset.drawn !== before, true); // marked in the frame itself
    seen(answers, root, () => !root.dataset.busy);
  }}, {{ capture: true, signal: window.awWatch.signal }});
}}"""
WATCH_ECHO = f"""() => {{
  {LOOK}
  const button = document.querySelector('.aw-echo');
  button.focus();
  button.addEventListener('keydown', () => {{
    const before = button.textContent;
    seen(times, button, () => button.textContent !== before);
  }}, {{ capture: true }});
}}"""
WATCH_NAIVE = f"""() => {{
  {LOOK}
  const title = () => [...document.querySelectorAll('.gtitle')].at(-1)?.textContent;
  const handle = document.querySelector('.noUi-handle');
  handle.dataset.lmSuppressShortcuts = 'true'; // else JupyterLab takes the arrow keys
  handle.focus();
  handle.addEventListener('keydown', () => {{
    const before = title();
    seen(times, document.body, () => title() !== before);
  }}, {{ capture: true }});
}}"""
WATCH_HELD = """() => {
  const cell = document.querySelector('.aw-numbers tbody');
  let last = null;
  window.awHeld = [];
  new MutationObserver(() => {
    const now = performance.now();
    if (last !== null && now - last < 1000) window.awHeld.push(now - last);
    last = now;
  }).observe(cell, {subtree: true, childList: true, characterData: true});
}"""


def press(page, presses: int, keys: tuple[str, ...], pause: int = 500) -> list[float]:
    """Times of the presses; the first three warm up."""
    for number in range(presses + 3):
        page.keyboard.press(keys[number % len(keys)])
        page.wait_for_function("() => !window.awBusy", timeout=60_000, polling=20)
        page.wait_for_timeout(pause)
    return page.evaluate("window.awTimes")[3:]


def hold(page, presses: int) -> list[float]:
    """Times between two drawn answers while the key that moves the cut is held down, 30 presses a second."""
    page.evaluate(WATCH_HELD)
    for _ in range(presses):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(33)
    page.wait_for_timeout(1000)
    return page.evaluate("window.awHeld")


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
    cells = [SETUP.format(model=model), STUDIO.format(), TUNE, "task.cancel()", NAIVE, ECHO]
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    result: dict[str, float | int | str] = {"model": model, "presses": presses}
    with tempfile.TemporaryDirectory() as folder:
        root, settings = Path(folder, "work"), Path(folder, "settings")
        root.mkdir()
        nbformat.write(document, root / "interface.ipynb")
        with jupyterlab(root, settings) as lab, chromium(executable) as browser:
            page = browser.new_context(viewport={"width": 1280, "height": 1400}).new_page()
            page.add_init_script(COUNT)
            notebook = NotebookPage(page)
            notebook.open(lab, "interface.ipynb")
            notebook.run(0, seconds=300)
            page.evaluate("window.awBytes = 0; window.awBegan = performance.now()")
            page.evaluate(FIRST)
            notebook.run(1, seconds=300)
            page.wait_for_function("() => window.awPicker && window.awFrontier", timeout=60_000, polling=50)
            result["picker_first_s"] = round(page.evaluate("window.awPicker") / 1000, 2)
            result["frontier_first_s"] = round(page.evaluate("window.awFrontier") / 1000, 2)
            page.wait_for_timeout(2000)
            result["sent_mb"] = round(page.evaluate("window.awBytes") / 1e6, 2)

            notebook.run(5)
            page.wait_for_selector(".aw-echo")
            page.evaluate(WATCH_ECHO)
            result |= figures("echo", press(page, presses, ("a",)))
            page.evaluate(WATCH, ".aw-cell")
            result |= figures("rank", press(page, presses, ("ArrowLeft",)))
            result |= figures("held", hold(page, presses))
            page.evaluate(WATCH, ".aw-budget")
            result |= figures("budget", press(page, presses, ("ArrowRight",)))
            result |= figures("answer", page.evaluate("window.awAnswers")[3:])
            notebook.run(2)
            page.wait_for_function(
                "() => /step [1-9]/i.test(document.querySelector('.aw-section-tuner').textContent)",
                timeout=300_000,
            )
            page.evaluate(WATCH, ".aw-cell")
            result |= figures("tuning", press(page, presses, ("ArrowLeft", "ArrowRight")))
            page.evaluate(WATCH, ".aw-budget")
            press(page, presses // 2, ("ArrowLeft", "ArrowRight"))
            result |= figures("tuning_answer", page.evaluate("window.awAnswers")[3:])
            notebook.run(3)
            page.wait_for_function(
                "() => document.querySelector('.aw-section-jobs').innerText.includes('Nothing')", timeout=120_000
            )
            notebook.run(4, seconds=120)
            page.wait_for_selector(".gtitle", state="attached", timeout=60_000)
            page.evaluate(WATCH_NAIVE)
            print(json.dumps(result), file=sys.stderr)
            result |= figures("naive", press(page, 8, ("ArrowLeft",)))
            result["errors"] = len(notebook.errors)
            notebook.close()
    result["naive_over_rank"] = round(float(result["naive_median_ms"]) / float(result["rank_median_ms"]), 1)
    return result


# Bytes that reach the page through its connections to kernels.
COUNT = """window.awBytes = 0;
window.WebSocket = class extends window.WebSocket {
  constructor(...more) {
    super(...more);
    this.addEventListener('message', ({data}) => { window.awBytes += data.byteLength ?? data.length; });
  }
};"""
FIRST = """() => {
  const note = (name) => {
    window[name] = 0;
    requestAnimationFrame((now) => { window[name] = now - window.awBegan; });
  };
  const look = () => {
    if (window.awPicker === undefined && document.querySelector('.aw-spectra')?.dataset.drawn !== undefined)
      note("awPicker");
    if (window.awFrontier === undefined && document.querySelector('.aw-section-frontier .main-svg')) note("awFrontier");
    if (window.awPicker === undefined || window.awFrontier === undefined) setTimeout(look, 5);
  };
  look();
}"""


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
