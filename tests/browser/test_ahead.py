"""The page works out plans and numbers by itself while a hand moves; the kernel has the last word. They must agree."""

from __future__ import annotations

import base64
import random
from dataclasses import replace

import numpy as np
import pytest
from transformers import WhisperConfig

from adaptwin_widgets.anatomy import Twin, full_rank, heads_of, twins_of
from adaptwin_widgets.planner import Planner
from adaptwin_widgets.sensitivity import Sensitivity
from adaptwin_widgets.spectra import Spectra
from adaptwin_widgets.widgets.base import source
from adaptwin_widgets.widgets.picker import RankPicker

pytest.importorskip("playwright.sync_api")
CONFIG = WhisperConfig(
    d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=2,
    encoder_ffn_dim=600, decoder_ffn_dim=200, vocab_size=500, num_mel_bins=8, max_source_positions=30,
    max_target_positions=20,
)  # fmt: skip
RECKON = f"""({{layout, values, ahead, queues, edits}}) => {{
  {source("curves.js")}
  {source("ahead.js")}
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const curves = new Curves();
  curves.read(layout, bytes(values));
  const reckoner = new Ahead(curves);
  reckoner.read(ahead, bytes(queues));
  return edits.map(({{edit, ranks, cut, locked}}) => {{
    const plan = reckoner.edited(edit, {{ranks, cut: new Set(cut)}}, new Set(locked));
    const cut_now = [...plan?.cut ?? []].sort((a, b) => a - b);
    return plan && {{ranks: [...plan.ranks], cut: cut_now, numbers: reckoner.numbers(plan)}};
  }});
}}"""


def random_values(rng: np.random.Generator) -> dict[Twin, np.ndarray]:
    return {t: -np.sort(-rng.exponential(1.0, (heads_of(CONFIG, t), full_rank(CONFIG, t)))) for t in twins_of(CONFIG)}


def random_edit(draw: random.Random) -> dict:
    names = [str(t) for t in twins_of(CONFIG)]
    part, _, kind = draw.choice(names).split(".")
    pattern = draw.choice([draw.choice(names), f"{part}.*.{kind}"])
    head = draw.choice([None, 0, 1]) if pattern.endswith(("key", "output")) else None
    return draw.choice(
        [
            {
                "budget": draw.choice(["encoder", "decoder", "model"]),
                "of": draw.choice(["parameters", "multiply-adds"]),
                "fraction": draw.choice([0, 0.1, 0.37, 0.6, 0.99]),
            },
            {"twins": pattern, "head": head, "rank": draw.choice([1, 5, 17, 300, 9999])},
            {"twins": pattern, "head": head, "by": draw.choice([-40, -1, 1, 8])},
        ]
    )


@pytest.mark.parametrize("measured", [False, True])
def test_the_page_reckons_as_the_kernel_does(browser, measured):
    rng, draw = np.random.default_rng(3), random.Random(5)
    values = random_values(rng)
    sensitivity = None
    if measured:
        points = [(0.02, 0.01), (0.1, 0.2), (0.5, 0.9)]
        curves = {t: [(a, b * rng.uniform(0.5, 2)) for a, b in points] for t in twins_of(CONFIG)}
        sensitivity = Sensitivity(curves, together={"encoder": [(0.05, 0.1), (0.5, 2.0), (4.0, 9.0)]})
    picker = RankPicker(Planner(Spectra(CONFIG, "small", values, values, {}), sensitivity))
    planner, edits, plans = picker.planner, [], []
    for number in range(120):
        if number % 20 == 9:  # a plan from elsewhere, in which a head is gone
            gone = {f"encoder.{number // 20 % 2}.{kind}": [0, 9, 16, 3] for kind in ("query_key", "value_output")}
            planner.commit(replace(planner.plan, ranks=planner.plan.ranks | gone))
        if number % 10 == 5:
            planner.lock(draw.choice([str(t) for t in twins_of(CONFIG)]), draw.random() < 0.7)
        edit, now = random_edit(draw), picker.state
        edits.append({"edit": edit, "ranks": now["ranks"], "cut": now["cut"], "locked": now["locked"]})
        picker.error = {}
        picker._handle_custom_msg({"do": "commit", "edit": edit, "seq": str(number)}, [])
        plans.append(None if picker.error else picker.state)
    encoded = {key: base64.b64encode(getattr(picker, key)).decode() for key in ("values", "queues")}
    page = browser.new_page()
    found = page.evaluate(RECKON, {"layout": picker.layout_of, "ahead": picker.ahead, "edits": edits, **encoded})
    page.close()
    assert sum(plan is not None for plan in plans) > 100
    for edit, ours, theirs in zip(edits, found, plans, strict=True):
        if theirs is None:
            assert ours is None, f"the kernel refused {edit['edit']}"
            continue
        assert ours["ranks"] == theirs["ranks"], edit["edit"]
        assert ours["cut"] == sorted(theirs["cut"]), edit["edit"]
        assert ours["numbers"].keys() == theirs["numbers"].keys()
        for key, value in theirs["numbers"].items():
            if key in ("energy", "damage") and value is not None:  # from spectra that are sent thinned to 256 points
                value = pytest.approx(value, rel=2e-2 if key == "damage" else 1e-3)
            assert ours["numbers"][key] == value, (key, edit)


HANDS = f"""(parts) => {{
  {source("curves.js")}
  const curves = new Curves();
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  curves.read(parts[0].layout, bytes(parts[0].values));
  const held = curves.twins[3], before = curves.layout;
  curves.read(parts[1].layout, bytes(parts[1].values));
  const own = curves.layout.rows[held.row].twins.includes(held);
  return [curves.twins[3] === held, own, curves.layout !== before, held.largest, curves.data[held.offset]];
}}"""


def test_new_values_leave_in_the_hand_what_is_in_it(browser):
    """Whoever drags a twin, or has chosen one, goes on with it when the speech has been observed meanwhile."""
    parts = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        values = random_values(rng)
        picker = RankPicker(Planner(Spectra(CONFIG, "small", values, values, {})))
        parts.append({"layout": picker.layout_of, "values": base64.b64encode(picker.values).decode()})
    page = browser.new_page()
    same, in_row, read, largest, first = page.evaluate(HANDS, parts)
    page.close()
    twin = list(twins_of(CONFIG))[3]
    assert same and in_row and read
    assert largest == pytest.approx(values[twin].max()) and first == pytest.approx(values[twin][0, 0])
