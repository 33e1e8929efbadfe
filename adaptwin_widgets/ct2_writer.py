"""Write a Whisper for CTranslate2 (faster-whisper, whisper-ctranslate2), ranks and all, through its own package.

CTranslate2 reads the dimension of a head and the scale of the queries for every attention layer, so a compressed layer
is an attention with smaller heads. One dimension serves queries, keys and values of all heads of a layer: ragged
ranks are padded with zeros to the layer's largest. The number of heads is one for all layers: where they have lost
heads, it is that of the layer with the most.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptwin_widgets.embedding import Rows
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.layers import bias_of
from adaptwin_widgets.packed import PackedAttention, packed_attention
from adaptwin_widgets.vocabulary import filler, recoded, renumbered
from adaptwin_widgets.whisper import Whisper


def write(whisper: Whisper, folder: Path, dtype: str) -> None:
    """Fill a new folder: model.bin, config.json, vocabulary.json, tokenizer.json, preprocessor_config.json."""
    specs = _package()
    spec = specification(whisper, specs)
    spec.validate()
    spec.optimize(dtype)
    folder.mkdir(exist_ok=True)
    spec.save(str(folder))
    recoded(whisper.processor.tokenizer.backend_tokenizer, _places(whisper)).save(str(folder / "tokenizer.json"))
    features = whisper.processor.feature_extractor.to_dict()
    (folder / "preprocessor_config.json").write_text(json.dumps(features, indent=1, default=str) + "\n")


def dimensions(whisper: Whisper) -> dict[str, int]:
    """The head dimension of every attention layer as CTranslate2 runs it: its largest rank.

    >>> import adaptwin_widgets as aw
    >>> dimensions(aw.load("tiny.en"))["encoder.0"]
    64
    """
    network = whisper.model.model
    layers = {f"encoder.{i}": layer.self_attn for i, layer in enumerate(network.encoder.layers)}
    for i, layer in enumerate(network.decoder.layers):
        layers |= {f"decoder.{i}": layer.self_attn, f"cross.{i}": layer.encoder_attn}
    packed = {name: packed_attention(layer) for name, layer in layers.items()}
    return {name: max(p.key_dim, p.value_dim) for name, p in packed.items()}


def specification(whisper: Whisper, specs: Any) -> Any:
    """The model as CTranslate2's own description of a Whisper."""
    network, config = whisper.model.model, whisper.config
    # The decoder keeps all heads, for some follow the audio and are named by their numbers.
    heads = max(len(packed_attention(layer.self_attn).left) for layer in network.encoder.layers)
    spec = specs.whisper_spec.WhisperSpec(
        config.encoder_layers, heads, config.decoder_layers, config.decoder_attention_heads
    )
    for theirs, ours in ((spec.encoder.conv1, network.encoder.conv1), (spec.encoder.conv2, network.encoder.conv2)):
        theirs.weight, theirs.bias = _array(ours.weight), _array(ours.bias)
    for theirs, ours in ((spec.encoder, network.encoder), (spec.decoder, network.decoder)):
        theirs.position_encodings.encodings = _array(ours.embed_positions.weight)
        _norm(theirs.layer_norm, ours.layer_norm)
        for their_layer, our_layer in zip(theirs.layer, ours.layers, strict=True):
            norm, number = our_layer.self_attn_layer_norm, int(theirs.num_heads)
            their_layer.self_attention = _attention(our_layer.self_attn, norm, specs, True, number)
            if hasattr(our_layer, "encoder_attn"):
                norm = our_layer.encoder_attn_layer_norm
                their_layer.attention = _attention(our_layer.encoder_attn, norm, specs, False, number)
            _norm(their_layer.ffn.layer_norm, our_layer.final_layer_norm)
            _linear(their_layer.ffn.linear_0, our_layer.fc1.weight, our_layer.fc1.bias)
            _linear(their_layer.ffn.linear_1, our_layer.fc2.weight, our_layer.fc2.bias)
    rows = _rows(whisper)
    spec.decoder.embeddings.weight, spec.decoder.projection.weight = _array(rows), _array(rows)
    spec.register_vocabulary(_vocabulary(whisper))
    _settings(spec.config, whisper)
    return spec


