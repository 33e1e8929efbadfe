"""The notebooks run from top to bottom, and what is committed of them is what a reader can use."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.study import Study

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIRST_LOOK = ROOT / "notebooks" / "01_first_look.ipynb"
STUDIO = ROOT / "notebooks" / "02_choose_ranks.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"
LIMIT = 2_000_000  # bytes of a committed notebook
MACHINE = re.compile(r"/(home|root|Users|work|tmp|usr|opt|var)/\w|[A-Z]:\\\\\w|site-packages")


def run(notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, short: bool) -> Study:
    """Run a notebook in an empty folder; the one study it left there."""
    monkeypatch.delenv("ADAPTWIN_SHORT", raising=False)
    if short:
        monkeypatch.setenv("ADAPTWIN_SHORT", "1")
    monkeypatch.setenv("ADAPTWIN_RUNS", str(folder / "results"))
    document = nbformat.read(notebook, as_version=4)
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    NotebookClient(document, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    assert not stderr(document)
    (about,) = folder.glob("**/study.json")
    return Study(about.parent)


def stderr(document: nbformat.NotebookNode) -> list[str]:
    outputs = [o for cell in document.cells for o in cell.get("outputs", [])]
    return [o["text"] for o in outputs if o.output_type == "stream" and o["name"] == "stderr"]


def check(study: Study, points: int) -> None:
    """The study is whole: the original and every point, real rates, a smaller model, its plan, and the page."""
    assert study.records[0].name == "original"
    assert len(study) == points + 1
    for record in study.records:
        assert set(record.scores) == {"target speaker", "everyone else"}
        for score in [*record.scores.values(), *record.untuned.values()]:
            assert math.isfinite(score["wer"])
            assert score["wer_low"] <= score["wer"] <= score["wer_high"]
    for record in study.records[1:]:
        assert set(record.untuned) == set(record.scores)
        assert record.tuning is not None and record.tuning["steps"] >= 1
        small = study.model(record.name).model.num_parameters()
        assert small == record.sizes["parameters_after"] < record.sizes["parameters_before"]
    page = (study.folder / "frontier.html").read_text(encoding="utf-8")
    assert all(record.name in page for record in study.records)
    plan = RankPlan.load(study.folder.parent / "plan.json")
    assert plan.reductions["encoder_reduction"] == pytest.approx(0.45, abs=0.005)


@pytest.mark.notebook
def test_the_first_look_in_its_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check(run(FIRST_LOOK, tmp_path, monkeypatch, short=True), points=1)


@pytest.mark.notebook
def test_the_studio_in_its_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = run(STUDIO, tmp_path, monkeypatch, short=True)
    original, small = study.records
    assert set(original.scores) == set(small.scores) == {"target", "general"}
    assert small.sizes["encoder_reduction"] == pytest.approx(0.3, abs=0.005) and small.tuning is None
    assert "measured" in small.plan["method"]


@pytest.mark.slow
@pytest.mark.notebook
def test_the_first_look_as_a_reader_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = run(FIRST_LOOK, tmp_path, monkeypatch, short=False)
    check(study, points=3)
    original, mildest = study.records[:2]
    for name, score in mildest.scores.items():  # a fifth of the encoder less is no disaster, even on this speech
        assert score["wer"] < original.scores[name]["wer_high"] + 10


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def committed(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_notebooks():
    assert FIRST_LOOK in NOTEBOOKS


def test_a_committed_notebook_holds_its_results(committed: Path):
    document = nbformat.read(committed, as_version=4)
    nbformat.validate(document)
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [o for o in outputs if o.output_type == "error"]
    assert not stderr(document)
    assert not [o for o in outputs if "starting …" in str(o.get("data", {}))], "a step that never reported"


def test_a_committed_notebook_has_a_still_picture_of_every_figure(committed: Path):
    outputs = [o for cell in nbformat.read(committed, as_version=4).cells for o in cell.get("outputs", [])]
    figures = [o.data for o in outputs if PLOTLY in o.get("data", {})]
    assert figures
    assert all("image/png" in data for data in figures), "run notebooks/make_results.py where Chromium is installed"


def test_a_committed_notebook_is_small_and_names_no_machine(committed: Path):
    text = committed.read_text(encoding="utf-8")
    assert len(text.encode()) < LIMIT
    assert '"_esm"' not in text, "the script of a FigureWidget is in it"
    document = json.loads(text)
    for cell in document["cells"]:
        for output in cell.get("outputs", []):
            # Audio and pictures are base64, whose letters and slashes can spell anything.
            words = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            said = re.sub(r"base64,[A-Za-z0-9+/=]+", "", json.dumps([output.get("text"), words]))
            assert not (found := MACHINE.search(said)), found
