"""The Studio in a real JupyterLab: the path a person takes, by mouse and by keyboard, and no console error."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import nbformat
import pytest
from labdrive import IDLE, VOILAS_OWN, free_port

playwright = pytest.importorskip("playwright.sync_api")
SETUP = """
import adaptwin_widgets as aw
model = aw.load("tiny.en")
speech = {name: corpus.head(8) for name, corpus in aw.demo_speech().items()}
"""
STUDIO = """
studio = aw.Studio(model, [speech["target_train"], speech["general_train"]], folder={folder!r}, windows=4,
                   eval={{"target": speech["target_dev"].head(3), "general": speech["general_dev"].head(3)}})
studio
"""
SET_SOURCE = """([index, text]) =>
    window.jupyterapp.shell.currentWidget.content.widgets[index].model.sharedModel.setSource(text)"""
LEARN = """import adaptwin_widgets as aw
planner = studio.workbench.planner
planner.learn(sensitivity=aw.Sensitivity({twin: [(0.01, 1e-3), (0.5, 0.1)] for twin in planner.twins}))"""
ASK = "print(studio.plan.budget, len(studio.study), studio.workbench.current, studio.model.source)"


def wait_idle(page, seconds: float = 240) -> None:
    page.wait_for_timeout(1500)  # what was pressed has to reach the kernel first
    page.wait_for_function(IDLE, timeout=seconds * 1000)


def told(notebook, index: int) -> str:
    """What a cell prints."""
    return "".join(output.get("text", "") for output in notebook.run(index))


def move_budget(page, presses: int) -> None:
    page.locator(".aw-budget").first.focus()
    for _ in range(presses):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => !document.querySelector('.aw-spectra').dataset.busy", timeout=30_000)


@pytest.fixture
def studio(notebook, request: pytest.FixtureRequest):
    """A notebook with the Studio drawn and everything that starts by itself over."""
    opened = notebook(SETUP, STUDIO.format(folder=f"runs/{request.node.name}"), ASK, ASK, ASK, LEARN)
    opened.page.wait_for_selector(".aw-cell", timeout=60_000)
    wait_idle(opened.page)
    return opened


def test_look_choose_and_try(studio):
    page = studio.page
    assert page.locator(".aw-cell").count() == 1 + 4 * 8  # the stem, and four layers with eight kinds of twin
    move_budget(page, 50)
    assert "{'encoder': 0.25}" in told(studio, 2)

    cell = page.locator(".aw-cell").nth(4)
    cell.scroll_into_view_if_needed()
    box = cell.bounding_box()
    before = cell.get_attribute("aria-valuetext")
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 10, steps=6)
    page.mouse.up()
    page.wait_for_function("() => !document.querySelector('.aw-spectra').dataset.busy", timeout=30_000)
    after = cell.get_attribute("aria-valuetext")
    assert after != before and re.match(r"2[4-8] of 64 ranks kept", after), after

    rank = page.get_by_role("spinbutton", name="Rank of the chosen twin")
    kept = page.locator(".aw-budget").first.input_value()
    for field in (rank, page.get_by_role("spinbutton", name="Share to remove, percent")):
        field.fill("")
        field.press("Tab")
        assert field.input_value(), "a field that is emptied asks for nothing, and shows what is"
    assert (cell.get_attribute("aria-valuetext"), page.locator(".aw-budget").first.input_value()) == (after, kept)
    page.get_by_role("button", name="Open", exact=True).click()
    assert page.locator(".aw-cell:visible").count() == 1
    page.get_by_role("button", name="Close", exact=True).click()

    other = page.locator(".aw-cell").nth(30)
    other.scroll_into_view_if_needed()
    place = other.bounding_box()
    other.dblclick()  # the first click chooses it, and moves nothing from under the second
    assert page.locator(".aw-cell:visible").count() == 1
    page.get_by_role("button", name="Close", exact=True).click()
    assert other.bounding_box() == place

    page.get_by_label("of its").select_option("multiply-adds")
    move_budget(page, 10)
    assert told(studio, 2).startswith("{} ")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("() => !document.querySelector('.aw-spectra').dataset.busy", timeout=30_000)

    damage = page.locator(".aw-numbers tr").filter(has_text="Predicted damage")
    assert "not measured" in damage.inner_text() and page.locator(".aw-meaning").is_hidden()
    studio.run(5)
    page.locator(".aw-meaning").wait_for()  # what so many nats are in word errors
    assert re.search(r"0\.\d+$", damage.inner_text().strip()), damage.inner_text()

    page.get_by_role("button", name="Only compress and score").click()
    wait_idle(page)
    said = told(studio, 3)
    assert said.startswith("{} 2 encoder-"), said  # the original and the try, which is the current one now
    assert page.locator(".aw-section-frontier").get_by_text(re.compile("encoder-")).count() >= 1

    page.locator(".aw-section-frontier").get_by_role("button", name="original").first.click()
    page.get_by_role("button", name="Go back to this try").click()
    page.wait_for_timeout(1000)
    assert told(studio, 4).startswith("{} 2 original tiny.en")
    assert page.locator(".aw-cell").nth(4).get_attribute("aria-valuetext").startswith("64 of 64")


@pytest.mark.slow
def test_tune_drag_meanwhile_stop_and_see_the_point(studio):
    page = studio.page
    move_budget(page, 60)
    tuner = page.locator(".aw-section-tuner")
    tuner.get_by_role("spinbutton", name="How long to tune").fill("30")
    tuner.get_by_role("button", name=re.compile("Compress, tune")).click()
    tuner.get_by_role("button", name="Stop and score").wait_for(timeout=10_000)
    page.wait_for_function("() => /step [1-9]/.test(document.querySelector('.aw-section-tuner').textContent)",
                           timeout=240_000)  # fmt: skip
    cell = page.locator(".aw-cell").first
    cell.focus()
    before = cell.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => !document.querySelector('.aw-spectra').dataset.busy", timeout=20_000)
    assert cell.get_attribute("aria-valuetext") != before, "the picker answers while a tune runs"
    tuner.get_by_role("button", name="Stop and score").click()
    wait_idle(page)
    assert " 2 " in told(studio, 2)
    row = page.locator(".aw-section-frontier tbody tr").filter(has_text="encoder-30").first
    assert " before" in row.inner_text(), "after tuning, and what it was before"

    listen = page.locator(".aw-section-listen")
    listen.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.aw-section-listen audio')?.duration > 0.5", timeout=30_000)
    wait_idle(page)
    assert "original" in listen.inner_text()

    hand = page.locator(".aw-section-at-hand")
    page.locator(".aw-section-frontier").get_by_role("button", name=re.compile("encoder-")).first.click()
    page.get_by_role("button", name="Go back to this try").click()
    wait_idle(page)
    hand.get_by_role("textbox").fill("small")
    hand.get_by_role("button", name="Save the small model").click()
    hand.get_by_text('aw.load("small")').wait_for(timeout=30_000)


@pytest.mark.slow
def test_a_reload_and_a_second_run_show_the_same(studio):
    page = studio.page
    move_budget(page, 20)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1500)
    page.get_by_role("checkbox", name="Goal").uncheck()
    page.get_by_role("spinbutton", name="More word errors allowed").wait_for(state="hidden")
    page.reload()
    page.wait_for_selector(".aw-cell", timeout=60_000)
    assert abs(float(page.locator(".aw-budget").first.input_value()) - 10) < 0.6
    page.get_by_role("checkbox", name="Goal").check()  # in a page that never knew of one
    page.get_by_role("spinbutton", name="More word errors allowed").wait_for()
    page.wait_for_timeout(1000)
    assert page.get_by_role("spinbutton", name="Percent at least").input_value() == "45"
    assert not page.locator(".aw-alert:not(:empty)").count()
    studio.run(1)
    page.wait_for_selector(".aw-cell")
    page.wait_for_timeout(1500)
    assert abs(float(page.locator(".aw-budget").first.input_value()) - 10) < 0.6
    assert "'encoder': 0.1" in told(studio, 2)
    text = page.evaluate("() => JSON.stringify(window.jupyterapp.shell.currentWidget.model.toJSON())")
    assert "renderSpectra" not in text and "class Editor" not in text, "a saved notebook carries no widget scripts"


@pytest.mark.slow
@pytest.mark.parametrize("version", [6, 7])
def test_stop_ends_a_tune_within_one_step(notebook, request: pytest.FixtureRequest, version: int):
    kernel = request.getfixturevalue("older_kernel") if version == 6 else "python3"
    told_steps = "print(studio.workbench.tuning['state'], studio.study.records[-1].tuning['steps'])"
    opened = notebook(
        SETUP, STUDIO.format(folder=f"runs/stop{version}"), "import ipykernel; print(ipykernel.__version__)", "pass",
        kernel=kernel,
    )  # fmt: skip
    page = opened.page
    assert told(opened, 2).startswith(f"{version}.")
    page.wait_for_selector(".aw-cell", timeout=60_000)
    wait_idle(page)
    move_budget(page, 60)
    tuner = page.locator(".aw-section-tuner")
    tuner.get_by_role("spinbutton", name="How long to tune").fill("30")
    tuner.get_by_role("button", name=re.compile("Compress, tune")).click()
    page.wait_for_function("() => /step [1-9]/.test(document.querySelector('.aw-section-tuner').innerText)",
                           timeout=240_000)  # fmt: skip
    shown = int(re.search(r"step (\d+)", tuner.inner_text())[1])
    tuner.get_by_role("button", name="Stop and score").click()
    wait_idle(page)
    page.evaluate(SET_SOURCE, [3, told_steps])
    state, steps = told(opened, 3).split()
    assert state == "done" and shown <= int(steps) <= shown + 2, "the step under way, and one the page had not heard of"


@pytest.mark.slow
def test_the_same_notebook_as_an_app(browser, tmp_path):
    document = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in (SETUP, STUDIO.format(folder="run"))]
    )
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(document, tmp_path / "app.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "voila", "app.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
            # voila's page asks other hosts for decoration; what they would say is not the Studio's doing
            page.route(lambda url: "127.0.0.1" not in url and url.startswith("http"), lambda r: r.fulfill(body=""))
            errors: list[str] = []
            page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            end = time.monotonic() + 60
            while True:
                try:
                    page.goto(f"http://127.0.0.1:{port}", timeout=180_000)
                    break
                except playwright.Error:  # it is not up yet
                    assert time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
                    time.sleep(0.5)
            page.wait_for_selector(".aw-cell", timeout=180_000)
            wait_idle(page)
            move_budget(page, 40)
            assert "20." in page.locator(".aw-numbers tbody tr").first.inner_text()
            page.get_by_role("button", name="Only compress and score").click()
            wait_idle(page)
            page.locator(".aw-section-frontier tbody tr").filter(has_text="encoder-20").wait_for(timeout=30_000)
            assert not [error for error in errors if not any(part in error for part in VOILAS_OWN)], errors
        finally:
            server.terminate()
            server.wait(20)
