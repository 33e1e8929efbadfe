"""Plans: budgets met to the parameter, JSON that is checked, costs that are exact."""

import json

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

import adaptwin_widgets as aw
from adaptwin_widgets.allocate import require_budgets, uniform
from adaptwin_widgets.anatomy import Twin, full_rank, heads_of, parameters_per_rank, twins_of
from adaptwin_widgets.cost import cost
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.removal import queue
from adaptwin_widgets.sensitivity import Sensitivity
from adaptwin_widgets.spectra import Spectra


@pytest.fixture
def config():
    return WhisperConfig(vocab_size=51864)  # tiny.en's shape


@pytest.fixture
def spectra(config):
    """Spectra that fall off at a different speed in every head."""
    generator = np.random.default_rng(1)
    found = Spectra(config, "tiny.en")
    for twin in twins_of(config):
        heads, full = heads_of(config, twin), full_rank(config, twin)
        decay = generator.uniform(0.5, 4.0, (heads, 1))
        found.values[twin] = np.exp(-decay * np.arange(full) / full * 4)
        found.weight_only[twin] = np.sort(generator.uniform(0, 1, (heads, full)))[:, ::-1]
    return found


def test_cost_of_the_original_is_counted_from_the_model(config):
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    found = cost(config)
    assert found.model == sum(p.numel() for p in model.parameters())
    assert found.encoder == sum(p.numel() for p in model.model.encoder.parameters())
    embedding = model.model.decoder.embed_tokens.weight.numel()
    assert found.decoder == sum(p.numel() for p in model.model.decoder.parameters()) - embedding
    assert found.embedding == embedding and found.bytes("float16") == 2 * found.model


@pytest.mark.parametrize("name", ["encoder", "decoder", "model"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 0.43])  # 0.43 is near the most a tiny model can lose in all
def test_a_budget_is_met_by_less_than_one_component(spectra, name, fraction):
    plan = RankPlan.for_budget(spectra, **{name: fraction})
    reduction = plan.reductions[f"{name}_reduction"]
    largest = max(parameters_per_rank(spectra.config, t) for t in spectra.values)
    free = 4 * spectra.config.d_model * (3 if name == "model" else 2 if name == "decoder" else 1)
    whole = getattr(plan.before, name)
    assert fraction - 1e-9 <= reduction <= max(fraction + largest / whole, free / whole) + 1e-9


def test_two_budgets_touch_their_own_sides_only(spectra):
    both = RankPlan.for_budget(spectra, encoder=0.3, decoder=0.2)
    assert (
        both.ranks == RankPlan.for_budget(spectra, encoder=0.3).ranks | RankPlan.for_budget(spectra, decoder=0.2).ranks
    )
    assert both.reductions["encoder_reduction"] == pytest.approx(0.3, abs=1e-3)
    assert both.reductions["decoder_reduction"] == pytest.approx(0.2, abs=1e-3)


def test_what_is_kept_is_worth_more_than_what_is_cut(spectra):
    """The definition of the global sort, checked component by component."""
    plan = RankPlan.for_budget(spectra, encoder=0.3)
    worth = {"kept": [], "cut": []}
    for key, ranks in plan.ranks.items():
        twin = Twin.parse(key)
        values = spectra.values[twin]
        price = parameters_per_rank(spectra.config, twin) * (values**2).sum()
        for row, rank in zip(values, ranks, strict=True):
            worth["kept"] += (row[1:rank] ** 2 / price).tolist()
            worth["cut"] += (row[rank:] ** 2 / price).tolist()
    assert min(worth["kept"]) >= max(worth["cut"]) * (1 - 1e-9)


def test_ranks_belong_to_heads(spectra):
    ranks = RankPlan.for_budget(spectra, encoder=0.3).ranks["encoder.0.query_key"]
    assert len(set(ranks)) > 1


def test_even_heads_need_no_padding_and_suit_vector_units(spectra):
    plan = RankPlan.for_budget(spectra, encoder=0.3, decoder=0.2, even=True)
    for side, wanted in (("encoder", 0.3), ("decoder", 0.2)):
        assert wanted <= plan.reductions[f"{side}_reduction"] < wanted + 0.01, "at most a step too much"
    layers: dict[tuple, set[int]] = {}
    for key, ranks in plan.ranks.items():
        twin = Twin.parse(key)
        if twin.kind == "feed_forward":
            assert ranks[0] % 16 == 0
        else:
            layers.setdefault((twin.part, twin.layer), set()).update(ranks)
    assert len(layers) == 12 and all(len(ranks - {0}) == 1 and max(ranks) % 8 == 0 for ranks in layers.values())
    assert len({max(ranks) for ranks in layers.values()}) > 2, "layers still differ"
    locked = RankPlan.for_budget(spectra, encoder=0.3, even=True, locked=["encoder.1.query_key"])
    assert "encoder.1.query_key" not in locked.ranks and len(set(locked.ranks["encoder.1.value_output"])) == 1


