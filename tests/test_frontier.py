"""The frontier: its points, its pictures, its files, two tries compared, and the widget."""

import json
import subprocess
import sys
import threading

import ipywidgets
import numpy as np
import pytest
from traitlets import HasTraits, Int, Unicode

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.figures import frontier, frontier_traces
from adaptwin_widgets.frontier import Goal, points, scene
from adaptwin_widgets.plan import RankPlan, shape_of
from adaptwin_widgets.publish import save_frontier
from adaptwin_widgets.score import paired_difference, score_texts
from adaptwin_widgets.study import Record, Study
from adaptwin_widgets.tables import rows, summary
from adaptwin_widgets.widgets.frontier import Frontier
from adaptwin_widgets.workbench import Workbench

SETS = ("target", "general", "noisy")
ORIGINAL = (4.2, 7.1, 11.0)
# name, share of the encoder removed, rates before tuning, rates after (None: not tuned)
TRIES = [
    ("encoder-15", 0.15, (4.4, 6.9, 11.8), (4.1, 7.8, 11.6)),
    ("encoder-30", 0.30, (4.6, 8.8, 14.9), (4.2, 7.7, 12.9)),
    ("encoder-30-uniform", 0.30, (9.5, 14.0, 24.0), (6.3, 10.2, 17.5)),
    ("encoder-45", 0.45, (6.3, 14.1, 23.0), (5.5, 12.1, 19.4)),
    ("encoder-60", 0.60, (151.0, 120.0, 140.0), None),
]


def score(wer, original, seconds):
    interval = {"wer_low": 0.8 * wer, "wer_high": 1.25 * wer}
    return {"wer": wer, **interval, "words": 1000, "metric": "wer", "audio_seconds": 800.0, "seconds": seconds,
            "difference": wer - original, "difference_low": wer - original - 0.6,
            "difference_high": wer - original + 0.6}  # fmt: skip


def sizes(share):
    after = 37_760_256 - 8_208_384 * share
    return {"parameters_before": 37_760_256, "parameters_after": after, "encoder_reduction": share,
            "decoder_reduction": 0.0, "model_reduction": 1 - after / 37_760_256}  # fmt: skip


def scores(rates, seconds=20.0):
    return {name: score(wer, was, seconds) for name, wer, was in zip(SETS, rates, ORIGINAL, strict=True)}


def record(name, share, before, after, plan=None):
    plan = plan or {"format": 1}
    made = {"plan": plan, "seconds": 200.0}
    if after is None:
        return Record(name, sizes(share), scores(before, 20 - 10 * share), **made)
    tuned = scores(after, 20 - 10 * share)
    return Record(name, sizes(share), tuned, untuned=scores(before, 20 - 10 * share), tuning={"steps": 90}, **made)


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path / "run", {"model": "tiny.en", "evaluations": {name: f"{name}/dev" for name in SETS}})
    study.add(Record("original", sizes(0.0), scores(ORIGINAL)))
    for values in TRIES:
        study.add(record(*values))
    return study


class Bench(HasTraits):
    """What a Frontier needs of a Workbench."""

    revision = Int(0)
    current = Unicode("original")

    def __init__(self, study):
        super().__init__()
        self.study, self.went = study, []
        study.listeners.append(self._changed)

    def _changed(self):
        self.revision += 1

    def go_back(self, name):
        if name == "encoder-60":
            raise InputError("encoder-60 has no model any more; try it again.")
        self.went.append(name)
        self.current = name

    def note(self, name, text):
        self.study.annotate(name, text)


def click(view, name, evaluation="target"):
    """What the page sends when a person clicks on a try's point."""
    for number, trace in enumerate(view.figure.data):
        if trace.mode == "markers" and trace.name == evaluation and name in (trace.customdata or ()):
            at = list(trace.customdata).index(name)
            view.figure._js2py_pointsCallback = {
                "event_type": "plotly_click", "selector": None, "device_state": None,
                "points": {"trace_indexes": [number], "point_indexes": [at], "xs": [0], "ys": [0]},
            }  # fmt: skip
            return
    raise AssertionError(f"{name} is not drawn")


@pytest.fixture
def messages(monkeypatch):
    """Everything a widget sends, as the names of the traits in each message."""
    sent = []
    plain = ipywidgets.Widget.send_state

    def send_state(self, key=None):
        names = {key} if isinstance(key, str) else set(key or self.keys)
        sent.append((self, names))
        plain(self, key)

    monkeypatch.setattr(ipywidgets.Widget, "send_state", send_state)
    return sent


