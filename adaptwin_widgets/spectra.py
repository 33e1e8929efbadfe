"""The singular values of every twin of a model, weight-only and as the speech sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import WhisperConfig

from adaptwin_widgets import twins as closed_form
from adaptwin_widgets.anatomy import (
    Shape,
    Twin,
    attention_of,
    full_rank,
    heads_of,
    matrices_of,
    pair_of,
    twins_of,
)
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.expand import expand
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.observe import Statistics
from adaptwin_widgets.twins import exact
from adaptwin_widgets.whisper import Whisper


@dataclass
class Spectra:
    """Every twin's spectrum.

    values, weight_only: arrays [heads, full rank], descending, by twin; for a feed-forward pair one row, the root
    of the squared output error each neuron's removal adds. order: the neurons, the most valuable first.
    aware: whether `values` come from activations (else they are the weight-only ones).
    """

    config: WhisperConfig | Shape
    source: str
    values: dict[Twin, np.ndarray] = field(default_factory=dict)
    weight_only: dict[Twin, np.ndarray] = field(default_factory=dict)
    order: dict[Twin, Tensor] = field(default_factory=dict)
    aware: bool = False

    def __post_init__(self) -> None:
        self.config = Shape.of(self.config)  # a plan under a moving slider reads it thousands of times

    def frame(self) -> pd.DataFrame:
        """A tidy table: part, layer, kind, head, index, value, weight_only; one row a singular value or neuron."""
        blocks = []
        for twin, values in self.values.items():
            heads, indices = np.indices(values.shape)
            blocks.append(
                pd.DataFrame(
                    {
                        "part": twin.part,
                        "layer": twin.layer,
                        "kind": twin.kind,
                        "head": heads.ravel(),
                        "index": indices.ravel(),
                        "value": values.ravel(),
                        "weight_only": self.weight_only[twin].ravel(),
                    }
                )
            )
        return pd.concat(blocks, ignore_index=True)

    def lost(self, twin: Twin, ranks: Mapping[str, list[int]]) -> float:
        """The share of a twin's energy that is lost at these ranks, by twin as in a `RankPlan`."""
        values, kept = self.values[twin], missed(twin, ranks, self.values[twin].shape[1])
        return sum(float((v[r:] ** 2).sum()) for v, r in zip(values, kept, strict=True)) / float((values**2).sum())


def missed(twin: Twin, ranks: Mapping[str, list[int]], full: int) -> list[int]:
    """The ranks of a twin, `full` for queries and keys of heads whose values are gone: nobody misses those.

    >>> gone = {"encoder.0.query_key": [0, 9], "encoder.0.value_output": [0, 20]}
    >>> [missed(Twin("encoder", 0, kind), gone, 64) for kind in ("query_key", "value_output")]
    [[64, 9], [0, 20]]
    """
    own, values = ranks[str(twin)], ranks.get(str(twin._replace(kind="value_output")))
    if twin.kind != "query_key" or values is None:  # what is not named is whole
        return own
    return [rank if value else full for rank, value in zip(own, values, strict=True)]


def attention_weights(model: nn.Module, part: str, layer: int) -> tuple[Tensor, ...]:
    """Float64 (Wq, bq, Wk, Wv, bv, Wo, bo) of one attention in row-vector notation: W [d, H*dh], Wo [H*dh, d]."""
    a = attention_of(model, part, layer)
    return tuple(
        exact(t)
        for t in (
            a.q_proj.weight.T, a.q_proj.bias, a.k_proj.weight.T, a.v_proj.weight.T, a.v_proj.bias,
            a.out_proj.weight.T, a.out_proj.bias,
        )
    )  # fmt: skip


def by_head(matrix: Tensor, heads: int) -> Tensor:
    """Columns of [d, H*dh] as a batch of heads [H, d, dh]."""
    return matrix.unflatten(-1, (heads, -1)).transpose(0, 1)