def test_even_plans_can_do_without_whole_heads(spectra):
    """Two heads of every layer say next to nothing, wherever they look: no query or key of theirs is missed."""
    weak = {layer: {layer % 6, (layer + 3) % 6} for layer in range(4)}
    for layer, heads in weak.items():
        spectra.values[Twin("encoder", layer, "value_output")][sorted(heads)] *= 1e-3
    how = {"even": True, "fewer_heads": 2}
    plan = RankPlan.for_budget(spectra, encoder=0.3, decoder=0.1, **how)
    assert 0.3 <= plan.reductions["encoder_reduction"] < 0.31
    for layer, heads in weak.items():
        for kind in ("query_key", "value_output"):
            ranks = plan.ranks[f"encoder.{layer}.{kind}"]
            assert {h for h, rank in enumerate(ranks) if not rank} == heads
        assert spectra.lost(Twin("encoder", layer, "query_key"), plan.ranks) < 0.3
    assert all(min(ranks) > 0 for key, ranks in plan.ranks.items() if not key.startswith("encoder"))
    every = RankPlan.for_budget(spectra, encoder=0.3, even=True)
    larger = [max(plan.ranks[key]) - max(every.ranks[key]) for key in plan.ranks if key.startswith(("encoder", "stem"))]
    assert sum(larger) > 0 <= min(larger), "what they have had the others keep"
    with pytest.raises(InputError, match=r"fewer_heads=2 alone takes 9.6% of the encoder's parameters, more than 5.0%"):
        RankPlan.for_budget(spectra, encoder=0.05, **how)
    with pytest.raises(InputError, match="encoder.1.query_key is locked"):
        RankPlan.for_budget(spectra, encoder=0.3, locked=["encoder.1.query_key"], **how)
    with pytest.raises(InputError, match="whole number from 0 to 5"):
        RankPlan.for_budget(spectra, encoder=0.3, even=True, fewer_heads=6)
    with pytest.raises(InputError, match="from even plans alone"):
        RankPlan.for_budget(spectra, encoder=0.3, fewer_heads=1)
    for other in ({"decoder": 0.3}, {"tau": 1e-9}):  # which would leave them in their places without a word
        with pytest.raises(InputError, match="fewer_heads are the encoder's"):
            RankPlan.for_budget(spectra, even=True, fewer_heads=2, **other)


def test_a_threshold_is_the_budget(spectra):
    plan = RankPlan.for_budget(spectra, encoder=0.3)
    line = queue(spectra, ("encoder", "decoder"))
    tau = float(np.median(line.worth))
    by_tau = RankPlan.for_budget(spectra, tau=tau)
    assert sum(sum(r) for r in by_tau.ranks.values()) == len(line.worth) + 6 * 24 + 9 - (line.worth <= tau).sum()
    assert plan.ranks["encoder.0.query_key"] != by_tau.ranks["encoder.0.query_key"]


def test_measured_damage_overrules_energy(spectra):
    precious = Twin("encoder", 0, "value_output")
    curves = {t: [(0.1, 1e3 if t == precious else 1e-3), (0.5, 1e4 if t == precious else 1e-2)] for t in spectra.values}
    plan = RankPlan.for_budget(spectra, encoder=0.3, sensitivity=Sensitivity(curves))
    by_energy = RankPlan.for_budget(spectra, encoder=0.3)
    assert sum(plan.ranks[str(precious)]) > sum(by_energy.ranks[str(precious)]) + 64
    assert plan.reductions["encoder_reduction"] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("lock", ["encoder.1", "encoder.1.query_key"])
def test_locked_twins_stay_as_they_are(spectra, lock):
    plan = RankPlan.for_budget(spectra, encoder=0.3, locked=[lock])
    assert "encoder.1.query_key" not in plan.ranks and plan.locked == (lock,)
    assert plan.reductions["encoder_reduction"] == pytest.approx(0.3, abs=1e-3)


def test_a_budget_that_cannot_be_met_says_how_far_it_can_go(spectra):
    with pytest.raises(InputError, match=r"encoder=0.99 cannot be met: at most 0\.\d\d\d of the encoder") as error:
        RankPlan.for_budget(spectra, encoder=0.99)
    most = float(str(error.value).split("at most ")[1].split()[0])
    RankPlan.for_budget(spectra, encoder=most)
    with pytest.raises(InputError, match="with what is locked"):
        RankPlan.for_budget(spectra, encoder=most, locked=["encoder.2"])