def _attention(layer: nn.Module, norm: nn.Module, specs: Any, own: bool, number: int) -> Any:
    """One attention layer: so many of its heads, those that are left first, each as large as the layer's largest
    rank, and the scale of the original."""
    packed = packed_attention(layer)
    dim = max(packed.key_dim, packed.value_dim)
    gone = sorted(set(range(packed.heads)) - set(packed.left))
    packed = packed.pick(sorted([*packed.left, *gone][:number]), dim, dim)
    spec = specs.attention_spec.MultiHeadAttentionSpec(self_attention=own, head_dim=dim)
    spec.queries_scale = np.dtype("float32").type(packed.scale)
    _norm(spec.layer_norm, norm)
    queries, keys, values = _stacks(packed)
    stacks = [[queries, keys, values]] if own else [[queries], [keys, values]]
    for target, stack in zip(spec.linear, stacks, strict=False):
        _linear(target, torch.cat([w for w, _ in stack]), torch.cat([b for _, b in stack]))
    _linear(spec.linear[-1], packed.out_weight, packed.out_bias)
    return spec


def _stacks(packed: PackedAttention) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of queries, keys and values."""
    return [(getattr(packed, f"{name}_weight"), bias_of(packed, name)) for name in "qkv"]


def _norm(spec: Any, norm: nn.Module) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _linear(spec: Any, weight: Tensor, bias: Tensor | None) -> None:
    spec.weight = _array(weight)
    if bias is not None:
        spec.bias = _array(bias)


def _array(tensor: Tensor) -> np.ndarray:
    """A copy: CTranslate2's package changes in place what it is given."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()


def _places(whisper: Whisper) -> dict[int, int]:
    """The id of every token as CTranslate2 numbers them: its own, but for a multilingual model with a cut vocabulary.

    CTranslate2 takes a model for multilingual, and prompts it with a language, by the size of its vocabulary alone; so
    there the cut tokens are made up for, before the special ones.
    """
    size = whisper.config.vocab_size
    missing = (getattr(whisper.config, "original_vocab_size", None) or size) - size if whisper.multilingual else 0
    ends = whisper.model.generation_config.eos_token_id
    first = min(ends) if isinstance(ends, list) else ends
    return {i: i + missing * (i >= first) for i in range(size)}


def _rows(whisper: Whisper) -> Tensor:
    """The embedding [tokens, d], multiplied out: CTranslate2 knows no factors here. A token that is made up has the row
    of the start token, which no model ever writes."""
    rows, places = Rows.of(whisper.model).dense(), list(_places(whisper).values())
    new = rows[whisper.model.generation_config.decoder_start_token_id].repeat(places[-1] + 1, 1)
    new[places] = rows
    return new


def _vocabulary(whisper: Whisper) -> list[str]:
    """Every token in order; the timestamps, which some tokenizers leave out, at the end."""
    known = whisper.processor.tokenizer.get_vocab()
    tokens = sorted(known, key=known.__getitem__)[: whisper.config.vocab_size]
    tokens += [f"<|{i * 0.02:.2f}|>" for i in range(whisper.config.vocab_size - len(tokens))]
    named = dict(zip(_places(whisper).values(), tokens, strict=True))
    return [named.get(i, filler(i)) for i in range(max(named) + 1)]


def _settings(config: Any, whisper: Whisper) -> None:
    """Suppressed tokens, languages, and the heads whose attention follows the audio."""
    settings, shape = whisper.model.generation_config, whisper.config
    moved = renumbered(settings.to_dict(), _places(whisper))
    config.suppress_ids = moved.get("suppress_tokens", [])
    config.suppress_ids_begin = moved.get("begin_suppress_tokens", [])
    config.lang_ids = sorted(moved.get("lang_to_id", {}).values()) if whisper.multilingual else []
    later = range(shape.decoder_layers // 2, shape.decoder_layers)
    every = list(itertools.product(range(shape.decoder_layers), range(shape.decoder_attention_heads)))
    # Distilled models may name their teacher's heads, of layers that they do not have: CTranslate2 would crash.
    heads = [pair for pair in map(tuple, getattr(settings, "alignment_heads", None) or []) if pair in every]
    # Where there are none: all heads of the later half, as CTranslate2's own converter has it.
    config.alignment_heads = [list(pair) for pair in heads or every if heads or pair[0] in later]


def _package() -> Any:
    try:
        from ctranslate2 import specs
        from ctranslate2.specs import attention_spec, whisper_spec  # noqa: F401 - not all are imported by the package
    except ImportError as error:
        raise InputError(
            "CTranslate2 is not installed here; run: pip install 'adaptwin-widgets[ctranslate2]'."
        ) from error
    return specs
