"""Take the picture of a study's frontier for the README, in Chromium as a person would see it.

    python benchmarks/picture.py RUN docs/frontier.png [--width 1100] [--height 560]

Needs Playwright (in the test extra) and Chromium; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a study")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--width", type=int, default=1100)
    parser.add_argument("--height", type=int, default=560)
    chosen = parser.parse_args()
    page_file = chosen.run / "frontier.html"
    if not page_file.is_file():
        print(f"{page_file} does not exist; run a study first.", file=sys.stderr)
        return 2
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        print("Chromium is not installed; install it to take pictures.", file=sys.stderr)
        return 2
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=flags)
        page = browser.new_page(viewport={"width": chosen.width, "height": chosen.height}, device_scale_factor=1.5)
        page.goto(page_file.resolve().as_uri())
        page.wait_for_selector(".js-plotly-plot .scatterlayer .trace")
        page.wait_for_timeout(500)
        chosen.picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=chosen.picture)
        browser.close()
    print(chosen.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