# -- the points --


def test_a_point_has_its_place_on_every_axis(study):
    at = {axis: points(study, axis).set_index(["try", "stage", "evaluation"])["x"] for axis in
          ("encoder", "model", "size", "speed")}  # fmt: skip
    where = ("encoder-30", "tuned", "target")
    assert at["encoder"][where] == pytest.approx(30)
    assert at["model"][where] == pytest.approx(100 * 0.3 * 8_208_384 / 37_760_256)
    assert at["size"][where] == pytest.approx(2e-6 * (37_760_256 - 0.3 * 8_208_384))
    assert at["speed"][where] == pytest.approx(800 / 17)
    with pytest.raises(InputError, match="axis='price' does not exist; choose one of encoder, model, size, speed"):
        points(study, "price")


@pytest.mark.parametrize("axis", ["encoder", "size", "speed"])
def test_the_pareto_line_is_what_nothing_beats(study, axis):
    table = points(study, axis)
    for _, own in table.groupby("evaluation"):
        sign = -1 if axis == "size" else 1
        for _, row in own.iterrows():
            better = (sign * own["x"] >= sign * row["x"]) & (own["wer"] <= row["wer"])
            strictly = (sign * own["x"] > sign * row["x"]) | (own["wer"] < row["wer"])
            assert row["pareto"] == (not (better & strictly).any()), row["try"]
    target = table[table["evaluation"] == "target"]
    assert set(target.loc[target["pareto"], "try"]) == {"encoder-15", "encoder-30", "encoder-45", "encoder-60"}


def test_unmeasured_points_are_left_out_of_the_axis_of_speed(study):
    study.add(Record("old", sizes(0.2), {"target": {"wer": 5.0}}, plan={"format": 1}))
    assert "old" in set(points(study)["try"]) and "old" not in set(points(study, "speed")["try"])


def test_goals_are_decided_by_the_whole_interval(study):
    goal = Goal(2, least=30)
    said = {row["name"]: (row["goal"], *(s["verdict"] for s in row["sets"])) for row in rows(study, goal)}
    assert said["original"] == ("", "", "", "")
    assert said["encoder-15"] == ("too large",) * 4
    assert said["encoder-30"] == ("unclear", "met", "met", "unclear")  # noisy: +1.9 ± 0.6
    assert said["encoder-30-uniform"] == ("more errors", "unclear", "more errors", "more errors")
    half = {row["name"]: row["goal"] for row in rows(study, Goal(50, "percent", 30))}
    assert half["encoder-30"] == "met" and half["encoder-60"] == "more errors"
    assert "goal" in rows(study)[1] and not rows(study)[1]["goal"]
    assert {row["name"]: row["goal"] for row in rows(study, Goal(9, least=30, of="speed"))}["encoder-30"] == "too slow"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"worse": -1}, "worse is a number of at least 0, not -1"),
        ({"least": float("nan")}, "least is a number"),
        ({"worse": None}, "worse is a number"),
        ({"unit": "dB"}, "unit is one of points, percent, not 'dB'"),
        ({"of": "decoder"}, "of is one of encoder, model, speed"),
        ({"least": 120}, "cannot ask for 120 % removed"),
    ],
)
def test_impossible_goals_are_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        Goal(**values)


def test_the_goal_is_a_region_on_the_axes_where_it_says_something(study):
    regions = {r.evaluation: r for r in scene(study, goal=Goal(2, least=45)).regions}
    assert regions["target"].start == 45 and regions["target"].top == pytest.approx(6.2)
    assert regions["general"].top == pytest.approx(9.1)
    size = scene(study, axis="size", goal=Goal(50, "percent", 10, "model")).regions[0]
    assert size.start == pytest.approx(0.9 * 2e-6 * 37_760_256) and size.top == pytest.approx(6.3)
    speed = scene(study, axis="speed", goal=Goal(2, least=25, of="speed")).regions[0]
    assert speed.start == pytest.approx(1.25 * 40)
    assert not scene(study, axis="size", goal=Goal(of="encoder")).regions


def test_a_broken_try_does_not_press_the_others_flat(study):
    drawn = scene(study)
    assert drawn.y_range[1] < 40
    assert [(point["try"], depth) for point, depth in drawn.beyond] == [("encoder-60", i) for i in range(3)]
    arrows = [a for a in frontier(study).layout.annotations if a.showarrow is not False]
    assert sorted(a.text for a in arrows) == ["120 %", "140 %", "151 %"]
    assert 151.0 in frontier(study).data[2].y  # still there when a person zooms out


