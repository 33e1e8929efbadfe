"""The compressed model is a transformers model like any other."""

import copy

import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq, WhisperConfig, WhisperForConditionalGeneration

from adaptwin_widgets.anatomy import full_rank, heads_of, twins_of
from adaptwin_widgets.compress import compress
from adaptwin_widgets.cost import cost, reductions
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.expand import expand
from adaptwin_widgets.model import group_heads
from adaptwin_widgets.plan import RankPlan, shape_of
from adaptwin_widgets.spectra import spectra
from adaptwin_widgets.whisper import Whisper

CONFIG = {
    "vocab_size": 120, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 96, "decoder_ffn_dim": 80, "max_source_positions": 30,
    "max_target_positions": 20, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    "decoder_start_token_id": 1, "begin_suppress_tokens": None,
}  # fmt: skip


@pytest.fixture
def whisper():
    """A small random Whisper with biases that are not zero."""
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**CONFIG)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(0, 0.1)
    return Whisper(model, None, "random")


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return {"input_features": torch.randn(2, 80, 60), "decoder_input_ids": torch.randint(1, 120, (2, 7))}


def ragged(config, seed=0):
    """A plan with every rank another, the full one and zero among them."""
    generator = torch.Generator().manual_seed(seed)
    ranks = {}
    for twin in twins_of(config):
        full = full_rank(config, twin)
        ranks[str(twin)] = [
            [0, full, *torch.randint(1, full, (1,), generator=generator).tolist()][(h + twin.layer) % 3]
            if twin.kind != "feed_forward" else full // 3
            for h in range(heads_of(config, twin))
        ]  # fmt: skip
    return RankPlan(ranks, shape_of(config))


def logits(whisper, inputs):
    with torch.no_grad():
        return whisper.model(**inputs).logits


def test_full_rank_through_the_ragged_path_changes_nothing(whisper, inputs):
    small = compress(whisper, RankPlan.full(whisper.config))
    assert type(small.model.model.encoder.layers[0].self_attn).__name__ == "TwinAttention"
    torch.testing.assert_close(logits(small, inputs), logits(whisper, inputs), atol=1e-4, rtol=0)


def test_parameters_are_what_the_plan_says(whisper):
    for plan in (RankPlan.full(whisper.config), ragged(whisper.config)):
        small = compress(whisper, plan)
        assert sum(p.numel() for p in small.model.parameters()) == plan.after.model
    assert sum(p.numel() for p in whisper.model.parameters()) == plan.before.model == cost(whisper.config).model
    encoder = sum(p.numel() for p in small.model.model.encoder.parameters())
    assert encoder == plan.after.encoder


def test_padding_and_grouping_equal_a_loop_over_heads(whisper, inputs):
    """One head after the other, each with its own ragged weights, gives the same as the grouped kernel calls."""
    small = compress(whisper, ragged(whisper.config))
    attention = small.model.model.encoder.layers[0].self_attn
    x = torch.randn(2, 30, 128)
    q, k, v = (getattr(attention, f"{n}_proj")(x) for n in "qkv")
    heads = zip(q.split(attention.query_key, -1), k.split(attention.query_key, -1),
                v.split(attention.value_output, -1), strict=True)  # fmt: skip
    mixed = [(qh @ kh.mT * attention.scaling).softmax(-1) @ vh for qh, kh, vh in heads]
    expected = attention.out_proj(torch.cat(mixed, -1))
    found = attention(x)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    weights = list(attention.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), weights) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    packed = attention.packed()
    assert packed.q_weight.shape == (2 * packed.key_dim, 128) and packed.scale == 64**-0.5
    assert attention.query_key == attention.value_output == [0, 64] and packed.left == [1]
    assert [(p.heads, p.ranks) for fused in (True, False) for p in packed.grouped(fused)] == [(1, ())] * 2
    attention.config._attn_implementation = "eager"
    _, seen = attention(x, output_attentions=True)
    assert seen.shape == (2, 2, 30, 30) and not seen[:, 0].any(), "a head that is gone looks nowhere"
    torch.testing.assert_close(seen[:, 1].sum(-1), torch.ones(2, 30))


def test_cached_decoding_equals_the_whole_sequence(whisper, inputs):
    small = compress(whisper, ragged(whisper.config))
    whole = logits(small, inputs)
    with torch.no_grad():
        encoded = small.model.model.encoder(inputs["input_features"])
        cache, steps = None, []
        for i in range(7):
            out = small.model(
                encoder_outputs=encoded, decoder_input_ids=inputs["decoder_input_ids"][:, i : i + 1],
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=0)


