"""The harness itself: a widget and a figure answer in a real JupyterLab, and failures are seen."""

import pytest

PANEL = """
import ipywidgets as widgets
import plotly.graph_objects as go

figure = go.FigureWidget([go.Scatter(y=[3, 1, 2])], {"title": {"text": "rank 8"}, "height": 300})
rank = widgets.IntSlider(value=8, min=1, max=64, description="rank")
words = widgets.Label("nothing moved yet")

def moved(change):
    figure.plotly_update({"y": [[change["new"], 1, 2]]}, {"title.text": f"rank {change['new']}"})
    words.value = f"moved to {change['new']}"

rank.observe(moved, "value")
widgets.VBox([rank, words, figure])
"""


def test_a_widget_and_a_figure_answer_to_a_key(notebook):
    page = notebook(PANEL).page
    page.locator(".gtitle", has_text="rank 8").wait_for()
    assert page.locator(".scatterlayer .trace").count() == 1

    page.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")

    page.locator(".gtitle", has_text="rank 9").wait_for(timeout=10_000)
    page.get_by_text("moved to 9").wait_for(timeout=10_000)


def test_a_cell_that_raises_is_an_error(notebook):
    with pytest.raises(AssertionError, match="cell 1: ZeroDivisionError: division by zero"):
        notebook("1 + 1", "1 / 0")


def test_a_script_that_throws_is_seen(notebook):
    page = notebook("1 + 1")
    page.page.evaluate("() => { setTimeout(() => { throw new Error('thrown on purpose') }, 0) }")
    page.page.wait_for_timeout(300)
    assert [e for e in page.errors if "thrown on purpose" in e]
    page.errors.clear()  # seen, and the fixture would object