@pytest.mark.parametrize("side", ["encoder", "decoder", "model"])
def test_the_shape_alone_says_how_far_a_budget_can_go(spectra, side):
    with pytest.raises(InputError, match="cannot be met") as late:
        RankPlan.for_budget(spectra, **{side: 0.99})
    with pytest.raises(InputError) as early:
        require_budgets(spectra.config, **{side: 0.99})
    assert str(early.value) == str(late.value)
    require_budgets(spectra.config, **{side: float(str(late.value).split("at most ")[1].split()[0])})


def test_a_budget_that_cannot_be_is_refused_before_anything_is_heard(tiny_en, monkeypatch):
    monkeypatch.setattr("adaptwin_widgets.recipe.observe", lambda *rest, **more: pytest.fail("it observes"))
    recipe = aw.Recipe(tiny_en, [aw.demo_speech()["target_train"][:2]])
    for method in ("ours", "uniform"):
        for budget in ({"encoder": 45}, {"decoder": -0.1}, {"model": 0.99}, {}, {"encoder": 0.1, "model": 0.1}):
            with pytest.raises(InputError):
                recipe.plan(method, **budget)
    with pytest.raises(InputError, match="model=45"):
        recipe.plan(vocabulary="en", model=45)
    with pytest.raises(InputError, match="embedding is 9999"):
        recipe.plan(embedding=9999)
    with pytest.raises(InputError, match="xx"):
        recipe.plan(vocabulary="xx")
    with pytest.raises(InputError, match="give a budget, not tau"):
        recipe.plan("uniform", tau=0.1)
    with pytest.raises(InputError, match="made for another model"):
        recipe.compress(RankPlan.full(WhisperConfig()))
    for options in ({"target_weight": 50}, {"target_weight": 0}, {"windows": 0}, {"transcripts": 2}):
        with pytest.raises(InputError, match=r"above 0 and at most 1|observe nothing|is no share"):
            aw.Recipe(tiny_en, recipe.speech, **options)


@pytest.mark.parametrize("budget", [{}, {"encoder": 0.1, "model": 0.1}, {"encoder": -0.1}, {"encoder": 1.0}])
def test_senseless_budgets_are_refused(spectra, budget):
    with pytest.raises(InputError):
        RankPlan.for_budget(spectra, **budget)


def test_uniform_keeps_the_same_share_everywhere(spectra):
    plan = uniform(spectra, encoder=0.3)
    ranks = {r for key, value in plan.ranks.items() if not key.endswith("forward") for r in value}
    assert len(ranks) == 1 and 0.3 <= plan.reductions["encoder_reduction"] < 0.32


def test_json_round_trip(spectra, tmp_path):
    plan = RankPlan.for_budget(spectra, encoder=0.3, locked=["encoder.2.value_output"])
    plan.save(tmp_path / "plan.json")
    assert RankPlan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["source"] == "tiny.en"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "format 1"),
        (lambda d: d.pop("ranks"), "no 'ranks'"),
        (lambda d: d["ranks"].update({"encoder.9.query_key": [1] * 6}), r"encoder\.9\.query_key is no twin"),
        (lambda d: d["ranks"].update({"encoder.0.query_key": [1] * 5}), "list of 6"),
        (lambda d: d["ranks"].update({"encoder.0.query_key": [1, 2, 3, 4, 5, 65]}), "holds 65.*0 to 64"),
        (lambda d: d["ranks"].update({"encoder.0.query_key": [1, 2, 3, 4, 5, 6.5]}), "holds 6.5"),
        (lambda d: d["shape"].pop("d_model"), "shape.d_model"),
        (lambda d: d.update(locked=["encoder.77"]), "locked names 'encoder.77'"),
        (lambda d: d.update(ranks=[]), "wrong type"),
    ],
)
def test_a_damaged_plan_says_what_is_wrong(config, tmp_path, change, message):
    data = RankPlan.full(config, "tiny.en").to_dict()
    change(data)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as error:
        RankPlan.load(path)
    assert str(path) in str(error.value)


def test_files_that_are_no_plan(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        RankPlan.load(tmp_path / "missing.json")
    (tmp_path / "torn.json").write_text('{"format": 1, "ra')
    with pytest.raises(InputError, match="not valid JSON"):
        RankPlan.load(tmp_path / "torn.json")


def test_a_plan_for_another_model_is_refused(config):
    plan = RankPlan.full(config, "tiny.en")
    with pytest.raises(InputError, match="made for tiny.en .*d_model 384.* base has d_model 512"):
        plan.check(WhisperConfig(d_model=512, encoder_attention_heads=8), "base")
