"""From a plan to a smaller model: the closed forms applied to real weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from adaptwin_widgets import twins as closed_form
from adaptwin_widgets.anatomy import Twin, attention_name, attention_of, matrices_of, module_path, pair_of
from adaptwin_widgets.embedding import EMBEDDING, factor
from adaptwin_widgets.expand import expand
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.model import TwinWhisperConfig, TwinWhisperForConditionalGeneration
from adaptwin_widgets.observe import Statistics
from adaptwin_widgets.plan import ADAPTWIN, RankPlan
from adaptwin_widgets.spectra import (
    Spectra,
    attention_weights,
    by_head,
    check_statistics,
    neuron_order,
    query_key_factors,
    value_output_factors,
)
from adaptwin_widgets.twins import exact
from adaptwin_widgets.vocabulary import cut_processor, renumbered
from adaptwin_widgets.whisper import Whisper


def compress(
    model: Whisper,
    plan: RankPlan,
    stats: Statistics | None = None,
    *,
    spectra: Spectra | None = None,
    job: Job | None = None,
) -> Whisper:
    """A smaller Whisper with the ranks of a plan; the original is left as it is.

    stats: what `observe` found; without it the twins are cut by their weights alone, which destroys a model
    quickly and is there to be seen. spectra: those of the same model and statistics, to save their time.

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> model, demo = aw.load("tiny.en"), aw.demo_speech()                                # doctest: +SKIP
    >>> stats = aw.observe(model, demo["target_train"])                                          # doctest: +SKIP
    >>> plan = aw.RankPlan.for_budget(aw.spectra(model, stats), encoder=0.3)              # doctest: +SKIP
    >>> small = aw.compress(model, plan, stats)                                           # doctest: +SKIP

    A model that is compressed already is compressed further: no twin keeps more than it has, and a plan speaks of the
    original's size. Raises InputError when plan or statistics belong to another model.
    """
    plan.check(model.config, model.source)
    if plan.method == ADAPTWIN:
        stats = spectra = None  # it cuts by weights alone
    plan = plan.within(getattr(model.config, "ranks", None) or {})
    if rank := getattr(model.config, "embedding_rank", None):
        plan = replace(plan, embedding=min(plan.embedding or rank, rank))
    original = expand(model).model
    weights: dict[str, Tensor] = {}  # only what is new, in its final precision, so that no second model is ever there
    replaced: list[str] = []
    with torch.no_grad():
        for key in ensure(job).track(list(plan.ranks), text="Compressing"):
            twin = Twin.parse(key)
            check_statistics(original.config, twin, stats)
            if twin.kind == "feed_forward":
                order = spectra.order[twin] if spectra is not None else neuron_order(original, twin, stats).order
                new = feed_forward_weights(original, twin, plan.ranks[key][0], order, stats)
            elif twin.kind == "query_key" or str(twin._replace(kind="query_key")) not in plan.ranks:
                new = attention_weights_for(original, twin, plan.ranks, stats)
            else:
                continue
            prefix = _prefix(twin)
            replaced += [f"{prefix}{name.partition('.')[0]}." for name in new]
            weights |= {prefix + name: value.to(original.dtype).contiguous() for name, value in new.items()}
        for name, value in original.state_dict().items():
            if not name.startswith((*replaced, "proj_out.")):
                weights[name] = value.detach().clone()
        _embed(weights, plan, stats)
    notes = {"original": model.notes.get("original", model.source), "plan": plan.to_dict()}
    words = plan.vocabulary
    processor = model.processor if words is None else cut_processor(model.processor, words)
    return Whisper(build(original, plan, weights), processor, f"{model.name}, compressed", notes)


def build(original: nn.Module, plan: RankPlan, weights: dict[str, Tensor]) -> WhisperForConditionalGeneration:
    """A compressed model around these weights, without initialising any at random.

    Where nothing but the vocabulary is cut, it is a Whisper like any other, for every program that reads one.
    """
    settings = {k: v for k, v in original.config.to_dict().items() if k not in ("model_type", "architectures", "ranks")}
    generation, words = original.generation_config, plan.vocabulary
    if words is not None:
        first = getattr(original.config, "original_vocab_size", None) or original.config.vocab_size  # before any cut
        sizes = {"vocab_size": len(words), "original_vocab_size": first}
        settings |= renumbered(settings, words.places) | sizes
        generation = copy.deepcopy(generation)
        generation.update(**renumbered(generation.to_dict(), words.places))
    if words is not None and not plan.ranks and not plan.embedding:
        config, kind = WhisperConfig(**settings), WhisperForConditionalGeneration
    else:
        settings |= {"embedding_rank": plan.embedding} if plan.embedding else {}
        config, kind = TwinWhisperConfig(**settings, ranks=plan.ranks), TwinWhisperForConditionalGeneration
    config._attn_implementation = original.config._attn_implementation
    with torch.device("meta"):
        small = kind(config)
    dtype = original.dtype
    small.load_state_dict({k: v.to(dtype) for k, v in weights.items()}, strict=False, assign=True)
    small.tie_weights()
    if left := [name for name, p in small.named_parameters() if p.is_meta]:
        raise RuntimeError(f"no weights for {left[:3]}")
    small.model.encoder.embed_positions.requires_grad_(False)
    small.generation_config = generation
    return small.to(original.device).eval()


def _prefix(twin: Twin) -> str:
    """What the names of a twin's modules begin with in the state dictionary."""
    attention = "" if twin.kind == "feed_forward" else f"{attention_name(twin.part)}."
    return f"{module_path(twin.part, twin.layer)}.{attention}"