def test_better_is_further_right_on_every_axis(study):
    for axis in ("encoder", "model", "size", "speed"):
        drawn = scene(study, axis=axis)
        left, right = drawn.x_range
        share = {(p["try"], p["evaluation"]): (p["x"] - left) / (right - left) for p in drawn.points}
        assert all(0 <= value <= 1 for value in share.values())
        assert share["encoder-45", "target"] > share["original", "target"]


# -- the figure --


def test_the_figure_joins_before_and_after_and_draws_the_pareto_line(study):
    figure = frontier(study, axis="model", goal=Goal(2, least=8, of="model"))
    joined, line, hollow, filled = figure.data[:4]
    assert joined.mode == line.mode == "lines" and joined.line.width < line.line.width
    assert len(joined.x) == 3 * 4 and joined.x[2] is None
    assert hollow.marker.symbol == "circle-open" and filled.marker.symbol == "circle"
    assert set(hollow.customdata) == {name for name, *_ in TRIES}  # what was never tuned is hollow too
    assert list(filled.error_y.array) == pytest.approx([0.25 * y for y in filled.y])
    assert list(line.y) == [4.1, 4.2, 5.5, 151.0]
    assert figure.layout.xaxis.title.text == "Parameters of the whole model removed, %"
    assert [s.type for s in figure.layout.shapes].count("rect") == 3
    assert any(a.text == "goal, target: up to 6.2 %" for a in figure.layout.annotations)


def test_sets_differ_by_colour_and_marker(study):
    filled = frontier(study).data[3::4]
    assert len({t.marker.symbol for t in filled}) == len({t.marker.color for t in filled}) == 3


def test_what_a_person_wrote_is_not_read_as_tags(study):
    study.annotate("encoder-15", "<img src=x onerror=alert(1)> better")
    text = next(t for t in frontier(study).data[3].text if "encoder-15" in t)
    assert "<img" not in text and "&lt;img" in text
    assert "<img" not in summary(study) and "&lt;img" in summary(study)


def test_dark_and_light(study):
    assert frontier(study, dark=True).layout.template != frontier(study).layout.template


# -- files --


