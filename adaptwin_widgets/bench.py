"""What cutting one twin, or all that a plan cuts, does to what the decoder says on calibration speech."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from adaptwin_widgets.anatomy import Twin, attention_name, attention_of, encoder_input, layer_of, pair_of
from adaptwin_widgets.compress import attention_weights_for, compress, feed_forward_weights
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.model import TwinAttention
from adaptwin_widgets.observe import Statistics, teacher_tokens
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.spectra import Spectra
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.windows import Window, in_noise


def modules_of(
    original: nn.Module, spectra: Spectra, stats: Statistics, twin: Twin, ranks: dict[str, list[int]]
) -> dict[str, nn.Module]:
    """The compressed modules of one twin by name: an attention, or the two of a feed-forward pair."""
    as_there = {"device": original.device, "dtype": original.dtype}
    if twin.kind == "feed_forward":
        new = feed_forward_weights(original, twin, ranks[str(twin)][0], spectra.order[twin], stats)
        pair = copy.deepcopy(pair_of(original, twin))
        for name, module in pair.items():
            for what in ("weight", "bias"):
                setattr(module, what, nn.Parameter(new[f"{name}.{what}"].to(**as_there)))
        return pair
    dense = attention_of(original, twin.part, twin.layer)
    full = [dense.head_dim] * dense.num_heads
    qk, vo = (ranks.get(str(twin._replace(kind=k)), full) for k in ("query_key", "value_output"))
    with torch.device("meta"):
        module = TwinAttention(dense, qk, vo)
    new = attention_weights_for(original, twin, ranks, stats)
    module.load_state_dict({name: value.to(**as_there) for name, value in new.items()}, assign=True)
    return {attention_name(twin.part): module.eval()}


def _log_probabilities(network: nn.Module, encoded: Tensor, ids: Tensor) -> Tensor:
    """Of the next token after each, [B, L, V]."""
    decoder = network.model.decoder
    hidden = decoder(input_ids=ids, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
    return network.proj_out(hidden).float().log_softmax(-1)


class Bench:
    """Calibration speech of several corpora, run up to every layer once: a cut costs only the layers after it.

    rough: the share of each corpus's windows that is heard in noise too (`in_noise`); their texts are what the original
    writes of them in quiet.
    """

    def __init__(
        self,
        model: Whisper,
        speech: Sequence[Sequence[Window]],
        batch: int,
        job: Job,
        *,
        rough: float = 0.0,
        seed: int = 0,
    ):
        rows = []
        for windows in speech:  # each may be in a language of its own
            sounds = in_noise(windows, rough, seed)  # says what is wrong before the seconds that writing takes
            texts = transcribe(model, windows, job=job)
            prompt = model.prompt(texts[0].language)
            for text, ways in zip(texts, sounds, strict=True):
                rows += [(sound, text.tokens, prompt, share) for sound, share in ways]
        rows.sort(key=lambda row: len(row[1]))
        self.model, self.original = model, model.model
        # Modules are swapped in here, never in the user's model; the weights are its own.
        shared = {id(tensor): tensor for tensor in (*model.model.parameters(), *model.model.buffers())}
        self.network = copy.deepcopy(model.model, shared).eval()
        self.tokens, self.encoded, self.reference = [], [], []
        self.layer, self.inputs, self.features = -1, [], []
        with torch.no_grad():
            for start in range(0, len(rows), batch):
                heard, spoken, prompts, shares = zip(*rows[start : start + batch], strict=True)
                features = log_mel([s.samples() for s in heard], model.processor.feature_extractor, model.device)
                ids, weights = teacher_tokens(spoken, prompts, model)
                self.features.append(features.to(self.network.dtype))
                self.inputs.append(encoder_input(self.network, self.features[-1]))
                self.tokens.append((ids, weights * weights.new_tensor(shares)[:, None]))
            for hidden in self.inputs:
                self.encoded.append(self._encode(hidden, 0))
            for encoded, (ids, _) in zip(self.encoded, self.tokens, strict=True):
                self.reference.append(_log_probabilities(self.network, encoded, ids))
        self.layer, self.first = 0, self.inputs  # `inputs` hold what this encoder layer reads

    def _encode(self, hidden: Tensor, start: int) -> Tensor:
        encoder = self.network.model.encoder
        for layer in encoder.layers[start:]:
            hidden = layer(hidden, None)
        return encoder.layer_norm(hidden)

    def _advance(self, layer: int) -> None:
        """Move the stored inputs to an encoder layer."""
        if layer < self.layer:
            self.layer, self.inputs = 0, self.first
        while self.layer < layer:
            block = self.network.model.encoder.layers[self.layer]
            self.inputs = [block(hidden, None) for hidden in self.inputs]
            self.layer += 1

    def _encoded(self, i: int, twin: Twin) -> Tensor:
        """What the encoder says of a batch when this twin is another one."""
        if twin.part == "stem":
            return self._encode(encoder_input(self.network, self.features[i]), 0)
        return self._encode(self.inputs[i], twin.layer) if twin.part == "encoder" else self.encoded[i]

    def damage(self, twin: Twin, modules: dict[str, nn.Module]) -> float:
        """KL divergence, nats a token, with one twin's modules in place of the original's."""
        place = layer_of(self.network, twin.part, twin.layer)
        if twin.part == "encoder":
            self._advance(twin.layer)
        saved = {name: getattr(place, name) for name in modules}
        try:
            for name, module in modules.items():
                setattr(place, name, module)
            return self._apart(lambda i, ids: _log_probabilities(self.network, self._encoded(i, twin), ids))
        finally:
            for name, module in saved.items():
                setattr(place, name, module)

    @torch.no_grad()
    def damage_of(self, plan: RankPlan, spectra: Spectra | None, stats: Statistics | None) -> float:
        """The same with all that a plan cuts, as `compress` makes it."""
        small = compress(self.model, plan, stats, spectra=spectra).model
        encoder = small.model.encoder
        return self._apart(lambda i, ids: _log_probabilities(small, encoder(self.features[i]).last_hidden_state, ids))

    def _apart(self, said: Callable[[int, Tensor], Tensor]) -> float:
        """KL divergence, nats a token, of what is said [B, L, V] of every batch from what the original says."""
        total = count = 0.0
        for i, (ids, weights) in enumerate(self.tokens):
            divergence = (self.reference[i].exp() * (self.reference[i] - said(i, ids))).sum(-1)
            total += float((divergence * weights).sum())
            count += float(weights.sum())
        return total / count