def diagonal_blocks(matrix: Tensor, heads: int) -> Tensor:
    """The blocks [H, dh, dh] on the diagonal of [H*dh, H*dh]."""
    blocks = matrix.unflatten(0, (heads, -1)).unflatten(-1, (heads, -1))
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def white_moment(weight: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """[H, dh, dh] second moment of what each head's rows of a projection [H*dh, d] make of white inputs, as spectra of
    weights alone (CLOVER, ICML 2025) assume them; a bias [H*dh] counts as one more input."""
    rows = exact(weight).unflatten(0, (heads, -1))
    moment = rows @ rows.mT
    if bias is not None:
        own = exact(bias).unflatten(0, (heads, -1))
        moment += own[:, :, None] * own[:, None]
    return moment


def query_key_factors(model: nn.Module, twin: Twin, stats: Statistics | None) -> closed_form.QueryKey:
    """The factored query-key product of every head of one layer."""
    if stats is None:
        a = attention_of(model, twin.part, twin.layer)
        query = white_moment(a.q_proj.weight, a.num_heads, a.q_proj.bias)
        key = white_moment(a.k_proj.weight, a.num_heads)
    else:
        moments = stats.attention[twin.part, twin.layer]
        query, key = moments.query, moments.key
    return closed_form.query_key(query, key)


def value_output_factors(model: nn.Module, twin: Twin, stats: Statistics | None) -> closed_form.ValueOutput:
    """The factored value-output product of every head of one layer."""
    covariance, output = value_output_moments(model, twin, stats)
    return closed_form.value_output(covariance, output)


def value_output_moments(model: nn.Module, twin: Twin, stats: Statistics | None) -> tuple[Tensor, Tensor]:
    """Of every head of one layer: the covariance of its values [H, dh, dh] and its rows of the output [H, dh, d]."""
    a = attention_of(model, twin.part, twin.layer)
    if stats is None:
        covariance = white_moment(a.v_proj.weight, a.num_heads)
    else:
        covariance = diagonal_blocks(stats.attention[twin.part, twin.layer].covariance, a.num_heads)
    return covariance, exact(a.out_proj.weight).T.unflatten(0, (a.num_heads, -1))


def neuron_order(model: nn.Module, twin: Twin, stats: Statistics | None) -> closed_form.FeedForward:
    """The neurons of one feed-forward pair by their worth; weight-only: by the product of their two norms."""
    w1, w2 = matrices_of(pair_of(model, twin))
    if stats is None:
        worth = w1.norm(dim=1) * w2.unflatten(0, (-1, twin.taps)).norm(dim=(1, 2))
        values, order = worth.sort(descending=True)
        return closed_form.FeedForward(values, order)
    return closed_form.feed_forward(stats.neurons[twin.part, twin.layer].covariance, w2, taps=twin.taps)


def spectra(model: Whisper, stats: Statistics | None = None, *, job: Job | None = None) -> Spectra:
    """The spectra of every twin of a model; without statistics both columns are the weight-only ones.

    >>> import adaptwin_widgets as aw                                           # doctest: +SKIP
    >>> aw.spectra(aw.load("tiny.en")).frame().groupby("kind").size()           # doctest: +SKIP

    Values of a query-key twin are in units of the raw score (before the scale ``64 ** -0.5``), of a value-output
    twin and of neurons in units of the layer's output; their squares are mean squared errors a row.
    Of a model that is compressed already, what is gone has the value (nearly) zero. Raises InputError for statistics of
    another model.
    """
    model = expand(model)
    config = model.config
    result = Spectra(config, model.source, aware=stats is not None)
    factors_of: dict[str, Callable[..., Any]] = {
        "query_key": query_key_factors,
        "value_output": value_output_factors,
        "feed_forward": neuron_order,
    }
    for twin in ensure(job).track(list(twins_of(config)), text="Spectra"):
        check_statistics(config, twin, stats)
        shape = (heads_of(config, twin), full_rank(config, twin))
        found = None
        if stats is not None or twin.kind == "feed_forward":
            found = factors_of[twin.kind](model.model, twin, stats)
        white = found.values if found is not None and stats is None else _weight_only(model.model, twin)
        result.weight_only[twin] = result.values[twin] = white.reshape(shape).cpu().numpy()
        if found is not None:
            result.values[twin] = found.values.reshape(shape).cpu().numpy()
            if twin.kind == "feed_forward":
                result.order[twin] = found.order.cpu()
    return result


def _weight_only(model: nn.Module, twin: Twin) -> Tensor:
    """The values white inputs would see."""
    if twin.kind == "feed_forward":
        return neuron_order(model, twin, None).values
    if twin.kind == "query_key":
        return query_key_factors(model, twin, None).values
    return closed_form.value_output_values(*value_output_moments(model, twin, None))


def single_spectra(model: nn.Module, twin: Twin) -> tuple[tuple[str, str], np.ndarray, np.ndarray]:
    """What the two matrices of a twin look like alone: their names and singular values [heads, full rank] each,
    descending; for a feed-forward pair the norms of each neuron's row and column."""
    if twin.kind == "feed_forward":
        w1, w2 = matrices_of(pair_of(model, twin))
        norms = (w1.norm(dim=1), w2.unflatten(0, (-1, twin.taps)).norm(dim=(1, 2)))
        first, second = (n.sort(descending=True).values[None].cpu().numpy() for n in norms)
        return ("rows of the first matrix", "columns of the second matrix"), first, second
    heads = attention_of(model, twin.part, twin.layer).num_heads
    wq, _, wk, wv, _, wo, _ = attention_weights(model, twin.part, twin.layer)
    if twin.kind == "query_key":
        names, pair = ("query matrix", "key matrix"), (by_head(wq, heads), by_head(wk, heads))
    else:
        names, pair = ("value matrix", "output matrix"), (by_head(wv, heads), wo.unflatten(0, (heads, -1)).mT)
    first, second = (torch.linalg.svdvals(m).cpu().numpy() for m in pair)
    return names, first, second


def check_statistics(config: WhisperConfig | Shape, twin: Twin, stats: Statistics | None) -> None:
    """Raise InputError when the statistics were not gathered from a model of this shape."""
    if stats is None:
        return
    if not isinstance(stats, Statistics):
        raise InputError(f"{type(stats).__name__} is no statistics; give what observe(model, speech) returns.")
    neurons = twin.kind == "feed_forward"
    moments = (stats.neurons if neurons else stats.attention).get((twin.part, twin.layer))
    size = full_rank(config, twin) * twin.taps if neurons else config.d_model
    if moments is None or len(moments.mean) != size:
        raise InputError(f"The statistics of {stats.source} do not fit this model; observe this model itself.")
