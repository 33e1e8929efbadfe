"""A Whisper whose twins have ranks of their own, as a transformers model like any other.

`TwinWhisperForConditionalGeneration` is registered with the Auto classes: once `adaptwin_widgets` is imported,
``from_pretrained``, ``generate`` and ``pipeline("automatic-speech-recognition")`` read a compressed folder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.whisper.modeling_whisper import WhisperAttention, eager_attention_forward

from adaptwin_widgets.anatomy import TAPS, Twin, attention_name, full_rank, heads_of, layer_of, twins_of
from adaptwin_widgets.embedding import FactoredEmbedding, FactoredOutput
from adaptwin_widgets.packed import Group, PackedAttention, group_heads


class TwinWhisperConfig(WhisperConfig):
    """A Whisper's configuration with the rank of every compressed twin.

    ranks: ``{"encoder.0.query_key": [rank of head 0, ...], "encoder.0.feed_forward": [neurons], ...}``;
    a twin that is not named is as large as in the original. embedding_rank: of the token embedding, None where it is
    whole. original_vocab_size: how many tokens the original had, where the vocabulary was cut.

    >>> TwinWhisperConfig(ranks={"encoder.0.feed_forward": [700]}).rank("encoder.0.feed_forward")
    [700]
    """

    model_type = "adaptwin_whisper"
    ranks: dict[str, list[int]] | None = None
    embedding_rank: int | None = None
    original_vocab_size: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.ranks = {str(Twin.parse(key)): [int(r) for r in value] for key, value in (self.ranks or {}).items()}
        # transformers' speech pipeline recognises Whisper (long audio, timestamps) by this word on the instance;
        # the class, and so the saved file and the Auto classes, keep the name of our own.
        self.model_type = "whisper"

    def rank(self, key: str) -> list[int]:
        """The ranks of one twin, full ones where nothing is said."""
        twin = Twin.parse(key)
        return (self.ranks or {}).get(key) or [full_rank(self, twin)] * heads_of(self, twin)


class _Spread(torch.autograd.Function):
    """The rows of a ragged weight (columns where dim is 1) at their places in a padded one of so many, zeros between.

    Every row has one place, so its gradient is what is found there; indexing would have to add up.
    """

    @staticmethod
    def forward(ctx: Any, ragged: Tensor, places: Tensor, size: int, dim: int) -> Tensor:
        ctx.save_for_backward(places)
        ctx.dim = dim
        shape = [*ragged.shape]
        shape[dim] = size
        return ragged.new_zeros(shape).index_copy_(dim, places, ragged)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        return gradient.index_select(ctx.dim, places), None, None, None


def _places(ranks: list[int], groups: list[Group]) -> tuple[Tensor, int]:
    """Where each row of the ragged weight is in the padded one, and how many rows that has."""
    starts, size = {}, 0
    for group in groups:
        for head in group.heads:
            starts[head] = size
            size += group.dim
    rows = [torch.arange(starts[head], starts[head] + rank) for head, rank in enumerate(ranks) if rank]
    return torch.cat([torch.arange(0), *rows]), size


class TwinAttention(WhisperAttention):
    """Whisper's attention with a query-key and a value-output rank per head.

    The weights are stored ragged, head after head, so that every parameter is one that is used. For a forward
    pass heads of similar size share one kernel call, padded with zeros, so there is no loop over heads.
    query_key, value_output: the ranks, one a head; where both are 0 the head is gone, and takes no time. The scale
    stays the original ``64 ** -0.5``.
    """

    def __init__(self, like: WhisperAttention, query_key: list[int], value_output: list[int]):
        nn.Module.__init__(self)
        self.config, self.layer_idx = like.config, like.layer_idx
        self.embed_dim, self.num_heads, self.head_dim = like.embed_dim, like.num_heads, like.head_dim
        self.scaling, self.dropout = like.scaling, like.dropout
        self.is_decoder, self.is_causal = like.is_decoder, like.is_causal
        self.query_key, self.value_output = list(query_key), list(value_output)
        self.q_proj = nn.Linear(self.embed_dim, sum(query_key))
        self.k_proj = nn.Linear(self.embed_dim, sum(query_key), bias=False)
        self.v_proj = nn.Linear(self.embed_dim, sum(value_output), bias=False)
        self.out_proj = nn.Linear(sum(value_output), self.embed_dim)
        # Fused kernels want one dimension for queries, keys and values, so a head is as large as its larger rank.
        self.groups = group_heads([max(pair) for pair in zip(query_key, value_output, strict=True)])
        self._cache: dict = {}

    def _padded(self, key_groups: list[Group], value_groups: list[Group]) -> tuple[Tensor, ...]:
        """The five weights with zero rows where heads are smaller than their group."""
        keys, values = _places(self.query_key, key_groups), _places(self.value_output, value_groups)

        def spread(weight: Tensor, places: tuple[Tensor, int], dim: int = 0) -> Tensor:
            return _Spread.apply(weight, places[0].to(weight.device), places[1], dim)

        return (
            spread(self.q_proj.weight, keys),
            spread(self.q_proj.bias, keys),
            spread(self.k_proj.weight, keys),
            spread(self.v_proj.weight, values),
            spread(self.out_proj.weight, values, 1),
        )

    def _weights(self) -> tuple[Tensor, ...]:
        """Padded weights; kept between calls as long as nobody trains or changes the parameters."""
        if torch.is_grad_enabled() and self.q_proj.weight.requires_grad:
            return self._padded(self.groups, self.groups)
        state = tuple((p.data_ptr(), p._version, p.dtype) for p in self.parameters())
        if self._cache.get("state") != state:
            with torch.no_grad():
                self._cache = {"state": state, "weights": self._padded(self.groups, self.groups)}
        return self._cache["weights"]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}}  # copies and pickles make their own padded weights

    def packed(self) -> PackedAttention:
        """All heads padded to the layer's largest ranks, for the batched decoder."""
        key_dim, value_dim = max(1, *self.query_key), max(1, *self.value_output)
        everyone = list(range(self.num_heads))
        with torch.no_grad():
            q, qb, k, v, o = self._padded([Group(everyone, key_dim)], [Group(everyone, value_dim)])
        out_bias = self.out_proj.bias.detach()
        ranks = tuple(zip(self.query_key, self.value_output, strict=True))
        return PackedAttention(
            q, qb, k, None, v, None, o, out_bias, self.num_heads, key_dim, value_dim, self.scaling, ranks
        )

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As `WhisperAttention.forward`. The cache holds all heads side by side, [B, 1, T, sum of padded ranks]."""
        q_weight, q_bias, k_weight, v_weight, out_weight = self._weights()
        query = F.linear(hidden_states, q_weight, q_bias) * self.scaling
        cross = key_value_states is not None
        updated = False
        if isinstance(past_key_values, EncoderDecoderCache):
            updated = bool(past_key_values.is_updated.get(self.layer_idx)) and cross
            if cross:
                past_key_values.is_updated[self.layer_idx] = True
                past_key_values = past_key_values.cross_attention_cache
            else:
                past_key_values = past_key_values.self_attention_cache
        if updated:
            layer = past_key_values.layers[self.layer_idx]
            key, value = layer.keys[:, 0], layer.values[:, 0]
        else:
            source = key_value_states if cross else hidden_states
            key, value = F.linear(source, k_weight), F.linear(source, v_weight)
            if past_key_values is not None:
                key, value = past_key_values.update(key[:, None], value[:, None], self.layer_idx)
                key, value = key[:, 0], value[:, 0]

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mixed, weights, start = [], [], 0
        for heads, dim in self.groups:
            stop = start + len(heads) * dim
            q, k, v = (x[..., start:stop].unflatten(-1, (len(heads), dim)).transpose(1, 2) for x in (query, key, value))
            out, weight = attend(
                self, q, k, v, attention_mask, dropout=self.dropout if self.training else 0.0, scaling=1.0,
                output_attentions=output_attentions, **kwargs,
            )  # fmt: skip
            mixed.append(out.flatten(2))
            weights.append(weight)
            start = stop
        output = F.linear(torch.cat(mixed, -1), out_weight, self.out_proj.bias)
        if weights[0] is None:
            return output, None
        every = torch.cat(weights, 1)
        found = every.new_zeros(len(every), self.num_heads, *every.shape[2:])  # a head that is gone looks nowhere
        found[:, [h for group in self.groups for h in group.heads]] = every
        return output, found


def is_compressed(config: WhisperConfig) -> bool:
    """Whether twins or the embedding have fewer ranks than in an original.

    >>> is_compressed(WhisperConfig()), is_compressed(TwinWhisperConfig(embedding_rank=256))
    (False, True)
    """
    return bool(getattr(config, "ranks", None) or getattr(config, "embedding_rank", None))


class TwinWhisperForConditionalGeneration(WhisperForConditionalGeneration):
    """A compressed Whisper: `TwinAttention`, narrower feed-forward pairs, a factored embedding where the configuration
    says so.

    >>> config = TwinWhisperConfig(vocab_size=60, d_model=128, encoder_layers=1, decoder_layers=1,
    ...     encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
    ...     pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1,
    ...     ranks={"encoder.0.query_key": [3, 64], "encoder.0.feed_forward": [10]})
    >>> layer = TwinWhisperForConditionalGeneration(config).model.encoder.layers[0]
    >>> layer.self_attn.q_proj.weight.shape, layer.fc1.weight.shape
    (torch.Size([67, 128]), torch.Size([10, 128]))
    """

    config: TwinWhisperConfig
    config_class = TwinWhisperConfig

    def __init__(self, config: TwinWhisperConfig):
        super().__init__(config)
        named = {Twin.parse(key) for key in config.ranks or {}}
        for twin in twins_of(config):
            layer = layer_of(self, twin.part, twin.layer)
            if twin.part == "stem" and twin in named:
                (neurons,) = config.rank(str(twin))
                layer.conv1 = nn.Conv1d(config.num_mel_bins, neurons, TAPS, padding=1)
                layer.conv2 = nn.Conv1d(neurons, config.d_model, TAPS, stride=2, padding=1)
            elif twin.kind == "feed_forward" and twin in named:
                (neurons,) = config.rank(str(twin))
                layer.fc1 = nn.Linear(config.d_model, neurons)
                layer.fc2 = nn.Linear(neurons, config.d_model)
            elif twin.kind == "query_key":
                partner = twin._replace(kind="value_output")
                if twin in named or partner in named:
                    name = attention_name(twin.part)
                    dense = getattr(layer, name)
                    setattr(layer, name, TwinAttention(dense, config.rank(str(twin)), config.rank(str(partner))))
        if config.embedding_rank:
            sizes = config.vocab_size, config.embedding_rank, config.d_model
            self.model.decoder.embed_tokens, self.proj_out = FactoredEmbedding(*sizes), FactoredOutput(*sizes)
            self._tied_weights_keys = {
                f"proj_out.{name}": f"model.decoder.embed_tokens.{name}" for name in ("weight", "basis")
            }
            self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)
            self.tie_weights()


# The Auto classes know compressed models from here on.
AutoConfig.register(TwinWhisperConfig.model_type, TwinWhisperConfig, exist_ok=True)
AutoModelForSpeechSeq2Seq.register(TwinWhisperConfig, TwinWhisperForConditionalGeneration, exist_ok=True)
AutoProcessor.register(TwinWhisperConfig, WhisperProcessor, exist_ok=True)