def _embed(weights: dict[str, Tensor], plan: RankPlan, stats: Statistics | None) -> None:
    """Keep the rows of the kept tokens, then factor them."""
    rows = weights[EMBEDDING]
    seen = None if stats is None else stats.output
    kept = torch.arange(len(rows)) if plan.vocabulary is None else torch.tensor(plan.vocabulary.kept)
    if plan.vocabulary is not None:
        weights[EMBEDDING] = rows = rows[kept]
    if plan.embedding:
        second, chances = (None, None) if seen is None else (seen.second, seen.chances[kept])
        table, basis = factor(rows, plan.embedding, second, chances)
        weights[EMBEDDING] = table.contiguous()
        weights[EMBEDDING.replace("weight", "basis")] = basis.contiguous()


def attention_weights_for(
    original: nn.Module, twin: Twin, ranks: Mapping[str, list[int]], stats: Statistics | None
) -> dict[str, Tensor]:
    """Both twins of one attention at these ranks (full where none are named), in PyTorch's layout."""
    part, layer = twin.part, twin.layer
    heads = attention_of(original, part, layer).num_heads
    dh = original.config.d_model // heads
    query_key = Twin(part, layer, "query_key")
    value_output = Twin(part, layer, "value_output")
    ranks_qk = ranks.get(str(query_key), [dh] * heads)
    ranks_vo = ranks.get(str(value_output), [dh] * heads)
    wq, bq, wk, wv, bv, wo, bo = attention_weights(original, part, layer)

    qk = query_key_factors(original, query_key, stats)
    q, k, v = (by_head(w, heads) for w in (wq, wk, wv))
    new_q = torch.cat([q[h] @ qk.query[h, :, :r] for h, r in enumerate(ranks_qk)], 1)
    new_bq = torch.cat([bq.view(heads, dh)[h] @ qk.query[h, :, :r] for h, r in enumerate(ranks_qk)])
    new_k = torch.cat([k[h] @ qk.key[h, :, :r] for h, r in enumerate(ranks_qk)], 1)

    vo = value_output_factors(original, value_output, stats)
    maps = [vo.value[h, :, :r] for h, r in enumerate(ranks_vo)]
    new_v = torch.cat([v[h] @ p for h, p in enumerate(maps)], 1)
    new_o = torch.cat([vo.output[h, :r] for h, r in enumerate(ranks_vo)])
    # Rows of an attention map sum to one, so the values' bias reaches the output unchanged: fold it.
    new_bo = bo + bv @ wo
    if stats is not None:
        moments = stats.attention[part, layer]
        reduce = torch.block_diag(*maps)  # [d, sum of ranks], all heads at once
        covariance = moments.covariance
        # The heads' outputs add, so what one lost another can partly make good: one joint least squares.
        cross = reduce.mT @ covariance
        new_o = closed_form.refit(cross @ reduce, cross @ wo, new_o)
        mean = exact(moments.mean) - bv  # of the mixed values without their bias
        new_bo = new_bo + mean @ (wo - reduce @ new_o)
    towards_q, towards_v = closed_form.balance(new_q, new_k), closed_form.balance(new_v, new_o.T)
    return {
        "q_proj.weight": (new_q * towards_q).T,
        "q_proj.bias": new_bq * towards_q,
        "k_proj.weight": (new_k / towards_q).T,
        "v_proj.weight": (new_v * towards_v).T,
        "out_proj.weight": new_o.T / towards_v,
        "out_proj.bias": new_bo,
    }


def feed_forward_weights(
    original: nn.Module, twin: Twin, neurons: int, order: Sequence[int] | Tensor, stats: Statistics | None
) -> dict[str, Tensor]:
    """The `neurons` best neurons, and an output matrix refitted for the loss of the others."""
    pair = pair_of(original, twin)
    (name1, first), (name2, second) = pair.items()
    kept = torch.as_tensor(order)[:neurons].sort().values.cpu()
    rows = closed_form.rows_of(kept, twin.taps)
    _, w2 = matrices_of(pair)
    b2 = exact(second.bias)
    new_w2 = w2[rows]
    if stats is not None:
        moments = stats.neurons[twin.part, twin.layer]
        covariance = moments.covariance[rows]
        new_w2 = closed_form.refit(covariance[:, rows], covariance @ w2, new_w2)
        mean = exact(moments.mean)
        b2 = b2 + mean @ w2 - mean[rows] @ new_w2
    return {
        f"{name1}.weight": first.weight[kept],
        f"{name1}.bias": first.bias[kept],
        f"{name2}.weight": new_w2.T.reshape(len(b2), len(kept), *second.weight.shape[2:]),
        f"{name2}.bias": b2,
    }
