"""Write a Whisper for onnxruntime, ranks and all, with the files and names of the Hugging Face ONNX exports.

encoder_model.onnx hears a window; decoder_model.onnx writes the first tokens and keeps what they need of the window;
decoder_with_past_model.onnx goes on from there. Both decoders read one file of weights.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import WhisperConfig

from adaptwin_widgets.embedding import Rows
from adaptwin_widgets.onnx_graph import Graph, Weights
from adaptwin_widgets.packed import packed_attention
from adaptwin_widgets.whisper import Whisper

FILES = ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx", "encoder.data", "decoder.data")


def write(whisper: Whisper, folder: Path, dtype: str) -> None:
    """Fill a folder: the three graphs, their weights, configuration, tokenizer, feature extractor."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as files:
        weights = {
            side: Weights(files.enter_context((folder / f"{side}.data").open("wb")), f"{side}.data")
            for side in ("encoder", "decoder")
        }
        encoder(whisper, Graph(weights["encoder"], dtype == "int8")).save(folder / "encoder_model.onnx")
        for name, past in (("decoder_model.onnx", False), ("decoder_with_past_model.onnx", True)):
            decoder(whisper, Graph(weights["decoder"], dtype == "int8"), past).save(folder / name)
    settings = whisper.config.to_dict()
    known = WhisperConfig().to_dict()
    WhisperConfig(**{key: value for key, value in settings.items() if key in known}).save_pretrained(folder)
    whisper.model.generation_config.save_pretrained(folder)
    whisper.processor.save_pretrained(folder)


def encoder(whisper: Whisper, graph: Graph) -> Graph:
    """input_features [B, mels, 3000] to last_hidden_state [B, 1500, d]."""
    network, config = whisper.model.model.encoder, whisper.config
    frames = config.max_source_positions
    x = graph.input("input_features", ["batch", config.num_mel_bins, 2 * frames])
    for name in ("conv1", "conv2"):
        conv = getattr(network, name)
        kernel = graph.weight(f"{name}.weight", array(conv.weight)), graph.weight(f"{name}.bias", array(conv.bias))
        x = graph.op("Conv", x, *kernel, pads=[*conv.padding] * 2, strides=[*conv.stride])
        x = graph.op("Gelu", x)
    x = graph.op("Transpose", x, perm=[0, 2, 1])
    x = graph.op("Add", x, graph.weight("positions", array(network.embed_positions.weight)))
    for i, layer in enumerate(network.layers):
        attention = Attention(graph, layer.self_attn, f"layers.{i}.self_attn")
        hidden = norm(graph, x, layer.self_attn_layer_norm, f"layers.{i}.self_attn_norm")
        x = graph.op("Add", x, attention(hidden, attention.key(hidden), attention.value(hidden)))
        x = feed_forward(graph, x, layer, f"layers.{i}")
    x = norm(graph, x, network.layer_norm, "norm")
    graph.output(x, "last_hidden_state", ["batch", frames, config.d_model])
    return graph


def decoder(whisper: Whisper, graph: Graph, past: bool) -> Graph:
    """input_ids [B, T] to logits [B, T, vocabulary] and the keys and values of every layer, [B, heads, length, D].

    past: with keys and values of earlier tokens and of the window as inputs; else with encoder_hidden_states.
    """
    network, config = whisper.model.model.decoder, whisper.config
    tokens = graph.input("input_ids", ["batch", "tokens"], np.int64)
    layers = []
    for i, layer in enumerate(network.layers):
        own = Attention(graph, layer.self_attn, f"layers.{i}.self_attn")
        layers.append((i, layer, own, Attention(graph, layer.encoder_attn, f"layers.{i}.encoder_attn")))
    heard = "" if past else graph.input("encoder_hidden_states", ["batch", config.max_source_positions, config.d_model])
    before = {
        (i, part, kind): graph.input(
            f"past_key_values.{i}.{part}.{kind}", _shape(attention, part, kind, config, "past")
        )
        for i, _, *both in layers
        for part, attention in zip(("decoder", "encoder"), both, strict=True)
        for kind in ("key", "value")
        if past
    }
    length = graph.op("Shape", before[0, "decoder", "key"], start=2, end=3) if past else graph.constant(0)
    end = graph.op("Add", length, graph.op("Shape", tokens, start=1, end=2))
    rows = Rows.of(whisper.model)
    table, scale = graph.matrix("embedding", array(rows.table).T)  # [d or rank, vocabulary]
    x = graph.op("Gather", table, tokens, axis=1)  # [d or rank, B, T]
    if scale is not None:
        x = graph.op("Mul", graph.op("Cast", x, to=1), graph.op("Gather", scale, tokens))
    x = graph.op("Transpose", x, perm=[1, 2, 0])
    if rows.basis is not None:
        x = graph.linear(x, "embedding.basis", array(rows.basis))
    places = graph.weight("positions", array(network.embed_positions.weight))
    x = graph.op("Add", x, graph.op("Slice", places, length, end, graph.constant(0)))
    hidden_later = _later(graph, length, end)
    for i, layer, own, cross in layers:
        hidden = norm(graph, x, layer.self_attn_layer_norm, f"layers.{i}.self_attn_norm")
        key, value = own.key(hidden), own.value(hidden)
        if past:
            key = graph.op("Concat", before[i, "decoder", "key"], key, axis=2)
            value = graph.op("Concat", before[i, "decoder", "value"], value, axis=2)
        for kind, tensor in (("key", key), ("value", value)):
            graph.output(tensor, f"present.{i}.decoder.{kind}", _shape(own, "decoder", kind, config, "total"))
        x = graph.op("Add", x, own(hidden, key, value, hidden_later))
        hidden = norm(graph, x, layer.encoder_attn_layer_norm, f"layers.{i}.encoder_attn_norm")
        if past:
            key, value = before[i, "encoder", "key"], before[i, "encoder", "value"]
        else:
            key, value = cross.key(heard), cross.value(heard)
            for kind, tensor in (("key", key), ("value", value)):
                graph.output(tensor, f"present.{i}.encoder.{kind}", _shape(cross, "encoder", kind, config, ""))
        x = graph.op("Add", x, cross(hidden, key, value))
        x = feed_forward(graph, x, layer, f"layers.{i}")
    x = norm(graph, x, network.layer_norm, "norm")
    if rows.basis is not None:
        x = graph.linear(x, "embedding.basis.transposed", array(rows.basis).T)
    logits = graph.linear(x, "embedding", array(rows.table).T)
    graph.output(logits, "logits", ["batch", "tokens", config.vocab_size])
    return graph


