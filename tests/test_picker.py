"""Spectra and rank picker without a browser: what the page is sent, what it may ask for, what it is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import WhisperConfig

import adaptwin_widgets as aw
from adaptwin_widgets.anatomy import Twin, full_rank, heads_of, twins_of
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.planner import Planner
from adaptwin_widgets.sensitivity import Sensitivity
from adaptwin_widgets.spectra import Spectra, single_spectra
from adaptwin_widgets.widgets.picker import SHARES, RankPicker
from adaptwin_widgets.widgets.spectra import POINTS, SpectraView, pack

CONFIG = WhisperConfig(
    d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=600, decoder_ffn_dim=64, vocab_size=100, num_mel_bins=8, max_source_positions=30,
    max_target_positions=20,
)  # fmt: skip


def spectra(seed: int = 0, aware: bool = True) -> Spectra:
    draw = np.random.default_rng(seed)
    both = [
        {t: -np.sort(-draw.exponential(1.0, (heads_of(CONFIG, t), full_rank(CONFIG, t)))) for t in twins_of(CONFIG)}
        for _ in range(2)
    ]
    return Spectra(CONFIG, "small", both[0], both[1], {}, aware=aware)


@pytest.fixture
def picker() -> RankPicker:
    return RankPicker(Planner(spectra()))


def press(view: SpectraView, do: str, **more) -> None:
    """What the page sends."""
    view._handle_custom_msg({"do": do, **more}, [])


def sent(view: SpectraView, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Messages to the page from now on."""
    messages: list[dict] = []
    monkeypatch.setattr(view.comm, "send", lambda data, buffers=None, **_: messages.append(data))
    return messages


# -- spectra ----------------------------------------------------------------------------------------------------


def test_every_value_is_where_the_layout_says():
    shown = spectra()
    layout, data = pack(shown)
    values = np.frombuffer(data, dtype=np.float32)
    assert len(values) == 2 * sum(t["heads"] * t["points"] for t in layout["twins"])
    for twin in layout["twins"]:
        own = values[twin["offset"] : twin["offset"] + twin["heads"] * twin["points"]].reshape(twin["heads"], -1)
        true = shown.values[Twin.parse(twin["name"])]
        assert own[:, 0] == pytest.approx(true[:, 0]) and own[:, -1] == pytest.approx(true[:, -1])
        if twin["full"] <= POINTS:
            np.testing.assert_allclose(own, true, rtol=1e-6)
        else:
            assert twin["points"] == POINTS, "neurons are many, pixels few"
    assert [row["title"] for row in layout["rows"]][:2] == ["Stem: neurons", "Encoder: query-key"]


