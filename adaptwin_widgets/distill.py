"""What tuning learns from: windows of speech, the original's answers to them, and the distance to these.

The original model is the teacher, so no transcript is needed: it writes its own, and one that there is puts it right.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaptwin_widgets.anatomy import encoder_input
from adaptwin_widgets.blocks import InBlocks
from adaptwin_widgets.divergence import Divergence
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.observe import corpus_weights, frame_weights, teacher_tokens
from adaptwin_widgets.precision import fused_attention, resolve_dtype
from adaptwin_widgets.samples import Order, Sample, Samples, Written, held_out_of
from adaptwin_widgets.shortened import Short, Shortened
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.transcribe import detect_language
from adaptwin_widgets.vocabulary import Shared
from adaptwin_widgets.whisper import Whisper, in_float32
from adaptwin_widgets.windows import ROUGH

CACHE_BYTES = 2 * 2**30  # teacher's layer outputs kept in memory; beyond it they are computed again
NEVER = -1e4  # a logit; minus infinity times a chance of zero would be not-a-number


@dataclass
class Batch:
    """features [B, mel, 3000]; frames [B, 1500] weights; ids, tokens [B, L] decoder inputs and their weights; said [B]
    see `samples.Sample`. share: of the frames' weight and of the tokens in the batch that this is a part of."""

    samples: list[Sample]
    features: Tensor
    frames: Tensor
    ids: Tensor
    tokens: Tensor
    said: Tensor
    share: tuple[float, float] = (1.0, 1.0)

    def parts(self) -> list[Batch]:
        """Its windows, each a batch of its own; their distances add up to the batch's."""
        frames, tokens = (weights.sum(1) / weights.sum() for weights in (self.frames, self.tokens))
        shares = zip(frames.tolist(), tokens.tolist(), strict=True)
        found = []
        for i, (sample, share) in enumerate(zip(self.samples, shares, strict=True)):
            row = slice(i, i + 1)
            inputs = self.features[row], self.frames[row], self.ids[row], self.tokens[row], self.said[row]
            found.append(Batch([sample], *inputs, share))
        return found