def test_attention_maps_come_in_the_order_of_the_heads(whisper, inputs):
    whisper.model.set_attn_implementation("eager")
    small = compress(whisper, RankPlan.full(whisper.config))
    with torch.no_grad():
        ours = small.model(**inputs, output_attentions=True)
        theirs = whisper.model(**inputs, output_attentions=True)
    for mine, original in zip(ours.cross_attentions, theirs.cross_attentions, strict=True):
        torch.testing.assert_close(mine, original, atol=1e-5, rtol=0)


def test_save_and_load_by_the_auto_class(whisper, inputs, tmp_path):
    small = compress(whisper, ragged(whisper.config))
    small.model.save_pretrained(tmp_path)
    again = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path).eval()
    for name, value in small.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.config.ranks == small.config.ranks
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, logits(small, inputs))


def test_padded_weights_follow_the_parameters(whisper, inputs):
    small = compress(whisper, ragged(whisper.config))
    before = logits(small, inputs)
    twin = copy.deepcopy(small.model)
    with torch.no_grad():
        small.model.model.encoder.layers[0].self_attn.v_proj.weight.mul_(2)
    assert not torch.allclose(before, logits(small, inputs))
    with torch.no_grad():
        assert torch.equal(twin(**inputs).logits, before)


def test_gradients_reach_every_factor(whisper, inputs):
    small = compress(whisper, ragged(whisper.config)).model
    small(**inputs).logits.square().mean().backward()
    attention = small.model.decoder.layers[0].encoder_attn
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        grad = getattr(attention, name).weight.grad
        assert grad is not None and grad.shape == getattr(attention, name).weight.shape and grad.abs().sum() > 0


def test_the_original_is_untouched(whisper, inputs):
    before = logits(whisper, inputs)
    small = compress(whisper, ragged(whisper.config))
    with torch.no_grad():
        for p in small.model.parameters():
            p.zero_()
    assert torch.equal(logits(whisper, inputs), before)
    half = {"encoder.1.feed_forward": [40]}  # of a plan that names little, the rest is a copy as well
    small = compress(whisper, RankPlan(half, shape_of(whisper.config)))
    with torch.no_grad():
        for p in small.model.parameters():
            p.zero_()
    assert torch.equal(logits(whisper, inputs), before)


def test_a_small_model_expanded_computes_the_same(whisper, inputs):
    small = compress(whisper, ragged(whisper.config))
    plain = expand(small)
    assert type(plain.model) is WhisperForConditionalGeneration and type(plain.config) is WhisperConfig
    assert {k: v.shape for k, v in plain.model.state_dict().items()} == {
        k: v.shape for k, v in whisper.model.state_dict().items()
    }
    torch.testing.assert_close(logits(plain, inputs), logits(small, inputs), atol=1e-5, rtol=0)
    assert expand(whisper) is whisper
    for p in plain.model.parameters():
        p.data.zero_()
    assert logits(small, inputs).abs().max() > 0, "the weights are copies"


def test_a_small_model_is_compressed_further(whisper, inputs):
    small = compress(whisper, ragged(whisper.config))
    again = compress(small, RankPlan.full(whisper.config))
    assert again.config.ranks == small.config.ranks, "what is gone does not come back"
    torch.testing.assert_close(logits(again, inputs), logits(small, inputs), atol=1e-4, rtol=0)
    twins = spectra(small)
    for twin, values in twins.values.items():
        for row, rank in zip(values, small.config.rank(str(twin)), strict=True):
            assert (row[rank:] <= 1e-4 * values.max()).all(), twin
    plan = RankPlan.for_budget(twins, encoder=0.75 * small_share(small))
    smaller = compress(small, plan)
    assert smaller.model.num_parameters() == RankPlan.from_dict(smaller.notes["plan"]).after.model
    plan = RankPlan.for_budget(twins, encoder=small_share(small) + 0.05)
    smaller = compress(small, plan)
    assert small_share(smaller) >= small_share(small) + 0.05
    assert all(
        new <= old
        for key, ranks in smaller.config.ranks.items()
        for new, old in zip(ranks, small.config.rank(key), strict=True)
    )
    assert smaller.notes["original"] == small.notes["original"] == "random"
    with pytest.raises(InputError, match="was made for"):
        compress(small, RankPlan.full(WhisperConfig()))


def small_share(model):
    """The fraction of the encoder that is gone."""
    return reductions(cost(model.config), cost(model.config, model.config.ranks))["encoder_reduction"]


def test_groups_cover_every_head_once():
    groups = group_heads([3, 64, 17, 0, 64, 33])
    assert sorted(h for g in groups for h in g.heads) == [0, 1, 2, 4, 5], "the one that is gone takes no time"
    assert [h for g in group_heads([0, 0]) for h in g.heads] == [0, 1], "but no layer is left without any"
    assert all(g.dim % 8 == 0 for g in groups)
    assert len(group_heads([60] * 8)) == 1