def test_the_weights_own_spectra_come_second():
    shown = spectra()
    layout, data = pack(shown)
    values = np.frombuffer(data, dtype=np.float32)
    first = layout["twins"][0]
    white = values[len(values) // 2 :][: first["points"]]
    np.testing.assert_allclose(white, shown.weight_only[Twin.parse(first["name"])][0], rtol=1e-6)


def test_a_plan_marks_what_is_kept():
    shown = spectra()
    plan = Planner(shown).change("encoder.1.query_key", 3, head=1)
    view = SpectraView(shown, plan)
    layout = {t["name"]: t for t in view.layout_of["twins"]}
    at = layout["encoder.1.query_key"]["unit"]
    assert view.state["ranks"][at : at + 2] == [16, 3]
    assert "3 of" not in view.summary() and "51 of 64" in view.summary()


def test_spectra_follow_their_planner_in_one_message(picker, monkeypatch):
    messages = sent(picker, monkeypatch)
    picker.planner.commit(picker.planner.change("encoder.0.query_key", 5))
    assert [list(m["state"]) for m in messages] == [["state"]], "a change is one message"
    assert len(json.dumps(messages)) < 3000
    picker.planner.learn(spectra(seed=1))
    assert [sorted(m["buffer_paths"]) for m in messages[1:]] == [[["queues"], ["values"]]], "once, and as bytes"


def test_single_matrices_stand_beside_their_product(tiny_en):
    labels, first, second = single_spectra(tiny_en.model, Twin("encoder", 1, "query_key"))
    attention = tiny_en.model.model.encoder.layers[1].self_attn
    import torch

    true = torch.linalg.svdvals(attention.q_proj.weight.detach()[64:128])
    assert len(labels) == 2 and first.shape == second.shape == (6, 64)
    np.testing.assert_allclose(first[1], true.numpy(), rtol=2e-2)  # ours takes the bias along


def test_what_has_no_spectra_is_refused():
    with pytest.raises(InputError, match="dict has no spectra; give a Workbench, a Planner or Spectra"):
        SpectraView({})
    with pytest.raises(InputError, match="was made for small"):
        SpectraView(spectra(), RankPlan({}, {**Planner(spectra()).shape, "d_model": 64}, "small"))


# -- the picker -------------------------------------------------------------------------------------------------


def test_letting_go_commits_and_answers_once(picker, monkeypatch):
    messages = sent(picker, monkeypatch)
    press(picker, "commit", edit={"budget": "encoder", "fraction": 0.3}, seq="2")
    assert picker.plan.reductions["encoder_reduction"] == pytest.approx(0.3, abs=0.01)
    states = [m["state"]["state"] for m in messages if "state" in m.get("state", {})]
    assert [s["seq"] for s in states] == ["2"] and states[0]["undo"]


def test_a_budget_of_multiply_adds_and_no_more_than_there_is(picker):
    press(picker, "commit", edit={"budget": "encoder", "of": "multiply-adds", "fraction": 0.3}, seq="1")
    before, after = picker.state["numbers"]["multiply-adds"]["encoder"]
    assert 0.65 < after / before <= 0.7 and "30.0% of the encoder's multiply-adds" in picker.state["method"]
    press(picker, "commit", edit={"budget": "encoder", "of": "multiply-adds", "fraction": 0.999}, seq="2")
    before, after = picker.state["numbers"]["multiply-adds"]["encoder"]
    assert not picker.error and 1 - after / before == pytest.approx(picker.state["limits"]["multiply-adds"]["encoder"])


def test_what_is_already_so_is_answered_and_no_step_to_undo(picker):
    edit = {"twins": "encoder.*.value_output", "rank": 9}
    press(picker, "commit", edit=edit, seq="1")
    press(picker, "commit", edit=edit, seq="2")
    assert picker.state["seq"] == "2"
    press(picker, "act", what="undo", seq="3")
    assert picker.plan.ranks == {}


@pytest.mark.parametrize(
    ("edit", "kept"),
    [
        ({"twins": "encoder.0.query_key", "head": 1, "rank": 4}, [16, 4]),
        ({"twins": "encoder.0.query_key", "rank": 4}, [4, 4]),
        ({"twins": "encoder.0.query_key", "by": -1}, [15, 15]),
        ({"twins": "encoder.*.query_key", "rank": 4}, [4, 4]),
        ({"twins": "encoder.0.query_key", "rank": -5}, [1, 1]),
    ],
)
def test_a_cut_of_a_head_a_twin_a_row(picker, edit, kept):
    press(picker, "commit", edit=edit, seq="1")
    assert picker.plan.ranks["encoder.0.query_key"] == kept
    assert ("encoder.1.query_key" in picker.plan.ranks) == ("*" in edit["twins"])


def test_lock_undo_redo_reset(picker):
    press(picker, "commit", edit={"twins": "encoder.0.query_key", "rank": 4}, seq="1")
    press(picker, "act", what="lock", twins="encoder.0.query_key", on=True, seq="2")
    assert picker.state["locked"] == ["encoder.0.query_key"]
    press(picker, "commit", edit={"budget": "encoder", "fraction": 0.4}, seq="3")
    assert picker.plan.ranks["encoder.0.query_key"] == [4, 4], "a locked twin stays"
    press(picker, "commit", edit={"twins": "encoder.0.query_key", "rank": 9}, seq="4")
    assert "locked; unlock it" in picker.error["sentence"]
    press(picker, "act", what="undo", seq="5")
    assert not picker.error, "the next thing that works takes the message away"
    assert picker.plan.ranks.keys() == {"encoder.0.query_key"} and picker.state["redo"]
    press(picker, "act", what="redo", seq="6")
    assert len(picker.plan.ranks) > 1
    press(picker, "act", what="reset", seq="7")
    assert picker.plan.ranks == {} and picker.state["locked"] == []


def test_a_budget_beyond_what_is_possible_stops_at_the_limit(picker):
    press(picker, "commit", edit={"budget": "encoder", "fraction": 5}, seq="1")
    limit = picker.state["limits"]["parameters"]["encoder"]
    assert picker.plan.reductions["encoder_reduction"] == pytest.approx(limit, abs=0.02) and limit < 1


def test_save_and_load_give_the_plan_back(picker, monkeypatch):
    press(picker, "commit", edit={"budget": "model", "fraction": 0.2}, seq="1")
    messages = sent(picker, monkeypatch)
    press(picker, "save")
    file = messages[-1]["content"]
    assert file["file"] == "small-plan.json"
    other = RankPicker(Planner(spectra()))
    press(other, "load", text=file["text"], name=file["file"])
    assert not other.error and other.plan.ranks == picker.plan.ranks


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "mine.json: not valid JSON"),
        ("[]", "mine.json"),
        ('{"format": 1}', "mine.json"),
    ],
)
def test_a_damaged_plan_file_is_named_and_nothing_is_lost(picker, text, says):
    press(picker, "commit", edit={"twins": "encoder.0.query_key", "rank": 4}, seq="1")
    press(picker, "load", text=text, name="mine.json")
    assert says in picker.error["sentence"] and "details" not in picker.error
    assert picker.plan.ranks == {"encoder.0.query_key": [4, 4]}