class Lessons:
    """Everything tuning needs that does not depend on the model being tuned, so that many tunes can share it.

    The speech as windows with the teacher's transcripts, a held-out part of it, and the distance to the teacher.
    target_weight: the first corpus's share of every epoch. rough, transcripts: see `samples.Samples`. written:
    `written` of such lessons made elsewhere, which spares the teacher writing it again.
    """

    def __init__(
        self,
        teacher: Whisper,
        corpora: Sequence[Corpus],
        *,
        batch_size: int,
        target_weight: float = 0.5,
        dtype: str = "auto",
        seed: int = 0,
        rough: float = ROUGH,
        transcripts: float = 0.0,
        written: Sequence[list[Written | None]] | None = None,
        job: Job | None = None,
    ):
        training, held_out = [], []
        known = iter(written) if written is not None else itertools.repeat(None)
        how: dict[str, Any] = {"rough": rough, "transcripts": transcripts}
        for corpus in corpora:
            rest, kept = held_out_of(corpus, seed)
            few = max(2, 6 // len(corpora))
            language = detect_language(teacher, rest)
            training.append(Samples(teacher, rest, language, seed, **how, written=next(known)))
            held_out.append(Samples(teacher, kept, language, seed, **how, most=few, written=next(known)))
            held_out[-1].write(0, job)
        self.order = Order(training, corpus_weights(corpora, target_weight), batch_size, seed)
        self.distance = Distance(teacher, tuning_dtype(dtype, teacher.device))
        # What the teacher has written so far: of each corpus, of what is learnt from and of what is held out.
        self.written = [part.written for pair in zip(training, held_out, strict=True) for part in pair]
        kept_back = [sample for part in held_out for sample in part]
        groups = [kept_back[i : i + batch_size] for i in range(0, len(kept_back), batch_size)]
        self.held_out = [self.distance.batch(group) for group in groups]
        self.distance.calibrate(self.held_out)

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same every time."""
        return self.distance.batch(self.order[step])

    def ready(self, step: int) -> bool:
        """Whether the teacher has written what this step learns from."""
        return all(self.order.corpora[which].ready(place) for which, place in self.order.places(step))

    def write(self, step: int, job: Job | None = None) -> None:
        """Have the teacher write what this step learns from, and some more."""
        for which, place in self.order.places(step):
            self.order.corpora[which].write(place, job)


def tuning_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format to tune in: that of `resolve_dtype`, but never float16, in which small gradients vanish."""
    if name == "float16":
        raise InputError("dtype='float16' loses small gradients; tune in bfloat16 or float32, or leave it to \"auto\".")
    found = resolve_dtype(name, device)
    return torch.float32 if found == torch.float16 else found


class Distance:
    """How far a compressed model is from its teacher on a batch.

    Three terms, each near one for an untrained model and zero for a perfect one: squared error of every encoder
    layer's output and of the encoder's output, per channel in units of the teacher's variance (a few channels
    carry huge activations), and the KL divergence of the next token's distribution, in nats, of a teacher
    that does not end its text early; in part its cross-entropy with the text where a transcript has put that right.
    """

    def __init__(self, teacher: Whisper, dtype: torch.dtype):
        self.teacher, self.dtype = in_float32(teacher), dtype
        self.variance: list[Tensor] = []
        self.short = Short(dtype)
        self.forget()

    def fast(self, short: bool = False) -> contextlib.AbstractContextManager:
        """Matrix products in the machine's fast number format, attention as it is fast there; parameters stay in
        float32. short: matrices that do not change are turned into that format once (`shortened.Shortened`)."""
        found = contextlib.ExitStack()
        if self.dtype != torch.float32:
            found.enter_context(torch.autocast(self.teacher.device.type, dtype=self.dtype))
            if not fused_attention(self.teacher.device, self.dtype):
                found.enter_context(InBlocks())
            if short and self.teacher.device.type == "cpu":
                found.enter_context(Shortened(self.short))
        return found

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Audio to tensors."""
        ids, tokens = teacher_tokens([s.tokens for s in samples], [s.prompt for s in samples], self.teacher)
        said = torch.tensor([s.said for s in samples], device=self.teacher.device)
        frames = frame_weights([s.window for s in samples], self.teacher)
        return Batch(list(samples), self.features(samples), frames, ids, tokens, said)

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """What a small model hears of windows [B, mel, 3000]."""
        sounds, zeros = [s.window.samples() for s in samples], [s.zeros for s in samples]
        return log_mel(sounds, self.teacher.processor.feature_extractor, self.teacher.device, zeros=zeros)

    def heard(self, batch: Batch, rows: slice = slice(None)) -> Tensor:
        """What the teacher hears of these windows of a batch: silence behind a clip, never zeros, which it takes for a
        sound. So a small model learns to hear past them."""
        samples = batch.samples[rows]
        if not any(sample.zeros for sample in samples):
            return batch.features[rows]
        return self.features([replace(sample, zeros=False) for sample in samples])

    def states(self, network: nn.Module, features: Tensor) -> list[Tensor]:
        """Outputs of every encoder layer [B, 1500, d], and last the encoder's own."""
        encoder = network.model.encoder
        found = [encoder_input(network, features)]
        for layer in encoder.layers:
            found.append(layer(found[-1], None))
        return [*found[1:], encoder.layer_norm(found[-1])]

    def forget(self) -> None:
        """Let go of what the teacher has computed."""
        self.kept: dict[tuple[str, int], list[Tensor]] = {}
        self.bytes = 0

    def _keeping(self, what: str, sample: Sample, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """What the teacher computes of one window, from memory where it is kept.

        One window at a time: the answer must not depend, in its last bits, on the window's company.
        """
        found = self.kept.get((what, id(sample)))
        if found is None:
            with torch.no_grad(), self.fast():
                found = [tensor.to(self.dtype) for tensor in compute()]
            size = sum(tensor.numel() * tensor.element_size() for tensor in found)
            if self.bytes + size <= CACHE_BYTES:
                self.kept[what, id(sample)] = found
                self.bytes += size
        return found

    def targets(self, batch: Batch) -> list[Tensor]:
        """The teacher's states."""

        def compute(i: int) -> list[Tensor]:
            return [states[0] for states in self.states(self.teacher.model, self.heard(batch, slice(i, i + 1)))]

        rows = [self._keeping("states", s, functools.partial(compute, i)) for i, s in enumerate(batch.samples)]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def answers(self, batch: Batch, encoded: Tensor) -> Tensor:
        """The last states [n, d] of the teacher's decoder where they predict text, one window after the other.

        encoded: the last of `targets`.
        """

        def compute(i: int) -> list[Tensor]:
            places = batch.tokens[i].nonzero()[:, 0]
            heard = batch.ids[i : i + 1, : int(places.max()) + 1]  # a decoder does not look ahead
            decoder = self.teacher.model.model.decoder
            out = decoder(input_ids=heard, encoder_hidden_states=encoded[i : i + 1].to(self.dtype), use_cache=False)
            return [out.last_hidden_state[0, places]]

        rows = [self._keeping("answers", s, functools.partial(compute, i)) for i, s in enumerate(batch.samples)]
        return torch.cat([row for (row,) in rows])

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Set the unit of every channel: the variance of the teacher's states on these batches."""
        columns = [torch.cat(states).float() for states in zip(*map(self.targets, batches), strict=True)]
        frames = torch.cat([batch.frames for batch in batches])
        self.variance = [self._variance(states, frames) for states in columns]

    def terms(self, network: nn.Module, batch: Batch, words: Shared | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(layers, encoder, decoder) distances, each a scalar with gradients. words: what the vocabularies share,
        where the small model's is cut; the distributions are then those over its tokens."""
        targets = [t.float() for t in self.targets(batch)]
        with self.fast(short=True):
            states = self.states(network, batch.features)
            decoder = network.model.decoder(
                input_ids=batch.ids if words is None else words.nearest[batch.ids],
                encoder_hidden_states=states[-1],
                use_cache=False,
            ).last_hidden_state
            chosen = batch.tokens.bool()  # the vocabulary is large: only positions that predict text
            ours = network.proj_out(decoder[chosen])
            with torch.no_grad():
                theirs = self.teacher.model.proj_out(self.answers(batch, targets[-1]))
                if words is not None:
                    theirs = theirs[:, words.kept]
                theirs = endless(theirs, chosen, network.config.eos_token_id)
        errors = [_off(s, t, v, batch.frames) for s, t, v in zip(states, targets, self.variance, strict=True)]
        following = F.pad(batch.ids[:, 1:], (0, 1), value=self.teacher.config.eos_token_id)[chosen]
        labels = following if words is None else words.nearest[following]
        said = batch.said[:, None].expand_as(batch.ids)[chosen]
        divergence = Divergence.apply(ours, theirs, labels, said)
        of_frames, of_tokens = batch.share
        return of_frames * torch.stack(errors[:-1]).mean(), of_frames * errors[-1], of_tokens * divergence

    def local(self, network: nn.Module, batch: Batch, layers: Sequence[tuple[str, int]]) -> Tensor:
        """How far each of some layers alone is from the teacher's, a scalar with gradients: it hears what the teacher's
        own layer before it said, so no layer waits for another and none makes up for another.

        layers: (side, number). The mean over them of the squared error per channel, in units of the teacher's variance.
        """
        targets = [t.float() for t in self.targets(batch)]
        errors = []
        with self.fast():
            encoder = [layer for side, layer in layers if side == "encoder"]
            if 0 in encoder:
                with torch.no_grad():
                    first = encoder_input(self.teacher.model, self.heard(batch))
            for layer in encoder:
                heard = targets[layer - 1] if layer else first
                after = network.model.encoder.layers[layer](heard, None)
                errors.append(_off(after, targets[layer], self.variance[layer], batch.frames))
            if decoder := [layer for side, layer in layers if side == "decoder"]:
                calls = self._decoder_calls(batch, targets[-1])
                for layer in decoder:
                    args, kwargs, theirs = calls[layer]
                    after = network.model.decoder.layers[layer](*args, **kwargs)
                    errors.append(_off(after, theirs, self._variance(theirs, batch.tokens), batch.tokens))
        return torch.stack(errors).mean()

    def _decoder_calls(self, batch: Batch, encoded: Tensor) -> list[tuple[tuple, dict, Tensor]]:
        """What every layer of the teacher's decoder hears and says: arguments and output, [B, L, d]."""
        calls: list[tuple[tuple, dict, Tensor]] = []
        decoder = self.teacher.model.model.decoder
        handles = [
            layer.register_forward_hook(
                lambda m, args, kwargs, out: calls.append((args, kwargs, out.float())), with_kwargs=True
            )
            for layer in decoder.layers
        ]
        try:
            with torch.no_grad():
                decoder(input_ids=batch.ids, encoder_hidden_states=encoded, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return calls

    @staticmethod
    def _variance(states: Tensor, frames: Tensor) -> Tensor:
        weights = (frames / frames.sum())[..., None]
        mean = (states * weights).sum((0, 1))
        variance = ((states - mean).square() * weights).sum((0, 1))
        return variance + 1e-2 * variance.mean()  # a channel that hardly moves must not rule the loss

    def loss(self, network: nn.Module, batch: Batch, weights: Sequence[float], words: Shared | None = None) -> Tensor:
        """The sum of the terms, weighted (layers, encoder, decoder)."""
        return torch.stack([w * t for w, t in zip(weights, self.terms(network, batch, words), strict=True)]).sum()


def endless(logits: Tensor, chosen: Tensor, end: int) -> Tensor:
    """Logits [N, V] of the chosen positions [B, L], without the token `end` but where a text is over.

    Where it goes on, an end would lose all that follows, however fond of it the teacher is.

    >>> endless(torch.zeros(3, 2), torch.tensor([[False, True, True], [True, False, False]]), end=1)[:, 1]
    tensor([-10000.,      0.,      0.])
    """
    logits = logits.clone()
    logits[F.pad(chosen, (0, 1))[:, 1:][chosen], end] = NEVER
    return logits


def _off(ours: Tensor, theirs: Tensor, variance: Tensor, weights: Tensor) -> Tensor:
    """Squared error per channel [B, T, d] in units of a variance [d], averaged with weights [B, T]."""
    return (((ours.float() - theirs).square() / variance).mean(-1) * weights).sum() / weights.sum()
