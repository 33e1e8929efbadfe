"""What tuning learns from: windows of speech, the original's answers to them, and the distance to these.

The original model is the teacher, so no transcript is needed: it writes its own.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaptwin_widgets.anatomy import encoder_input
from adaptwin_widgets.conditions import draw
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.observe import corpus_weights, frame_weights, teacher_tokens
from adaptwin_widgets.precision import resolve_dtype
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.vocabulary import Shared
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.windows import ROUGH, Window, pack, roughened

CACHE_BYTES = 2 * 2**30  # teacher's layer outputs kept in memory; beyond it they are computed again
HELD_OUT = 0.06  # share of the speech that is never tuned on and decides which state is kept
ALONE = 1 / 3  # share of windows that hold one utterance and its silence, as at test time
FILLED = 1 / 2  # share of these whose silence is written as faster-whisper writes it
NEVER = -1e4  # a logit; minus infinity times a chance of zero would be not-a-number
SHORT = 0.85  # a transcript with so much fewer tokens a second than is usual may have left clips out


@dataclass(frozen=True)
class Sample:
    """One window, the transcript the teacher gave it, and the language it heard.

    filled: behind the speech the features are zero, which is how faster-whisper fills a window, not silence's.
    """

    window: Window
    tokens: tuple[int, ...]
    language: str
    filled: bool = False


@dataclass
class Batch:
    """features [B, mel, 3000]; frames [B, 1500] weights; ids, tokens [B, L] decoder inputs and their weights."""

    samples: list[Sample]
    features: Tensor
    frames: Tensor
    ids: Tensor
    tokens: Tensor


Written = list[tuple[list[int], str]]  # of each window: the tokens that the teacher wrote, the language it heard


def samples_of(
    teacher: Whisper,
    corpus: Corpus,
    seed: int,
    job: Job,
    *,
    rough: float,
    most: int | None = None,
    written: Written | None = None,
) -> list[Sample]:
    """Every utterance of a corpus in packed windows, and some alone, with the teacher's transcripts.

    rough: share of the windows under a condition (`windows.roughened`); their transcripts are those of the quiet
    speech. most: so many windows at most. written: the transcripts, where they are known already.
    """
    packed = pack(corpus, seed=seed)
    if most is not None:
        packed = packed[: most - max(1, round(most * ALONE))]
    count = min(len(corpus), max(1, round(len(packed) * ALONE / (1 - ALONE))))
    generator = torch.Generator().manual_seed(seed)
    alone = [Window((corpus[i],)) for i in torch.randperm(len(corpus), generator=generator)[:count].tolist()]
    windows, lone = packed + alone, set(alone)
    heard = roughened(windows, rough, seed)
    filled = [w in lone and draw(seed, f"{w.id}/filled").random() < FILLED for w in windows]
    if written is None:
        written = write(teacher, windows, job)
    return [
        Sample(w, tuple(tokens), language, full)
        for w, (tokens, language), full in zip(heard, written, filled, strict=True)
    ]


def write(teacher: Whisper, windows: Sequence[Window], job: Job | None = None) -> Written:
    """What the teacher writes of windows; where it seems to leave clips out, or loops, it is asked clip by clip.

    Between sentences of different recordings Whisper may stop, or begin late; a model that learns from such a
    transcript stops early everywhere.
    """
    texts = transcribe(teacher, windows, job=job)
    found = [list(text.tokens) for text in texts]
    rates = [len(tokens) / window.seconds for tokens, window in zip(found, windows, strict=True)]
    usual = statistics.median(rates)
    doubtful = [
        i for i, window in enumerate(windows)
        if len(window.utterances) > 1 and (texts[i].looped or rates[i] < SHORT * usual)
    ]  # fmt: skip
    if doubtful:
        clips = [Window((u,)) for i in doubtful for u in windows[i].utterances]
        again = iter(transcribe(teacher, clips, language=texts[0].language, job=job))
        for i in doubtful:
            tokens = [t for clip in itertools.islice(again, len(windows[i].utterances)) for t in clip.tokens]
            found[i] = tokens if texts[i].looped else max(found[i], tokens, key=len)
    return [(tokens, text.language) for tokens, text in zip(found, texts, strict=True)]


def held_out_of(corpus: Corpus, seed: int) -> tuple[Corpus, Corpus]:
    """(to learn from, held out): a split by prompt that is the same every time."""
    rest, kept = corpus.split(1 - HELD_OUT, by="prompt", seed=seed)
    if not (len(rest) and len(kept)):
        raise InputError(f"{corpus.name} has too few utterances to hold any out; give at least a handful.")
    return rest, kept


class Order:
    """An endless, seeded order of samples in which each corpus has its share of every epoch.

    The batch of a step depends on the seed and the step alone, so a resumed run sees what an unbroken one sees.
    """

    def __init__(self, corpora: Sequence[Sequence[Sample]], shares: Sequence[float], batch_size: int, seed: int):
        self.corpora, self.shares, self.batch_size, self.seed = corpora, shares, batch_size, seed

    def __getitem__(self, step: int) -> list[Sample]:
        return [self._sample(step * self.batch_size + i) for i in range(self.batch_size)]

    def _sample(self, number: int) -> Sample:
        # Golden-ratio steps spread the shares evenly: any stretch of numbers has each corpus in proportion.
        point = (number * 0.6180339887498949) % 1.0
        bounds = torch.tensor(self.shares).cumsum(0)
        which = min(int(torch.searchsorted(bounds, point, right=True)), len(self.corpora) - 1)
        corpus = self.corpora[which]
        turn, place = divmod(int(number * self.shares[which]), len(corpus))
        generator = torch.Generator().manual_seed(hash((self.seed, which, turn)) % 2**63)
        return corpus[int(torch.randperm(len(corpus), generator=generator)[place])]


class Lessons:
    """Everything tuning needs that does not depend on the model being tuned, so that many tunes can share it.

    The speech as windows with the teacher's transcripts, a held-out part of it, and the distance to the teacher.
    target_weight: the first corpus's share of every epoch. rough: see `samples_of`. written: `written` of such lessons
    made elsewhere, which spares the teacher writing it all again.
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
        written: Sequence[Written] | None = None,
        job: Job | None = None,
    ):
        job = ensure(job)
        training, held_out = [], []
        self.written: list[Written] = []  # of each corpus: of what is learnt from, of what is held out
        known = iter(written) if written is not None else itertools.repeat(None)
        for corpus in corpora:
            rest, kept = held_out_of(corpus, seed)
            few = max(2, 6 // len(corpora))
            training.append(samples_of(teacher, rest, seed, job, rough=rough, written=next(known)))
            held_out.append(samples_of(teacher, kept, seed, job, rough=rough, most=few, written=next(known)))
            self.written += [[(list(s.tokens), s.language) for s in part] for part in (training[-1], held_out[-1])]
        self.order = Order(training, corpus_weights(corpora, target_weight), batch_size, seed)
        self.distance = Distance(teacher, resolve_dtype(dtype, teacher.device))
        self.prompt = teacher.prompt(language=training[0][0].language)
        kept_back = [sample for part in held_out for sample in part]
        groups = [kept_back[i : i + batch_size] for i in range(0, len(kept_back), batch_size)]
        self.held_out = [self.distance.batch(group, self.prompt) for group in groups]
        self.distance.calibrate(self.held_out)

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same every time."""
        return self.distance.batch(self.order[step], self.prompt)


class Distance:
    """How far a compressed model is from its teacher on a batch.

    Three terms, each near one for an untrained model and zero for a perfect one: squared error of every encoder
    layer's output and of the encoder's output, per channel in units of the teacher's variance (a few channels
    carry huge activations), and the KL divergence of the next token's distribution, in nats, of a teacher
    that does not end its text early.
    """

    def __init__(self, teacher: Whisper, dtype: torch.dtype):
        self.teacher, self.dtype = teacher, dtype
        self.variance: list[Tensor] = []
        self.kept: dict[int, list[Tensor]] = {}
        self.bytes = 0

    def fast(self) -> contextlib.AbstractContextManager:
        """Matrix products in the machine's fast number format; parameters stay in float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.teacher.device.type, dtype=self.dtype)

    def batch(self, samples: Sequence[Sample], prompt: Sequence[int]) -> Batch:
        """Audio to tensors."""
        extractor = self.teacher.processor.feature_extractor
        sounds = [s.window.samples() for s in samples]
        features = log_mel(sounds, extractor, self.teacher.device)
        for row, sound, sample in zip(features, sounds, samples, strict=True):
            if sample.filled:
                row[:, len(sound) // extractor.hop_length + 1 :] = 0.0
        ids, tokens = teacher_tokens([s.tokens for s in samples], prompt, self.teacher)
        return Batch(list(samples), features, frame_weights([s.window for s in samples], self.teacher), ids, tokens)

    def states(self, network: nn.Module, features: Tensor) -> list[Tensor]:
        """Outputs of every encoder layer [B, 1500, d], and last the encoder's own."""
        found: list[Tensor] = []
        handles = [
            layer.register_forward_hook(lambda m, a, out: found.append(out)) for layer in network.model.encoder.layers
        ]
        try:
            found.append(network.model.encoder(features).last_hidden_state)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def targets(self, batch: Batch) -> list[Tensor]:
        """The teacher's states, from memory where they are kept."""
        keys = [id(s) for s in batch.samples]
        rows = []
        for i, key in enumerate(keys):
            states = self.kept.get(key)
            if states is None:
                # One window at a time: the answer must not depend, in its last bits, on the window's company.
                with torch.no_grad(), self.fast():
                    states = [s[0].to(self.dtype) for s in self.states(self.teacher.model, batch.features[i : i + 1])]
                size = sum(s.numel() * s.element_size() for s in states)
                if self.bytes + size <= CACHE_BYTES:
                    self.kept[key] = states
                    self.bytes += size
            rows.append(states)
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Set the unit of every channel: the variance of the teacher's states on these batches."""
        columns = [torch.cat(states).float() for states in zip(*map(self.targets, batches), strict=True)]
        frames = torch.cat([batch.frames for batch in batches])
        self.variance = [self._variance(states, frames) for states in columns]

    def terms(self, network: nn.Module, batch: Batch, words: Shared | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(layers, encoder, decoder) distances, each a scalar with gradients. words: what the vocabularies share,
        where the small model's is cut; the distributions are then those over its tokens."""
        targets = [t.float() for t in self.targets(batch)]
        with self.fast():
            states = self.states(network, batch.features)
            decoder = network.model.decoder(
                input_ids=batch.ids if words is None else words.nearest[batch.ids],
                encoder_hidden_states=states[-1],
                use_cache=False,
            ).last_hidden_state
            with torch.no_grad():
                reference = self.teacher.model.model.decoder(
                    input_ids=batch.ids,
                    encoder_hidden_states=targets[-1].to(states[-1].dtype),
                    use_cache=False,
                ).last_hidden_state
            chosen = batch.tokens.bool()  # the vocabulary is large: only positions that predict text
            ours = network.proj_out(decoder[chosen])
            with torch.no_grad():
                theirs = self.teacher.model.proj_out(reference[chosen])
                if words is not None:
                    theirs = theirs[:, words.kept]
                theirs = endless(theirs, chosen, network.config.eos_token_id)
        errors = [_off(s, t, v, batch.frames) for s, t, v in zip(states, targets, self.variance, strict=True)]
        divergence = F.kl_div(
            ours.float().log_softmax(-1),
            theirs.float().log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        return torch.stack(errors[:-1]).mean(), errors[-1], divergence

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
                    first = encoder_input(self.teacher.model, batch.features)
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