class Attention:
    """One attention layer; the heads that are left are padded to the largest rank, of keys and of values."""

    def __init__(self, graph: Graph, layer: nn.Module, name: str):
        self.graph, self.name, packed = graph, name, packed_attention(layer)
        self.packed = packed.pick(packed.left, packed.key_dim, packed.value_dim)

    def key(self, x: str) -> str:
        """[B, heads, T, Dk] of x [B, T, d]."""
        return self._heads(x, "k", self.packed.key_dim)

    def value(self, x: str) -> str:
        return self._heads(x, "v", self.packed.value_dim)

    def _heads(self, x: str, which: str, size: int, scale: float = 1.0) -> str:
        weight, bias = getattr(self.packed, f"{which}_weight"), getattr(self.packed, f"{which}_bias")
        matrix = array(weight).T * np.float32(scale)
        vector = None if bias is None else array(bias) * np.float32(scale)
        y = self.graph.linear(x, f"{self.name}.{which}", matrix, vector)
        y = self.graph.op("Reshape", y, self.graph.constant(0, 0, self.packed.heads, size))
        return self.graph.op("Transpose", y, perm=[0, 2, 1, 3])

    def __call__(self, x: str, key: str, value: str, hidden: str | None = None) -> str:
        """What the queries of x [B, T, d] find in keys and values; hidden: added to the scores."""
        graph = self.graph
        query = self._heads(x, "q", self.packed.key_dim, self.packed.scale)
        scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[0, 1, 3, 2]))
        if hidden is not None:
            scores = graph.op("Add", scores, hidden)
        mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
        width = self.packed.heads * self.packed.value_dim
        mixed = graph.op("Reshape", graph.op("Transpose", mixed, perm=[0, 2, 1, 3]), graph.constant(0, 0, width))
        bias = self.packed.out_bias
        matrix = array(self.packed.out_weight).T
        return graph.linear(mixed, f"{self.name}.out", matrix, None if bias is None else array(bias))


def norm(graph: Graph, x: str, layer: nn.LayerNorm, name: str) -> str:
    gain, bias = graph.weight(f"{name}.weight", array(layer.weight)), graph.weight(f"{name}.bias", array(layer.bias))
    return graph.op("LayerNormalization", x, gain, bias, axis=-1, epsilon=layer.eps)


def feed_forward(graph: Graph, x: str, layer: nn.Module, name: str) -> str:
    hidden = norm(graph, x, layer.final_layer_norm, f"{name}.final_norm")
    hidden = graph.op("Gelu", graph.linear(hidden, f"{name}.fc1", array(layer.fc1.weight).T, array(layer.fc1.bias)))
    return graph.op("Add", x, graph.linear(hidden, f"{name}.fc2", array(layer.fc2.weight).T, array(layer.fc2.bias)))


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu").float().numpy()


def _later(graph: Graph, length: str, end: str) -> str:
    """[T, past + T]: minus infinity where a token would see a later one."""
    zero, one = graph.constant(0), graph.constant(1)

    def numbers(first: str, last: str) -> str:
        first, last, step = (graph.op("Squeeze", each) for each in (first, last, one))
        return graph.op("Range", first, last, step)

    rows = graph.op("Unsqueeze", numbers(length, end), one)
    later = graph.op("Greater", numbers(zero, end), rows)
    return graph.op("Where", later, graph.scalar(float("-inf")), graph.scalar(0.0))


def _shape(attention: Attention, part: str, kind: str, config: Any, length: str) -> list[int | str]:
    packed = attention.packed
    size = packed.key_dim if kind == "key" else packed.value_dim
    return ["batch", packed.heads, config.max_source_positions if part == "encoder" else length, size]
