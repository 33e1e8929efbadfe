"""The recorder in JupyterLab, with a sound file as its microphone: three prompts are read, and tuned on."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from labdrive import NotebookPage, jupyterlab, launched

import adaptwin_widgets as aw

playwright = pytest.importorskip("playwright.sync_api")
SETUP = """
import adaptwin_widgets as aw
model = aw.load("tiny.en")
said = {said!r}
recorder = aw.Recorder(model, "speech/me", prompts=[said, "Charles watched the cheerful children.", said + " Yes."])
recorder
"""
TUNE = """
mine = recorder.corpus + aw.demo_speech()["target_train"].head(6)  # of three alone none could be held out
recipe = aw.Recipe(model, [mine], windows=2, allocation="energy")
tuned = recipe.tune(recipe.compress(recipe.plan(encoder=0.2)), steps=2)
print(len(recorder.corpus), tuned.notes["tuning"]["steps"])
"""


@pytest.mark.slow
def test_three_prompts_are_recorded_and_tuned_on(browser, browser_path: str, tmp_path: Path):
    clip = aw.demo_speech()["target_dev"][0]
    sound = tmp_path / "microphone.wav"  # over and over, with a pause
    soundfile.write(sound, np.concatenate([np.zeros(8000), clip.samples(), np.zeros(16000)]), 16_000, subtype="PCM_16")
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP.format(said=clip.text), TUNE)]
    document = nbformat.v4.new_notebook(cells=cells)
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "python3"}
    root = tmp_path / "work"
    root.mkdir()
    nbformat.write(document, root / "recorder.ipynb")
    microphone = (
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound}",
    )  # fmt: skip
    with (
        jupyterlab(root, tmp_path / "settings") as lab,
        launched(browser.browser_type, browser_path, *microphone) as listening,
    ):
        page = listening.new_context(viewport={"width": 1280, "height": 1000}, permissions=["microphone"]).new_page()
        notebook = NotebookPage(page)
        notebook.open(lab, "recorder.ipynb")
        notebook.run(0, seconds=120)
        recorder = page.locator(".aw-recorder")
        status = recorder.get_by_role("status")

        def read() -> None:
            recorder.get_by_role("button", name="● Record").click()
            recorder.get_by_role("button", name="■ Stop").wait_for(timeout=20_000)
            page.wait_for_function("() => document.querySelector('.aw-recorder meter').value > -40", timeout=20_000)
            page.wait_for_timeout(1000 * (clip.duration + 1))
            recorder.get_by_role("button", name="■ Stop").click()

        read()
        playwright.expect(status).to_contain_text("✓ Kept", timeout=60_000)
        recorder.get_by_role("button", name="Play").click()
        page.wait_for_function("() => document.querySelector('.aw-recorder audio').duration > 1", timeout=20_000)
        recorder.get_by_role("button", name="Next").click()
        playwright.expect(recorder.locator(".aw-recorder-prompt")).to_have_text(
            "Charles watched the cheerful children."
        )
        read()
        playwright.expect(status).to_contain_text("The model heard", timeout=60_000)
        recorder.get_by_role("button", name="Keep it all the same").click()
        playwright.expect(status).to_contain_text("✓ Kept", timeout=20_000)
        recorder.get_by_role("button", name="Next").click()
        read()
        playwright.expect(status).to_contain_text("✓ Kept", timeout=60_000)
        playwright.expect(recorder).to_contain_text("3 recorded")
        page.screenshot(path=tmp_path / "recorder.png")
        told = "".join(output.get("text", "") for output in notebook.run(1, seconds=400))
        errors = list(notebook.errors)
        notebook.close()
    assert told.split() == ["3", "2"], told
    assert not errors, errors
    corpus = aw.Corpus.from_manifest(root / "speech" / "me" / "manifest.jsonl")
    assert [u.speaker for u in corpus] == ["me"] * 3
    assert all(soundfile.info(u.path).samplerate == 16_000 for u in corpus)
