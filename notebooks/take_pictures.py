"""Take pictures of every part of the Studio as a person sees it: light and dark, at several widths.

    python notebooks/take_pictures.py -o pictures [--width 1280 1920] [--short]

Opens notebooks/02_choose_ranks.ipynb in a real JupyterLab in Chromium, runs it, makes a try, and looks.
Needs Chromium and Playwright; --short takes little speech and one tuning step.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "browser"))
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
PARTS = ("at-hand", "jobs", "picker", "tuner", "frontier", "listen")
IDLE = "() => document.querySelector('.aw-section-jobs')?.innerText.includes('Nothing is running')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--width", type=int, nargs="+", default=[1280, 1920])
    parser.add_argument("--short", action="store_true")
    chosen = parser.parse_args()
    from labdrive import NotebookPage, chromium, find_chromium, jupyterlab

    if chosen.short:
        os.environ["ADAPTWIN_SHORT"] = "1"
    executable = find_chromium()
    if executable is None:
        sys.exit("Chromium is missing; install it (apt-get install chromium) and run this again.")
    chosen.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root, settings = Path(folder, "work"), Path(folder, "settings")
        root.mkdir()
        shutil.copyfile(ROOT / "notebooks" / "02_choose_ranks.ipynb", root / "02.ipynb")
        with jupyterlab(root, settings) as lab, chromium(executable) as browser:
            page = browser.new_context(viewport={"width": chosen.width[0], "height": 1000}).new_page()
            notebook = NotebookPage(page)
            notebook.open(lab, "02.ipynb")
            notebook.run(1, seconds=180)
            page.set_default_timeout(15_000)
            page.wait_for_selector(".aw-cell")
            page.wait_for_function(IDLE, timeout=600_000)
            budget = page.locator(".aw-budget")
            budget.focus()
            for _ in range(60):
                budget.press("ArrowRight")
            page.get_by_role("button", name="Check the transcripts").click()
            page.get_by_role("button", name="Only compress and score").click()
            page.wait_for_timeout(1500)
            page.wait_for_function(IDLE, timeout=600_000)
            for theme, name in THEMES.items():
                page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
                page.wait_for_timeout(1500)
                for width in chosen.width:
                    page.set_viewport_size({"width": width, "height": 3600})  # so that no part is cut off
                    page.wait_for_timeout(1000)
                    for part in PARTS:
                        section = page.locator(f".aw-section-{part}").first
                        section.scroll_into_view_if_needed()
                        page.wait_for_timeout(300)
                        section.screenshot(path=chosen.output / f"{part}_{theme}_{width}.png")
                    cell = page.locator(".aw-cell:visible").nth(1)
                    cell.dblclick()
                    page.wait_for_timeout(800)
                    page.locator(".aw-section-picker").first.screenshot(
                        path=chosen.output / f"opened_{theme}_{width}.png"
                    )
                    page.get_by_role("button", name="← All twins").click()
                    page.wait_for_timeout(600)
                    page.screenshot(path=chosen.output / f"all_{theme}_{width}.png")
            errors = list(notebook.errors)
            notebook.close()
    for error in errors:
        print(error, file=sys.stderr)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
