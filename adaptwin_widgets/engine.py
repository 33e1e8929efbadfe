"""A Whisper's weights laid out for fast inference, and its two passes: hear a window, write one more token.

transformers' modules are made to be trained, hooked and exported; this is the same arithmetic without what
only those need. It reads the original's attention and a compressed one's through `packed_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperForConditionalGeneration

from adaptwin_widgets.embedding import Rows
from adaptwin_widgets.layers import (
    CrossAttention,
    FeedForward,
    Hearing,
    SelfAttention,
    affine,
    bias_of,
    norm,
    projections,
)  # fmt: skip
from adaptwin_widgets.packed import packed_attention
from adaptwin_widgets.precision import fused_attention, short_memory

EDGE = 16  # frames of padding behind the speech, and before the window's end, that the convolutions see
CANDIDATES = 8  # tokens a 16-bit format may confuse; the best of so many is chosen in float32


@dataclass
class Memory:
    """What a batch of B utterances has heard and written so far: keys and values of every decoder layer.

    heard: for each layer keys [B, H, 1500, Dk] and values [B, H, Dv, 1500] (transposed, because a
    matrix-vector product reads its matrix row by row); in 16 bits both [B, H, 1500, D], D the larger dimension,
    zeros behind the smaller one, as torch's fused kernel reads them. written: keys [B, H, L, Dk] and values
    [B, H, L, Dv].
    rows: utterances still being written. length: tokens written of each.
    """

    heard: list[tuple[Tensor, Tensor]]
    written: list[tuple[Tensor, Tensor]]
    rows: int
    length: int = 0

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all other rows; kept ones from the end fill the holes. Returns the rows in their new order."""
        size = len(rows)
        kept = set(rows)
        holes = [row for row in range(size) if row not in kept]
        movers = [row for row in rows if row >= size]
        if holes:
            for pair in (*self.heard, *self.written):
                for tensor in pair:
                    tensor[holes] = tensor[movers]
        self.rows = size
        order = list(range(size))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        return order