def test_a_table_and_a_page_need_nothing_else(study, tmp_path):
    table = save_frontier(study, tmp_path / "f.csv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 1 + 3 + 4 * 6 + 3 and table.startswith("try,stage,evaluation")
    page = save_frontier(study, tmp_path / "f.html", goal=Goal()).read_text(encoding="utf-8")
    assert "<script src=" not in page and "encoder-45" in page
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_pictures_for_papers_are_drawn_without_a_browser(study, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    again = [
        save_frontier(study, tmp_path / f"{i}.{suffix}", axis="size", goal=Goal(of="model", least=5)) for i in "ab"
    ]
    data = again[0].read_bytes()
    assert data == again[1].read_bytes()
    start = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix]
    assert data.startswith(start) and len(data) > 5000
    assert "matplotlib.pyplot" not in sys.modules
    if suffix == "svg":
        text = data.decode()
        assert "Model size in float16, MB" in text and "general, before tuning" in text and "up to 6.2 %" in text
        small = save_frontier(study, tmp_path / "c.svg", width=8, height=6, dark=True, title=True).read_text()
        assert "Word errors against compression, tiny.en" in small and 'width="226.7' in small


def test_pictures_of_an_empty_study(tmp_path):
    pytest.importorskip("matplotlib")
    empty = Study(tmp_path / "run", {"model": "tiny.en"})
    assert save_frontier(empty, tmp_path / "f.svg").stat().st_size > 1000


def test_what_cannot_be_saved_is_said(study, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"f\.docx cannot be written; give a name that ends in \.svg"):
        save_frontier(study, tmp_path / "f.docx")
    with pytest.raises(InputError, match="0 by 10 cm"):
        save_frontier(study, tmp_path / "f.svg", width=0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="needs matplotlib, which is not installed; run `pip install matplotlib`"):
        save_frontier(study, tmp_path / "f.svg")
    assert not list(tmp_path.glob("f.*"))


# -- notes and comparisons --


def test_a_note_changes_one_line_and_nothing_else(study):
    path = study.folder / "records.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b'{"name"', b'{"of a later version": 1, "name"', 1)
    path.write_bytes(b"\n".join(lines) + b'{"name": "torn')
    told = []
    study.listeners.append(lambda: told.append(1))
    study.annotate("encoder-15", "clear on names,\nbad on numbers – „ja“")
    after = path.read_bytes().split(b"\n")
    assert [i for i, (a, b) in enumerate(zip(lines, after, strict=True)) if a != b] == [1, len(lines) - 1]
    assert json.loads(after[1])["of a later version"] == 1
    again = Study(study.folder)
    assert again["encoder-15"].note == study["encoder-15"].note == "clear on names,\nbad on numbers – „ja“"
    assert told == [1]
    with pytest.raises(InputError, match="no try called 'nobody'"):
        study.annotate("nobody", "x")


def test_notes_and_new_records_do_not_lose_each_other(study):
    def write():
        for i in range(15):
            study.annotate("encoder-15", f"note {i}")

    thread = threading.Thread(target=write)
    thread.start()
    for i in range(15):
        study.add(record(f"more-{i}", 0.2, (5, 8, 12), None))
    thread.join()
    again = Study(study.folder)
    assert len(again) == 6 + 15 and again["encoder-15"].note == "note 14"


def test_two_tries_compared(study, tiny_en):
    config = tiny_en.config
    full = RankPlan.full(config)
    small = {k: [32] * len(v) if k.startswith("encoder") and "query" in k else list(v) for k, v in full.ranks.items()}
    plan = RankPlan(small, shape_of(config)).to_dict()
    study.add(record("halves", 0.1, (4.5, 7.0, 11.0), (4.0, 7.0, 11.0), plan))
    said = (["red green blue", "cold and wet", "one two", "go on now"], ["red green", "cold wet", "one two", "go on"])
    pair = [score_texts(said[0], said[0], "abcd"), score_texts(*said, "abcd")]
    for name, found in zip(("original", "halves"), pair, strict=True):
        study[name].scores["target"] |= {"wer": found.wer}
        found.write_hypotheses(study.point(name) / "target.hypotheses.jsonl")
    table = study.compare("original", "halves").set_index(["about", "what"])
    wer = table.loc["errors", "target"]
    expected = paired_difference(pair[1], pair[0])
    assert [wer["difference"], wer["difference_low"], wer["difference_high"]] == pytest.approx(list(expected))
    assert np.isnan(table.loc["errors", "general"]["difference_low"])
    assert table.loc["errors", "general"]["first_low"] == pytest.approx(0.8 * 7.1)
    assert table.loc["size", "encoder removed"]["difference"] == pytest.approx(10)
    ranks = table.loc["ranks"]
    assert list(ranks.index) == ["encoder.query_key"]
    assert ranks.loc["encoder.query_key", ["first", "second", "difference"]].tolist() == [64, 32, -32]
    with pytest.raises(InputError, match="no try called 'nobody'"):
        study.compare("original", "nobody")


# -- the widget --


def test_it_shows_a_study_alone(study):
    chosen = []
    view = Frontier(study, axis="size", goal=None, on_select=chosen.append)
    assert len(view.figure.data) == 2 + 4 * 3
    state = view.panel.state
    assert [row["name"] for row in state["rows"]] == [r.name for r in study.records]
    assert state["rows"][2]["sets"][0] == {
        "wer": "4.20", "interval": "[3.4, 5.2]", "difference": "0.00", "best": True, "before": "4.60",
        "verdict": "",
    }  # fmt: skip
    assert not state["live"] and state["goal"] == {}
    click(view, "encoder-30")
    assert view.selected == "encoder-30" and chosen == ["encoder-30"]
    with pytest.raises(InputError, match="study alone"):
        view.go_back()
    view.panel._receive(None, {"do": "note", "name": "encoder-30", "text": "good"}, [])
    assert Study(study.folder)["encoder-30"].note == "good" == view.panel.state["rows"][2]["note"]
    view.close()
    assert not study.listeners


def test_a_click_goes_back_to_a_try_and_rings_it(study):
    bench = Bench(study)
    view = Frontier(bench)
    selected, current = view.figure.data[:2]
    assert len(selected.x) == 0 and list(current.y) == list(ORIGINAL)
    click(view, "encoder-45", "general")
    assert bench.went == ["encoder-45"] and view.selected == "encoder-45"
    assert list(selected.y) == list(current.y) == [5.5, 12.1, 19.4]
    assert view.panel.state["current"] == "encoder-45"
    view.panel._receive(None, {"do": "select", "name": "encoder-15"}, [])
    assert bench.went == ["encoder-45"] and list(selected.y) == [4.1, 7.8, 11.6] and current.y[0] == 5.5
    view.panel._receive(None, {"do": "go_back"}, [])
    assert bench.went == ["encoder-45", "encoder-15"]
    bench.current = ""  # the plan was changed
    assert len(current.x) == 0 and view.panel.state["current"] == ""


def test_what_goes_wrong_is_shown(study):
    bench = Bench(study)
    view = Frontier(bench, on_select=lambda name: 1 / 0)
    view.selected = "encoder-15"
    assert "ZeroDivisionError" in view.panel.error["sentence"] and "Traceback" in view.panel.error["details"]
    click(view, "encoder-45", "general")
    assert "ZeroDivisionError" in view.panel.error["sentence"], "the click itself went well, what it set off did not"
    view._on_select = None
    click(view, "encoder-60", "target, before tuning")
    assert view.panel.error == {"sentence": "encoder-60 has no model any more; try it again."}
    for message in (
        {"do": "axis", "value": "price"},
        {"do": "goal", "worse": None, "unit": "points", "least": 3, "of": "model"},
        {"do": "select", "name": "nobody"},
        {"do": "compare", "name": "nobody"},
    ):
        view.panel._receive(None, message, [])
        assert view.panel.error["sentence"].count(".") <= 2 and "details" not in view.panel.error, message
    assert (view.axis, view.selected) == ("encoder", "encoder-60")


def test_impossible_arguments_are_refused(study):
    for arguments, sentence in (
        ({"axis": "price"}, "axis='price'"),
        ({"goal": 0.5}, "is no goal"),
        ({"on_select": "me"}, "has to be a function"),
        ({"colour": "red"}, "Frontier knows no 'colour'"),
    ):
        with pytest.raises(InputError, match=sentence):
            Frontier(study, **arguments)
    with pytest.raises(InputError, match="a Study or a Workbench, not a str"):
        Frontier("runs/studio")


def test_an_update_of_thirty_tries_is_one_message_to_the_figure(study, messages):
    for i in range(25):
        study.add(record(f"more-{i}", 0.01 * i, (5, 8, 12), (4.5, 7.5, 11.5)))
    bench = Bench(study)
    view = Frontier(bench)
    messages.clear()
    study.add(record("new", 0.5, (6, 9, 15), (5.1, 8.2, 12.5)))
    figure = [names for widget, names in messages if widget is view.figure]
    painted = [names for names in figure if names & {"_py2js_update", "_py2js_restyle", "_py2js_relayout"}]
    assert len(painted) == 2 and all(names == {"_py2js_update"} for names in painted)  # set, and cleared
    assert sum("_widget_data" in names for names in figure) == 1  # what a reload reads
    assert len([1 for widget, _ in messages if widget is view.panel]) == 1
    assert "new" in view.figure._widget_data[5]["customdata"]


def test_a_reload_shows_what_was_painted(study):
    view = Frontier(Bench(study))
    view.axis = "speed"
    view.selected = "encoder-15"
    assert view.figure._widget_layout["xaxis"]["title"]["text"] == "Measured speed, seconds of speech a second"
    assert view.figure._widget_data[0]["y"] == [4.1, 7.8, 11.6]
    drawn = frontier_traces(scene(study, axis="speed"))
    assert [t["x"] for t in view.figure._widget_data[2:]] == [t["x"] for t in drawn]


def test_the_table_marks_the_points_of_the_line_that_is_drawn(study):
    late = record("quick", 0.05, (6, 9, 12), None)
    late.scores["target"]["seconds"] = 1.0
    study.add(late)
    for axis, best in (("encoder", False), ("speed", True)):
        state = Frontier(study, axis=axis).panel.state
        assert state["rows"][-1]["sets"][0]["best"] is best


def test_a_persons_zoom_survives_a_new_point(study):
    bench = Bench(study)
    view = Frontier(bench)
    view.figure.update_layout(xaxis_range=[10, 20], yaxis_range=[3, 6])
    study.add(record("new", 0.2, (6, 9, 15), (5.1, 8.2, 12.5)))
    assert list(view.figure.layout.xaxis.range) == [10, 20]
    view.axis = "size"
    assert list(view.figure.layout.xaxis.range) == list(scene(study, axis="size").x_range)


def test_a_set_that_appears_later_is_drawn(study):
    view = Frontier(Bench(study))
    late = record("late", 0.2, (6, 9, 15), None)
    late.scores["telephone"] = score(9.0, 8.0, 20.0)
    study.add(late)
    assert len(view.figure.data) == 2 + 4 * 4
    click(view, "late", "telephone, before tuning")
    assert view.selected == "late"


def test_points_added_by_the_worker_while_a_person_clicks(study):
    bench = Bench(study)
    view = Frontier(bench)

    def work():
        for i in range(6):
            study.add(record(f"more-{i}", 0.02 * i, (5, 8, 12), (4.5, 7.5, 11.5)))

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        for name in ("encoder-15", "encoder-30"):
            view.selected = name
    thread.join()
    assert not view.panel.error
    assert len(view.panel.state["rows"]) == 6 + 6
    assert len(view.figure._widget_data[5]["x"]) == 5 + 6
    assert view.figure._widget_data[0]["y"][0] == 4.2


def test_two_tries_compared_in_the_widget(study):
    view = Frontier(study)
    view.selected = "encoder-30"
    view.panel._receive(None, {"do": "compare", "name": "encoder-45"}, [])
    found = view.panel.state["comparison"]
    assert (found["first"], found["second"]) == ("encoder-30", "encoder-45")
    lines = {row["what"]: row for row in found["rows"]}
    assert lines["target, WER %"]["second"] == "5.50 [4.40, 6.88]" and lines["target, WER %"]["difference"] == "+1.30"
    assert lines["Encoder removed, %"]["difference"] == "+15.0"
    view.selected = "encoder-45"
    assert view.panel.state["comparison"] == {} and view.panel.state["other"] == ""


def test_goals_and_axes_from_the_page(study):
    view = Frontier(study)
    view.panel._receive(None, {"do": "goal", "worse": 1, "unit": "points", "least": 20, "of": "model"}, [])
    assert view.goal == Goal(1, "points", 20, "model") and view.panel.state["goal"]["hint"] == "(not on this axis)"
    view.panel._receive(None, {"do": "axis", "value": "size"}, [])
    assert view.panel.state["goal"]["hint"] == ""
    assert [s.type for s in view.figure.layout.shapes].count("rect") == 3
    view.panel._receive(None, {"do": "goal"}, [])
    assert view.goal is None and [s.type for s in view.figure.layout.shapes].count("rect") == 0


def test_files_are_written_into_the_studys_folder_and_sent_on_request(study):
    view = Frontier(study, axis="size")
    sent = []
    view.panel.send = lambda content, buffers=None: sent.append((content, buffers))
    view.panel._receive(None, {"do": "download"}, [])
    assert not sent
    view.save("csv").wait(20)
    path = study.folder / "frontier.csv"
    assert view.saved == path and view.panel.state["saved"]["name"] == "frontier.csv"
    view.panel._receive(None, {"do": "download"}, [])
    assert sent == [({"file": "frontier.csv"}, [path.read_bytes()])]
    view.save("html").wait(20)
    assert (study.folder / "frontier-size.html").stat().st_size > 1e6


def test_a_file_that_cannot_be_written_is_said(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    view = Frontier(study)
    view.save("pdf").wait(20)
    assert "needs matplotlib" in view.panel.error["sentence"] and view.panel.state["saved"] == {}


def test_it_starts_empty_and_fills(tmp_path):
    study = Study(tmp_path / "run", {"model": "tiny.en", "evaluations": dict.fromkeys(SETS, "dev")})
    view = Frontier(Bench(study))
    assert view.panel.state["rows"] == [] and len(view.figure.data) == 2 + 4 * 3
    study.add(Record("original", sizes(0.0), scores(ORIGINAL)))
    assert [list(trace.y) for trace in view.figure.data[5::4]] == [[4.2], [7.1], [11.0]]
    assert not view.panel.error


def test_a_page_without_a_kernel_shows_the_table(study):
    bundle = Frontier(study)._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "encoder-45" in data["text/html"] and "12.10 [9.7, 15.1]" in data["text/html"]


@pytest.mark.slow
def test_the_first_figure_does_not_wait_for_a_grammar():
    program = """
import sys
from adaptwin_widgets.widgets.frontier import _figure_widget
_figure_widget()
print("rfc3987_syntax" in sys.modules, "lark" in sys.modules, "nbformat" in sys.modules)
import jsonschema
jsonschema.validate("x", {"type": "string"})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


def test_a_workbench_has_what_the_frontier_uses():
    assert {"revision", "current"} <= set(Workbench.class_trait_names())
    assert callable(Workbench.go_back) and callable(Workbench.note)