def test_a_plan_of_another_model_is_refused(picker, tiny_en):
    foreign = RankPlan.for_budget(aw.spectra(tiny_en), encoder=0.3)
    press(picker, "load", text=json.dumps(foreign.to_dict()), name="tiny.json")
    assert picker.error["sentence"] and "details" not in picker.error and picker.plan.ranks == {}


@pytest.mark.parametrize(
    "message",
    [
        {"do": "commit", "edit": {"twins": "nonsense", "rank": 4}, "seq": "1"},
        {"do": "commit", "edit": {"budget": "tail", "fraction": 0.1}, "seq": "1"},
        {"do": "commit", "edit": {"twins": "encoder.0.query_key", "head": 7, "rank": 4}, "seq": "1"},
        {"do": "measure"},
        {"do": "fly"},
    ],
)
def test_what_cannot_be_done_is_said(picker, message):
    picker._handle_custom_msg(message, [])
    assert picker.error["sentence"].endswith(".") and "details" not in picker.error
    assert picker.plan.ranks == {}


def test_a_programming_error_is_shown_with_its_traceback(picker):
    press(picker, "commit", edit={"budget": "encoder", "fraction": "much"}, seq="1")
    assert "ValueError" in picker.error["sentence"] and "Traceback" in picker.error["details"]


def test_measured_damage_drives_budget_and_map(picker):
    assert picker.sensitivity == {} and picker.state["measured"] == {"encoder": False, "decoder": False}
    press(picker, "commit", edit={"budget": "encoder", "fraction": 0.2}, seq="1")
    by_energy = picker.plan.ranks
    draw = np.random.default_rng(1)
    curves = {t: [(0.5, float(d)), (0.9, float(4 * d))] for t in twins_of(CONFIG) for d in [draw.uniform(0.001, 0.5)]}
    picker.planner.learn(sensitivity=Sensitivity(curves))
    assert list(picker.sensitivity["shares"]) == list(SHARES)
    row = picker.sensitivity["rows"]["encoder.0.query_key"]
    assert len(row) == len(SHARES) and row == sorted(row) and row[-1] > 0
    assert picker.state["measured"] == {"encoder": True, "decoder": True}
    assert picker.state["numbers"]["damage"] > 0
    press(picker, "commit", edit={"budget": "encoder", "fraction": 0.2}, seq="2")
    assert picker.plan.ranks != by_energy and "damage" in picker.state["method"]


def test_two_views_of_one_planner_show_the_same(picker):
    other = RankPicker(picker.planner)
    press(picker, "commit", edit={"budget": "encoder", "fraction": 0.3}, seq="a1")
    assert other.state["ranks"] == picker.state["ranks"]
    press(other, "act", what="undo", seq="b1")
    assert picker.plan.ranks == {} and picker.state["ranks"] == other.state["ranks"]


def test_a_cell_sets_the_plan(picker):
    picker.plan = picker.planner.budget("encoder", 0.25)
    assert picker.state["numbers"]["encoder"][1] < 0.76 * picker.state["numbers"]["encoder"][0]
    with pytest.raises(InputError, match="no rank plan"):
        picker.plan = {"encoder": 3}


def test_the_same_error_again_is_told_again(picker, monkeypatch):
    picker.planner.lock("encoder.0.query_key")
    edit = {"twins": "encoder.0.query_key", "rank": 3}
    press(picker, "commit", edit=edit, seq="a:1")
    assert "locked" in picker.error["sentence"]
    told = []
    picker.observe(lambda change: told.append(change.new.get("sentence", "")), "error")
    press(picker, "commit", edit=edit, seq="a:2")
    assert len(told) == 2 and told[0] == "" and "locked" in told[1], "the page waits for an answer to each"
    press(picker, "act", what="lock", twins="encoder.0.query_key", on=False, seq="a:3")
    assert picker.error == {}


@pytest.mark.parametrize("kind", [SpectraView, RankPicker])
def test_a_closed_one_follows_no_more_and_can_be_closed_again(kind):
    planner = Planner(spectra())
    view = kind(planner)
    before = view.state
    view.close()
    view.close()
    planner.commit(planner.budget("encoder", 0.2))
    assert view.state == before