class Engine:
    """One model in one number format, ready to hear and write. After the model has changed, make another.

    >>> from adaptwin_widgets.whisper import load
    >>> whisper = load("tiny.en")
    >>> engine = Engine(whisper.model, torch.float32)
    >>> with torch.inference_mode():
    ...     memory = engine.memory(1, 8)
    ...     engine.listen(torch.zeros(1, 80, 3000), memory, 0)
    ...     engine.step([whisper.prompt()], memory, first=True).shape
    torch.Size([1])

    Matrix products are done in `dtype`, on a CPU only the encoder's; convolutions, sums over layers, norms, and
    the last choice among the best tokens in float32. (The convolutions cost little,
    and their rounding adds to all that follows.)
    """

    def __init__(self, model: WhisperForConditionalGeneration, dtype: torch.dtype):
        self.dtype, self.device = dtype, model.device
        self.fused = fused_attention(self.device, dtype)
        # On a CPU the decoder's small products are bound by memory and calls, and for a single query 16-bit
        # kernels are the slower ones; so there only the encoder, nearly all of the work, is in 16 bits.
        self.fine = torch.float32 if self.device.type == "cpu" else dtype
        # What is heard is computed in 16 bits; kept so, it loses nothing, and a step reads half as much memory.
        self.short = short_memory(self.device, dtype)
        encoder, decoder = model.model.encoder, model.model.decoder
        self.frames = encoder.config.max_source_positions
        self.convolutions = [
            (*affine(c.weight, c.bias, torch.float32), c.stride, c.padding) for c in (encoder.conv1, encoder.conv2)
        ]
        self.encoder_positions = encoder.embed_positions.weight.detach().float()
        self.encoder_layers = [
            (self._hearing(layer, dtype), self._feed_forward(layer, dtype)) for layer in encoder.layers
        ]
        self.encoder_norm = norm(encoder.layer_norm)

        self.rows = Rows.of(model).to(torch.float32)
        self.positions = decoder.embed_positions.weight.detach().float()
        self.decoder_layers = [
            (
                self._self_attention(layer, self.fine),
                self._cross_attention(layer),
                self._feed_forward(layer, self.fine),
            )
            for layer in decoder.layers
        ]
        self.decoder_norm = norm(decoder.layer_norm)
        self.output = self.rows.table.to(dtype)
        settings = model.generation_config
        never, not_first = settings.suppress_tokens or [], settings.begin_suppress_tokens or []
        self.never, self.not_first = self._forbid(never), self._forbid([*never, *not_first])

    def _hearing(self, layer: nn.Module, dtype: torch.dtype) -> Hearing:
        packed = packed_attention(layer.self_attn)
        groups = packed.grouped(self.fused)
        weights, biases = zip(*map(projections, groups), strict=True)
        return Hearing(
            norm(layer.self_attn_layer_norm),
            affine(torch.cat(weights), torch.cat(biases), dtype),
            affine(torch.cat([p.out_weight for p in groups], 1), packed.out_bias, dtype),
            [(p.heads, p.key_dim, p.value_dim) for p in groups],
        )

    def _self_attention(self, layer: nn.Module, dtype: torch.dtype) -> SelfAttention:
        p = packed_attention(layer.self_attn)
        return SelfAttention(
            norm(layer.self_attn_layer_norm),
            affine(*projections(p), dtype),
            affine(p.out_weight, p.out_bias, dtype),
            p.heads, p.key_dim, p.value_dim,
        )  # fmt: skip

    def _cross_attention(self, layer: nn.Module) -> CrossAttention:
        p = packed_attention(layer.encoder_attn)
        return CrossAttention(
            norm(layer.encoder_attn_layer_norm),
            affine(p.q_weight * p.scale, bias_of(p, "q") * p.scale, self.fine),
            affine(p.k_weight, p.k_bias, self.dtype),
            affine(p.v_weight, p.v_bias, self.dtype),
            affine(p.out_weight, p.out_bias, self.fine),
            p.heads, p.key_dim, p.value_dim,
        )  # fmt: skip

    def _feed_forward(self, layer: nn.Module, dtype: torch.dtype) -> FeedForward:
        up, down = (
            [affine(linear.weight, linear.bias, dtype) for linear in module.modules() if isinstance(linear, nn.Linear)]
            for module in (layer.fc1, layer.fc2)
        )
        return FeedForward(norm(layer.final_layer_norm), up, layer.activation_fn, down)

    def _forbid(self, tokens: Sequence[int]) -> Tensor:
        bias = torch.zeros(self.output.shape[0], device=self.device, dtype=self.dtype)
        bias[[token for token in tokens if token < len(bias)]] = -torch.inf
        return bias

    def encode(self, features: Tensor) -> Tensor:
        """The encoder's output [B, 1500, d] for log-mel features [B, mels, 3000]."""
        # In a row for `norm` and what follows; see `anatomy.encoder_input`.
        x = self._convolve(features.float()).transpose(1, 2).contiguous() + self.encoder_positions
        for attention, feed_forward in self.encoder_layers:
            x += attention(attention.norm(x).to(self.dtype), self.fused)
            x += feed_forward(feed_forward.norm(x).to(self.dtype))
        return self.encoder_norm(x).to(self.dtype)

    def _convolve(self, features: Tensor) -> Tensor:
        """Both convolutions [B, d, 1500]. Behind the speech all frames are alike, and so is what comes of them: it is
        computed once and repeated, which gives the same numbers."""
        frames = features.shape[-1]
        different = (features != features[..., -1:]).any(1).any(0).nonzero()
        heard = int(different[-1]) + 1 if len(different) else 0
        kept = min(frames, (heard + EDGE + 1) // 2 * 2)
        alike = frames - kept - EDGE
        x = torch.cat([features[..., :kept], features[..., -EDGE:]], -1) if alike > 0 else features
        for weight, bias, stride, padding in self.convolutions:
            x = F.gelu(F.conv1d(x, weight, bias, stride, padding))
        if alike <= 0:
            return x
        start, end = x[..., : kept // 2], x[..., kept // 2 :]
        return torch.cat([start, start[..., -3:-2].expand(-1, -1, alike // 2), end], -1)

    def memory(self, rows: int, tokens: int) -> Memory:
        """Room for `rows` utterances of at most `tokens` tokens, prompt included."""

        def room(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.fine, device=self.device)

        def heard(c: CrossAttention) -> tuple[Tensor, Tensor]:
            if self.short:
                shape = (rows, c.heads, self.frames, max(c.key_dim, c.value_dim))
                keys, values = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
                return keys, values
            keys = room(rows, c.heads, self.frames, c.key_dim)
            return keys, room(rows, c.heads, c.value_dim, self.frames)

        written = [
            (room(rows, a.heads, tokens, a.key_dim), room(rows, a.heads, tokens, a.value_dim))
            for a, _, _ in self.decoder_layers
        ]
        return Memory([heard(cross) for _, cross, _ in self.decoder_layers], written, rows)

    def listen(self, features: Tensor, memory: Memory, row: int) -> None:
        """Encode windows [B, mels, 3000] and lay down what the decoder needs of them, from `row` on."""
        states = self.encode(features)
        rows = slice(row, row + len(features))
        for (_, cross, _), (keys, values) in zip(self.decoder_layers, memory.heard, strict=True):
            key, value = (m(states).unflatten(-1, (cross.heads, -1)) for m in (cross.key, cross.value))
            if self.short:
                keys[rows, ..., : cross.key_dim] = key.transpose(1, 2)
                values[rows, ..., : cross.value_dim] = value.transpose(1, 2)
            else:
                keys[rows] = key.transpose(1, 2)
                values[rows] = value.permute(0, 2, 3, 1)

    def step(self, tokens: Sequence[Sequence[int]], memory: Memory, first: bool = False) -> Tensor:
        """Write tokens [B][t] (the prompt, or one each) and return the likeliest next ones [B]."""
        x = self.rows.narrow(self._decode(tokens, memory))
        forbidden = self.not_first if first else self.never
        scores = F.linear(x.to(self.dtype), self.output, forbidden)
        if self.dtype == torch.float32:
            return scores.argmax(-1)
        best = scores.topk(CANDIDATES, dim=-1).indices
        exact = (self.rows.table[best] @ x.unsqueeze(-1)).squeeze(-1) + forbidden[best]
        return best.gather(1, exact.argmax(-1, keepdim=True)).squeeze(1)

    def log_probabilities(self, tokens: Sequence[Sequence[int]], memory: Memory) -> Tensor:
        """As `step`, but all next tokens' log-probabilities [B, vocabulary], float32, none forbidden."""
        x = self.rows.narrow(self._decode(tokens, memory))
        return F.linear(x.to(self.dtype), self.output).float().log_softmax(-1)

    def _decode(self, tokens: Sequence[Sequence[int]], memory: Memory) -> Tensor:
        """The decoder's last state [B, d], float32, after writing `tokens` into the memory."""
        rows, count, start = memory.rows, len(tokens[0]), memory.length
        memory.length = end = start + count
        ids = torch.tensor(tokens, device=self.device)
        x = self.rows.wide(self.rows.table[ids]) + self.positions[start:end]
        for (attention, cross, feed_forward), written, heard in zip(
            self.decoder_layers, memory.written, memory.heard, strict=True
        ):
            q, k, v = attention.split(attention.norm(x).to(self.fine))
            keys, values = (tensor[:rows, :, :end] for tensor in written)
            keys[:, :, start:] = k
            values[:, :, start:] = v
            scores = q.flatten(0, 1) @ keys.flatten(0, 1).transpose(1, 2)
            if count > 1:  # no token sees a later one
                scores += torch.full((count, end), -torch.inf, device=self.device).triu(start + 1)
            x += attention.out(_join(scores.softmax(-1) @ values.flatten(0, 1), rows))

            q = cross.query(cross.norm(x).to(self.fine)).unflatten(-1, (cross.heads, -1))
            x += cross.out(self._recall(q, heard, cross, rows))
            x += feed_forward(feed_forward.norm(x).to(self.fine))
        return self.decoder_norm(x[:, -1])

    def _recall(self, q: Tensor, heard: tuple[Tensor, Tensor], cross: CrossAttention, rows: int) -> Tensor:
        """Attention of the tokens' queries [B, t, H, Dk] to what was heard, [B, t, H * Dv]."""
        if self.short:
            keys, values = (tensor[:rows] for tensor in heard)
            q = F.pad(q.transpose(1, 2), (0, keys.shape[-1] - cross.key_dim)).to(self.dtype)
            mixed = F.scaled_dot_product_attention(q, keys, values, scale=1.0)[..., : cross.value_dim]
            return mixed.transpose(1, 2).flatten(2).to(self.fine)
        keys, values = (tensor[:rows].flatten(0, 1) for tensor in heard)
        weights = (keys @ q.permute(0, 2, 3, 1).flatten(0, 1)).transpose(1, 2).softmax(-1).transpose(1, 2)
        return _join((values @ weights).transpose(1, 2), rows)


def _join(mixed: Tensor, rows: int) -> Tensor:
    """[B * H, t, Dv] to [B, t, H * Dv]."""
    return mixed.unflatten(0, (rows, -1)).transpose(1, 2).flatten(2)
