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
SPEAKER = ROOT / "notebooks" / "03_adapt_to_a_speaker.ipynb"
LOW_RANK = ROOT / "notebooks" / "04_low_rank_from_scratch.ipynb"
AWAY = ROOT / "notebooks" / "05_take_it_away.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"
LIMIT = 2_000_000  # bytes of a committed notebook
MACHINE = re.compile(r"/(home|root|Users|work|tmp|usr|opt|var)/\w|[A-Z]:\\\\\w|site-packages")


def run(notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, short: bool) -> nbformat.NotebookNode:
    """Run a notebook in an empty folder; it with its results."""
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
    return document


def study_in(folder: Path) -> Study:
    """The one study a notebook left in its folder."""
    (about,) = folder.glob("**/study.json")
    return Study(about.parent)


def stderr(document: nbformat.NotebookNode) -> list[str]:
    outputs = [o for cell in document.cells for o in cell.get("outputs", [])]
    return [o["text"] for o in outputs if o.output_type == "stream" and o["name"] == "stderr"]


def said(document: nbformat.NotebookNode) -> str:
    """All that its cells printed, and the text form of what they returned."""
    outputs = [o for cell in document.cells for o in cell.get("outputs", [])]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def numbers_after(words: str, text: str) -> list[float]:
    """The number that follows these words, wherever they stand."""
    return [float(found) for found in re.findall(rf"{re.escape(words)}:?\s*(-?[\d.]+(?:e-?\d+)?)", text)]


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
    run(FIRST_LOOK, tmp_path, monkeypatch, short=True)
    check(study_in(tmp_path), points=1)


def check_studio(study: Study) -> None:
    original, small = study.records
    assert set(original.scores) == set(small.scores) == {"target", "general"}
    assert small.sizes["encoder_reduction"] == pytest.approx(0.3, abs=0.005) and small.tuning is None
    assert "measured" in small.plan["method"]


@pytest.mark.notebook
def test_the_studio_in_its_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(STUDIO, tmp_path, monkeypatch, short=True)
    check_studio(study_in(tmp_path))


def check_speaker(study: Study, points: int) -> None:
    assert study.records[0].name == "original" and len(study) == points + 1
    for record in study.records[1:]:
        assert set(record.untuned) == set(record.scores) == {"target", "general"}
        assert record.tuning is not None and record.tuning["steps"] >= 1


def check_low_rank(document: nbformat.NotebookNode) -> None:
    """The identities the notebook prints hold."""
    text = said(document)
    for one, other in (
        ("what was lost", "what was left out"),
        ("tr(Cq D Ck Dᵀ)", "sum of s² left out"),
        ("error a row", "; sum of s² left out"),
    ):
        assert numbers_after(one, text)[0] == pytest.approx(numbers_after(other, text)[0], rel=1e-6)
    assert numbers_after("the library agrees", text) == [] and "the library agrees:     True" in text
    for claim in ("largest change of the product", "attention changes by", "bias folded: differs by"):
        assert numbers_after(claim, text)[0] < 1e-10
    weights, speech = numbers_after("weights alone", text), numbers_after("with speech", text)
    assert weights[-1] > 2 * speech[-1], "word errors of the whole model"


def check_away(document: nbformat.NotebookNode, folder: Path) -> None:
    """Every form is on disk, and the other runtimes wrote what this one wrote."""
    for name, file in {"small": "model.safetensors", "ct2-float16": "model.bin", "ct2-int8": "model.bin"}.items():
        assert list(folder.glob(f"**/{name}/{file}")), name
    assert list(folder.glob("**/onnx/*.onnx"))
    assert "faster-whisper:  Do you still have the recipe for that lemon cake?" in said(document)


@pytest.mark.notebook
def test_low_rank_from_scratch_in_its_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_low_rank(run(LOW_RANK, tmp_path, monkeypatch, short=True))


@pytest.mark.notebook
def test_the_speaker_in_its_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(SPEAKER, tmp_path, monkeypatch, short=True)
    check_speaker(study_in(tmp_path), points=1)


@pytest.mark.notebook
def test_take_it_away_in_its_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_away(run(AWAY, tmp_path, monkeypatch, short=True), tmp_path)


@pytest.mark.slow
@pytest.mark.notebook
def test_low_rank_from_scratch_as_a_reader_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_low_rank(run(LOW_RANK, tmp_path, monkeypatch, short=False))


@pytest.mark.slow
@pytest.mark.notebook
def test_the_speaker_as_a_reader_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(SPEAKER, tmp_path, monkeypatch, short=False)
    check_speaker(study_in(tmp_path), points=3)


@pytest.mark.slow
@pytest.mark.notebook
def test_take_it_away_as_a_reader_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_away(run(AWAY, tmp_path, monkeypatch, short=False), tmp_path)


@pytest.mark.slow
@pytest.mark.notebook
def test_the_studio_as_a_reader_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(STUDIO, tmp_path, monkeypatch, short=False)
    study = study_in(tmp_path)
    check_studio(study)
    original, small = study.records
    for name, score in small.scores.items():  # untuned, but with ranks by measured damage
        assert score["wer"] < original.scores[name]["wer_high"] + 10


@pytest.mark.slow
@pytest.mark.notebook
def test_the_first_look_as_a_reader_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(FIRST_LOOK, tmp_path, monkeypatch, short=False)
    study = study_in(tmp_path)
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


def test_a_committed_notebook_ends_with_exercises_whose_solutions_are_hidden(committed: Path):
    texts = [c.source for c in nbformat.read(committed, as_version=4).cells if c.cell_type == "markdown"]
    exercises = "\n".join(texts).partition("## Exercises")[2]
    asked = len(re.findall(r"^\*\*\d+\.\*\* ", exercises, flags=re.M))
    assert asked >= 3
    assert exercises.count("<details><summary>Solution</summary>") == exercises.count("</details>") == asked


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
