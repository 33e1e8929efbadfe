"""The methods to be compared: each makes an encoder smaller by a fraction of its parameters, counted, not claimed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from linear import Factored, bisect, linears, moments, output_pca, parameters, replaced, whitened_svd

import adaptwin_widgets as aw
from adaptwin_widgets.cost import cost
from adaptwin_widgets.model import is_compressed
from adaptwin_widgets.settings import settings_for

Made = tuple[aw.Whisper, int]


class Peers:
    """One model and its calibration speech; every method's preparation is made once."""

    def __init__(self, model: aw.Whisper, speech: Sequence[aw.Corpus]):
        self.model, self.speech = model, list(speech)
        self.recipe = aw.Recipe(model, self.speech)
        self.whole = cost(model.config).encoder

    @cached_property
    def moments(self) -> dict:
        return moments(self.model, self.speech)

    @cached_property
    def principal(self) -> dict[str, Factored]:
        return {name: output_pca(m, self.moments[name]) for name, m in linears(self.model.model).items()}

    @cached_property
    def whitened(self) -> dict[str, Factored]:
        return {name: whitened_svd(m, self.moments[name]) for name, m in linears(self.model.model).items()}

    def tuned(self, small: aw.Whisper, minutes: float) -> aw.Whisper:
        """The encoder tuned as ours is, or as its own recipe says, on the same speech, which each prepares itself."""
        ordinary = not is_compressed(small.config)
        if ordinary:  # a Whisper with more linears; `tune` looks up in the ranks which layers to tune
            layers = range(small.config.encoder_layers)
            small.config.ranks = {f"encoder.{i}.feed_forward": [small.config.encoder_ffn_dim] for i in layers}
            small.config.embedding_rank = None
        result = aw.tune(small, teacher=self.model, speech=self.speech, minutes=minutes, settings=settings_for(small))
        if ordinary:
            result.config.ranks = None
        return result

    def _counted(self, small: aw.Whisper) -> Made:
        return small, cost(small.config, small.config.ranks).encoder

    def ours(self, fraction: float) -> Made:
        """Activation-aware twins and neurons, ranks by measured damage, joint refit."""
        return self._counted(self.recipe.compress(self.recipe.plan(encoder=fraction)))

    def uniform(self, fraction: float) -> Made:
        """A3 (ICML 2026), KQ-SVD (AISTATS 2026): the closed-form twins, every one at the same share of its rank."""
        return self._counted(self.recipe.compress(self.recipe.plan("uniform", encoder=fraction)))

    def clover(self, fraction: float) -> Made:
        """CLOVER (ICML 2025): twins by their weights alone, one threshold; neurons by the product of their norms."""
        plan = aw.RankPlan.for_budget(aw.spectra(self.model), encoder=fraction)
        return self._counted(aw.compress(self.model, plan))

    def adaptwin(self, fraction: float) -> Made:
        """AdaPTwin (arXiv 2406.08904), reconstructed, before its tuning: as CLOVER, every twin at the same share."""
        return self._counted(self.recipe.compress(self.recipe.plan("adaptwin", encoder=fraction)))

    def liteasr(self, fraction: float) -> Made:
        """LiteASR (EMNLP 2025): output PCA of every encoder matrix, one threshold of kept energy for all."""

        def ranks(share: float) -> dict[str, int]:
            lost = 10 ** (-9 * share)  # of the energy; a logarithm, so that the bisection has something to hold
            return {
                name: max(1, int((f.energy.cumsum(0) < (1 - lost) * f.energy.sum()).sum()) + 1)
                for name, f in self.principal.items()
            }

        share = bisect(lambda s: parameters(self.model, ranks(s)), (1 - fraction) * self.whole)
        return replaced(self.model, self.principal, ranks(share))

    def svd_llm(self, fraction: float) -> Made:
        """SVD-LLM (ICLR 2025): whitened SVD of every encoder matrix, the same share of each."""
        modules = linears(self.model.model)

        def ranks(share: float) -> dict[str, int]:
            return {n: max(1, int(share * m.weight.numel() / sum(m.weight.shape))) for n, m in modules.items()}

        share = bisect(lambda s: parameters(self.model, ranks(s)), (1 - fraction) * self.whole)
        return replaced(self.model, self.whitened, ranks(share))

    def magnitude(self, fraction: float) -> Made:
        """Structured pruning: the heads and neurons with the smallest weights, the same share in every layer.

        Head and neuron weights are set to zero; an encoder without them is what is counted.
        """
        network = copy.deepcopy(self.model.model)
        layers, config = network.model.encoder.layers, self.model.config
        heads, size = config.encoder_attention_heads, config.d_model // config.encoder_attention_heads
        each_head, each_neuron = size * (4 * config.d_model + 2), 2 * config.d_model + 1

        def counts(share: float) -> tuple[int, int]:
            return round(share * heads), round(share * config.encoder_ffn_dim)

        def size_at(share: float) -> int:
            kept = counts(share)
            gone = (heads - kept[0]) * each_head + (config.encoder_ffn_dim - kept[1]) * each_neuron
            return self.whole - gone * len(layers)

        share = bisect(size_at, (1 - fraction) * self.whole)
        kept_heads, kept_neurons = counts(share)
        with torch.no_grad():
            for layer in layers:
                attention = layer.self_attn
                out = attention.out_proj.weight.unflatten(1, (heads, size))
                norms = out.square().sum((0, 2)) * attention.v_proj.weight.unflatten(0, (heads, size)).square().sum(
                    (1, 2)
                )
                out[:, norms.argsort()[: heads - kept_heads]] = 0
                worth = layer.fc1.weight.norm(dim=1) * layer.fc2.weight.norm(dim=0)
                layer.fc2.weight[:, worth.argsort()[: config.encoder_ffn_dim - kept_neurons]] = 0
        return aw.Whisper(network, self.model.processor, self.model.source), size_at(share)

    def int8(self, fraction: float) -> Made:
        """Round-to-nearest int8 weights, a scale for every output; as small in bytes as −75 % of float32 would be.

        Weights alone are rounded; a runtime that rounds its inputs too does a little worse.
        """
        network = copy.deepcopy(self.model.model)
        for linear in linears(network).values():
            scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
            linear.weight.data = (linear.weight.detach() / scale).round() * scale
        return aw.Whisper(network, self.model.processor, self.model.source), self.whole


# Pruned heads would grow back in a tune, and eight bits have no gradient.
TUNED = ("ours", "uniform twins (A3, KQ-SVD)", "whitened SVD (SVD-LLM)", "AdaPTwin, reconstructed")

METHODS: dict[str, Callable[[Peers, float], Made]] = {
    "ours": Peers.ours,
    "uniform twins (A3, KQ-SVD)": Peers.uniform,
    "whitened SVD (SVD-LLM)": Peers.svd_llm,
    "output PCA (LiteASR)": Peers.liteasr,
    "weight-only twins (CLOVER)": Peers.clover,
    "AdaPTwin, reconstructed": Peers.adaptwin,
    "magnitude pruning": Peers.magnitude,
}
