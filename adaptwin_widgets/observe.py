"""One pass of speech through a Whisper gathers what every twin sees: second moments of its activations.

The closed forms in `twins` need nothing else, so the speech is read once, whatever is tried afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaptwin_widgets.anatomy import TAPS, attention_of, layer_of
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.expand import expand
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.precision import release
from adaptwin_widgets.scratch import Scratch
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.twins import covariance
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.windows import ROUGH, WINDOWS, Window, pack, require_observable, roughened

UNIFORM = 0.1  # share of a plain average mixed into the attention a key receives
SILENCE = 0.1  # weight of a frame of padding beside a frame of speech
PROMPT = 0.1  # weight of a prompt's position: it predicts no text, but every token of the text attends to it
SHRINKAGE = 0.01  # least share of the diagonal in the covariance of neurons, a few of which outshine all others
IN_MEMORY = 2 * 2**30  # bytes of neurons' moments; more than that (from medium on) lie on disk
STRIDE = 3  # encoder frames are 20 ms apart and alike: every third query and neuron row says the same


def shrink(matrix: Tensor, rows: float) -> Tensor:
    """A covariance [n, n] drawn towards its diagonal, the more the fewer rows it was estimated from.

    The diagonal's share is ``tr(C)² / tr(C²) / rows``, the effective rank over the rows: what the oracle
    approximating shrinkage tends to for many dimensions (Chen et al. 2010, equation 23), between `SHRINKAGE` and 1.

    >>> shrink(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), rows=10)
    tensor([[1.0000, 0.9000],
            [0.9000, 1.0000]])
    """
    rank = float(matrix.trace() ** 2 / matrix.square().sum().clamp_min(1e-300))
    share = min(1.0, max(SHRINKAGE, rank / rows))
    return (1 - share) * matrix + share * matrix.diagonal().diag()


def mean_of(parts: Sequence[Tensor], shares: Sequence[float], total: Tensor | None = None) -> Tensor:
    """The weighted mean of tensors of one shape, written into `total` if given (zeros)."""
    total = torch.zeros_like(parts[0]) if total is None else total
    for share, part in zip(shares, parts, strict=True):
        total += share * part
    return total


@dataclass
class AttentionMoments:
    """query, key: [H, dh, dh]; mean [d] and second [d, d] moment of the mixed values of all heads side by side."""

    query: Tensor
    key: Tensor
    mean: Tensor
    second: Tensor

    @property
    def covariance(self) -> Tensor:
        """[d, d] covariance of the mixed values, float64."""
        return covariance(self.mean, self.second)

    @classmethod
    def mix(cls, parts: Sequence[AttentionMoments], shares: Sequence[float]) -> AttentionMoments:
        names = ("query", "key", "mean", "second")
        return cls(*(mean_of([getattr(p, name) for p in parts], shares) for name in names))


@dataclass
class NeuronMoments:
    """mean [n] and second [n, n] moment of a feed-forward pair's activations (in the stem [3 n]: each neuron's at
    `TAPS` frames side by side), and the rows they come from."""

    mean: Tensor
    second: Tensor
    rows: float

    @property
    def covariance(self) -> Tensor:
        """[n, n] covariance of the activations, float64, shrunk as so few rows demand."""
        return shrink(covariance(self.mean, self.second), self.rows)

    @classmethod
    def mix(cls, parts: Sequence[NeuronMoments], shares: Sequence[float], room: Scratch | None = None) -> NeuronMoments:
        rows = 1 / sum(s * s / p.rows for s, p in zip(shares, parts, strict=True))  # as the variance of a mean
        total = room.zeros(*parts[0].second.shape) if room else None
        second = mean_of([p.second for p in parts], shares, total)
        return cls(mean_of([p.mean for p in parts], shares), second, rows)


@dataclass
class OutputMoments:
    """What the embedding meets: second [d, d], the moment of the decoder's final states where they predict text;
    chances [V], the mean probability of each token there."""

    second: Tensor
    chances: Tensor

    @classmethod
    def mix(cls, parts: Sequence[OutputMoments], shares: Sequence[float]) -> OutputMoments:
        return cls(*(mean_of([getattr(p, name) for p in parts], shares) for name in ("second", "chances")))


@dataclass
class Statistics:
    """What `observe` found: moments by (part, layer), and the speech they come from.

    attention: keys ("encoder" | "decoder" | "cross", layer); neurons: keys ("stem" | "encoder" | "decoder", layer).
    """

    attention: dict[tuple[str, int], AttentionMoments] = field(default_factory=dict)
    neurons: dict[tuple[str, int], NeuronMoments] = field(default_factory=dict)
    source: str = ""
    speech: str = ""
    seconds: float = 0.0
    output: OutputMoments | None = None
    room: Scratch | None = field(default=None, repr=False, compare=False)  # where the neurons' moments lie, if on disk

    @classmethod
    def mix(cls, parts: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
        """The statistics of a mixture: moments are averages, so they mix linearly.

        weights: one a part, any positive scale.
        """
        shares = [w / sum(weights) for w in weights]
        outputs = [p.output for p in parts if p.output is not None]
        room = Scratch() if any(p.room for p in parts) else None
        return cls(
            {key: AttentionMoments.mix([p.attention[key] for p in parts], shares) for key in parts[0].attention},
            {key: NeuronMoments.mix([p.neurons[key] for p in parts], shares, room) for key in parts[0].neurons},
            parts[0].source,
            " + ".join(f"{s:.0%} {p.speech}" for s, p in zip(shares, parts, strict=True)),
            sum(p.seconds for p in parts),
            OutputMoments.mix(outputs, shares) if len(outputs) == len(parts) else None,
            room,
        )


class _Accumulator:
    """Weighted sums of everything the hooks see, for one corpus."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.sums: dict[tuple, Tensor] = {}
        self.frames = torch.empty(0)  # [B, T] weight of every encoder frame of the batch
        self.tokens = torch.empty(0)  # [B, L] weight of every decoder position
        c = model.config
        size = c.encoder_layers * c.encoder_ffn_dim**2 + c.decoder_layers * c.decoder_ffn_dim**2
        size = 4 * (size + (TAPS * c.d_model) ** 2)
        self.room = Scratch() if size > IN_MEMORY else None

    def add(self, name: tuple, value: Tensor) -> None:
        if name in self.sums:
            self.sums[name] += value.to(self.sums[name].device)
        elif self.room is not None and name[-1] == "neurons second":
            self.sums[name] = self.room.zeros(*value.shape).copy_(value)
        else:
            self.sums[name] = value

    def queries_and_keys(self, part: str, layer: int, q: Tensor, k: Tensor, heads: int, scale: float) -> None:
        """q: [B, Tq, d], k: [B, Tk, d], as the projections give them, bias included, unscaled."""
        rows = self.frames if part == "encoder" else self.tokens
        columns = self.tokens if part == "decoder" else self.frames
        if part == "encoder":
            q, rows = q[:, ::STRIDE], rows[:, ::STRIDE]
        q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))  # [B, H, T, dh]
        for b in range(len(q)):  # one window at a time keeps the attention maps small
            weighted = q[b] * rows[b][None, :, None]
            self.add((part, layer, "query"), weighted.mT @ q[b])
            scores = (q[b] * scale) @ k[b].mT
            if part == "decoder":
                scores = scores.masked_fill(
                    torch.ones_like(scores[0], dtype=torch.bool).triu(1), torch.finfo(scores.dtype).min
                )
            received = (scores.softmax(-1) * rows[b][None, :, None]).sum(1)  # [H, Tk]
            received = received / received.sum(-1, keepdim=True)
            share = (1 - UNIFORM) * received + UNIFORM * columns[b] / columns[b].sum()
            centred = k[b] - share[:, None] @ k[b]  # a softmax forgives a constant, so centre per utterance
            self.add((part, layer, "key"), (centred * share[..., None]).mT @ centred * rows[b].sum())
        self.add((part, layer, "rows"), rows.sum())

    def vectors(self, part: str, layer: int, name: str, x: Tensor) -> None:
        """x: [B, T, n]; adds its weighted first and second moment."""
        rows = self.frames if part in ("stem", "encoder") else self.tokens
        if rows is self.frames and name == "neurons":
            x, rows = x[:, ::STRIDE], rows[:, ::STRIDE]
        x, rows = x.float().flatten(0, 1), rows.flatten()
        x = x * rows.sqrt()[:, None]
        self.add((part, layer, name + " rows"), rows.sum())
        self.add((part, layer, name + " mean"), rows.sqrt() @ x)
        self.add((part, layer, name + " second"), x.mT @ x)

    def stem(self, x: Tensor) -> None:
        """x: [B, n, 2 * frames], what the second convolution reads, `TAPS` of them around every other frame."""
        read = F.pad(x, (1, 1)).unfold(2, TAPS, 2)  # [B, n, frames, TAPS]
        self.vectors("stem", 0, "neurons", read.transpose(1, 2).flatten(2))

    def output(self, states: Tensor) -> None:
        """states: [B, L, d], the decoder's last; adds their second moment and the chances of all tokens."""
        for state, rows in zip(states, self.tokens, strict=True):  # one window at a time: the vocabulary is large
            state, rows = state[rows == 1], rows[rows == 1]
            self.add(("output", "rows"), rows.sum())
            self.add(("output", "chances"), self.model.proj_out(state).float().softmax(-1).sum(0))
            self.add(("output", "second"), state.float().mT @ state.float())

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hooks on every projection of interest, removed again at the end."""
        handles = []

        def watch(part: str, layer: int) -> None:
            attention = attention_of(self.model, part, layer)
            held: dict[str, Tensor] = {}
            for name in ("q_proj", "k_proj"):
                handles.append(
                    getattr(attention, name).register_forward_hook(
                        lambda module, args, out, name=name: held.__setitem__(name, out)
                    )
                )

            def mixed(module: nn.Module, args: tuple) -> None:
                q, k = held.pop("q_proj"), held.pop("k_proj")
                self.queries_and_keys(part, layer, q, k, attention.num_heads, attention.scaling)
                self.vectors(part, layer, "values", args[0])

            handles.append(attention.out_proj.register_forward_pre_hook(mixed))
            if part != "cross":
                handles.append(
                    layer_of(self.model, part, layer).fc2.register_forward_pre_hook(
                        lambda module, args: self.vectors(part, layer, "neurons", args[0])
                    )
                )

        for layer in range(self.model.config.encoder_layers):
            watch("encoder", layer)
        for layer in range(self.model.config.decoder_layers):
            watch("decoder", layer)
            watch("cross", layer)
        second = self.model.model.encoder.conv2
        handles.append(second.register_forward_pre_hook(lambda module, args: self.stem(args[0])))
        final = self.model.model.decoder.layer_norm
        handles.append(final.register_forward_hook(lambda module, args, out: self.output(out)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def statistics(self, source: str, speech: str, seconds: float) -> Statistics:
        s = Statistics(source=source, speech=speech, seconds=seconds, room=self.room)
        moments = [self.sums["output", name] / self.sums["output", "rows"] for name in ("second", "chances")]
        s.output = OutputMoments(*moments)
        for part, layer in {key[:2] for key in self.sums if key[-1] == "rows" and len(key) == 3}:
            rows = self.sums[part, layer, "rows"]
            value_rows = self.sums[part, layer, "values rows"]
            s.attention[part, layer] = AttentionMoments(
                self.sums[part, layer, "query"] / rows,
                self.sums[part, layer, "key"] / rows,
                self.sums[part, layer, "values mean"] / value_rows,
                self.sums[part, layer, "values second"] / value_rows,
            )
        for part, layer in {key[:2] for key in self.sums if key[-1] == "neurons rows"}:
            neuron_rows = self.sums[part, layer, "neurons rows"]
            s.neurons[part, layer] = NeuronMoments(
                self.sums[part, layer, "neurons mean"] / neuron_rows,
                self.sums[part, layer, "neurons second"].div_(float(neuron_rows)),
                float(neuron_rows),
            )
        return s


def calibration_windows(corpus: Corpus, windows: int, seed: int = 0) -> list[Window]:
    """Half packed windows, half single utterances with their silence, at most `windows` in all.

    A short clip is nine tenths padding when it is transcribed; statistics of full windows alone miss that.
    """
    generator = torch.Generator().manual_seed(seed)
    packed = pack(corpus, seed=seed)
    chosen = [packed[i] for i in torch.randperm(len(packed), generator=generator)[: windows // 2].tolist()]
    return chosen + single_windows(corpus, windows - len(chosen), generator)


def single_windows(corpus: Corpus, count: int, seed: int | torch.Generator = 0) -> list[Window]:
    """So many single utterances with their silence, at most."""
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return [Window((corpus[i],)) for i in torch.randperm(len(corpus), generator=generator)[:count].tolist()]


def observe(
    model: Whisper,
    speech: Corpus | Sequence[Corpus],
    *,
    windows: int = WINDOWS,
    target_weight: float = 0.5,
    rough: float = ROUGH,
    batch_size: int = 4,
    seed: int = 0,
    job: Job | None = None,
) -> Statistics:
    """Gather the statistics of every twin in one pass over speech.

    model: a `Whisper`, compressed or not. speech: one corpus, or several: the first is the target speaker, who gets
    `target_weight`, the others share the rest by duration. windows: how many 30 s windows of each corpus to use.
    rough: the share of them that is heard through noise, a telephone or a room (`windows.roughened`): a model cut by
    quiet speech alone loses what it hears noise with. The decoder is teacher-forced on the model's own transcripts of
    the speech as it is, so the corpus needs none.

    >>> import adaptwin_widgets as aw                                           # doctest: +SKIP
    >>> model = aw.load("tiny.en")                                              # doctest: +SKIP
    >>> stats = aw.observe(model, aw.demo_speech()["target_train"], windows=8)         # doctest: +SKIP
    >>> stats.attention["encoder", 0].query.shape                               # doctest: +SKIP
    torch.Size([6, 64, 64])

    Raises InputError where there is no corpus, or one without speech, and for less than one window.
    """
    corpora = [speech] if isinstance(speech, Corpus) else list(speech)
    if not corpora:
        raise InputError("There is no speech to observe; give at least one corpus.")
    require_observable(windows, target_weight)
    job, model = ensure(job), expand(model)
    parts = [_observe_one(model, c, windows, rough, batch_size, seed, job) for c in corpora]
    return parts[0] if len(parts) == 1 else Statistics.mix(parts, corpus_weights(corpora, target_weight))


def corpus_weights(corpora: Sequence[Corpus], target_weight: float) -> list[float]:
    """The share of each corpus: the first gets `target_weight`, the others the rest by duration."""
    if len(corpora) == 1:
        return [1.0]
    others = sum(c.seconds for c in corpora[1:])
    return [target_weight, *((1 - target_weight) * c.seconds / others for c in corpora[1:])]


def _observe_one(
    model: Whisper, corpus: Corpus, windows: int, rough: float, batch_size: int, seed: int, job: Job
) -> Statistics:
    chosen = calibration_windows(corpus, windows, seed)
    heard = roughened(chosen, rough, seed)
    texts = transcribe(model, chosen, job=job)  # of the windows as they are
    network = model.model.eval()
    sums = _Accumulator(network)
    prompt = model.prompt(language=texts[0].language)
    rows = sorted(zip(heard, texts, strict=True), key=lambda row: len(row[1].tokens))
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    with torch.no_grad(), sums.hooks():
        for batch in job.track(batches, text=f"Observing {corpus.name}"):
            sounds, spoken = zip(*batch, strict=True)
            features = log_mel([w.samples() for w in sounds], model.processor.feature_extractor, model.device)
            sums.frames = evened(frame_weights(sounds, model))
            ids, sums.tokens = teacher_tokens([t.tokens for t in spoken], [prompt] * len(batch), model, PROMPT)
            network.model(input_features=features.to(network.dtype), decoder_input_ids=ids, use_cache=False)
    release(model.device)
    return sums.statistics(model.source, corpus.name, sum(w.seconds for w in chosen))


def frame_weights(windows: Iterable[Window], model: Whisper) -> Tensor:
    """[B, 1500] float32: 1 for a frame (20 ms) of speech, `SILENCE` for padding."""
    frames = model.config.max_source_positions
    ends = torch.tensor([[w.spans[-1][1]] for w in windows])
    speech = torch.arange(frames)[None] < (ends / 30.0 * frames).ceil()
    return torch.where(speech, 1.0, SILENCE).to(model.device)


def evened(weights: Tensor) -> Tensor:
    """Weights [B, T] of windows' frames, scaled so that a window counts by the root of its sum.

    By the sum itself, the short clips a model is asked to transcribe would hardly count beside windows full of
    speech; alike, long speech would pay for it (benchmarks/README.md has the damage of all three).

    >>> evened(torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])).sum(1)
    tensor([4., 2.])
    """
    return weights * (weights.shape[1] / weights.sum(1, keepdim=True)).sqrt()


def teacher_tokens(
    texts: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], model: Whisper, prompt_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Decoder inputs [B, L] (each text's prompt, then its tokens) and the weight of every position: 1 where it predicts
    text, `prompt_weight` before, 0 behind the end. The prompts are equally long."""
    room = model.config.max_target_positions
    rows = [[*prompt, *text][:room] for prompt, text in zip(prompts, texts, strict=True)]
    longest = max(map(len, rows))
    pad = model.config.eos_token_id
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=model.device)
    before = [prompt_weight] * (len(prompts[0]) - 1)
    weights = [[*before, *[1.0] * (len(row) - len(before)), *[0.0] * (longest - len(row))] for row in rows]
    return ids, torch.tensor(weights, device=model.device)
