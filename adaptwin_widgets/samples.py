"""The speech that a small model learns from: windows, what the original writes of them, and in which order.

The original writes a few windows at a time, when they are needed: hours of speech would take it longer to write than
anyone tunes on them.
"""

from __future__ import annotations

import itertools
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adaptwin_widgets.correction import corrected
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.observe import single_windows
from adaptwin_widgets.speech import Corpus, prompt_key
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.windows import Window, pack, roughened, zero_filled

HELD_OUT = 0.06  # share of the speech that is never tuned on and decides which state is kept
ALONE = 1 / 3  # share of windows that hold one utterance and its silence, as at test time
SHORT = 0.85  # a transcript with so much fewer tokens a second than is usual may have left clips out
FIRST = 8  # windows the teacher writes before the first step, which people wait for
AT_ONCE = 32  # and later: two batches of `transcribe`, and enough to tell what is usual

Written = list[list[int]]  # the tokens that the teacher wrote of some windows


@dataclass(frozen=True)
class Sample:
    """One window, and the text the teacher gave it behind a prompt, which tells the language. zeros: what is behind
    its speech, see `windows.zero_filled`. said: how much the text counts for itself, beside the teacher's distribution
    over all words: nothing unless a transcript has put it right."""

    window: Window
    tokens: tuple[int, ...]
    prompt: tuple[int, ...]
    zeros: bool = False
    said: float = 0.0


class Samples(Sequence[Sample]):
    """Every utterance of a corpus in packed windows, and some alone, with what the teacher writes of them.

    They are in the order in which they are first learnt from. Where one is asked for, the teacher writes it together
    with its neighbours: the same ones always, for what is usual among them decides which are written again.

    rough: share of the windows under a condition (`windows.roughened`); their texts are those of the quiet speech.
    transcripts: how much these count where there are any (`Sample.said`), after which the texts are corrected; 0: not
    at all. most: so many windows at most. written: `written` of the same samples made elsewhere.
    """

    def __init__(
        self,
        teacher: Whisper,
        corpus: Corpus,
        language: str,
        seed: int,
        *,
        rough: float,
        transcripts: float = 0.0,
        most: int | None = None,
        written: list[Written | None] | None = None,
    ):
        packed = pack(corpus, seed=seed)
        if most is not None:
            packed = packed[: most - max(1, round(most * ALONE))]
        count = min(len(corpus), max(1, round(len(packed) * ALONE / (1 - ALONE))))
        generator = torch.Generator().manual_seed(seed)
        windows = packed + single_windows(corpus, count, generator)
        self.transcripts = transcripts
        self.teacher, self.language, self.prompt = teacher, language, tuple(teacher.prompt(language))
        self.windows = [windows[i] for i in torch.randperm(len(windows), generator=generator).tolist()]
        self.heard = roughened(self.windows, rough, seed)
        self.zeros = zero_filled(self.windows, seed)
        self.ends = [*range(FIRST, len(self.windows), AT_ONCE), len(self.windows)]  # of what is written together
        self.written = written or [None] * len(self.ends)
        self._known: dict[int, Sample] = {}  # one object a window: what is kept of it is found by its identity

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, place: int) -> Sample:  # type: ignore[override]
        if place not in self._known:
            tokens, said = self._put_right(place, self.write(place)[place - self._start(place)])
            self._known[place] = Sample(self.heard[place], tuple(tokens), self.prompt, self.zeros[place], said)
        return self._known[place]

    def _put_right(self, place: int, tokens: list[int]) -> tuple[list[int], float]:
        """The tokens after the transcript of a window, and how much they count for themselves."""
        window, tokenizer = self.windows[place], self.teacher.processor.tokenizer
        if not self.transcripts or not all(prompt_key(u.text) for u in window.utterances):
            return tokens, 0.0
        heard = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        right = corrected(heard, window.text, self.language)
        if right is None or right == heard:
            return tokens, 0.0 if right is None else self.transcripts
        return tokenizer(f" {right}", add_special_tokens=False).input_ids, self.transcripts

    def ready(self, place: int) -> bool:
        """Whether the teacher has written this window."""
        return self.written[bisect_right(self.ends, place)] is not None

    def write(self, place: int, job: Job | None = None) -> Written:
        """Have the teacher write this window and its neighbours, unless it has; what it wrote of them."""
        part = bisect_right(self.ends, place)
        found = self.written[part]
        if found is None:
            windows = self.windows[self._start(place) : self.ends[part]]
            found = self.written[part] = write(self.teacher, windows, self.language, job)
        return found

    def _start(self, place: int) -> int:
        return [0, *self.ends][bisect_right(self.ends, place)]


def write(teacher: Whisper, windows: Sequence[Window], language: str, job: Job | None = None) -> Written:
    """What the teacher writes of windows; where it seems to leave clips out, or loops, it is asked clip by clip.

    Between sentences of different recordings Whisper may stop, or begin late; a model that learns from such a
    transcript stops early everywhere.
    """
    texts = transcribe(teacher, windows, language=language, job=job)
    found = [list(text.tokens) for text in texts]
    rates = [len(tokens) / window.seconds for tokens, window in zip(found, windows, strict=True)]
    usual = statistics.median(rates)
    doubtful = [
        i for i, window in enumerate(windows)
        if len(window.utterances) > 1 and (texts[i].looped or rates[i] < SHORT * usual)
    ]  # fmt: skip
    if doubtful:
        clips = [Window((u,)) for i in doubtful for u in windows[i].utterances]
        again = iter(transcribe(teacher, clips, language=language, job=job))
        for i in doubtful:
            tokens = [t for clip in itertools.islice(again, len(windows[i].utterances)) for t in clip.tokens]
            found[i] = tokens if texts[i].looped else max(found[i], tokens, key=len)
    return found


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

    def __init__(self, corpora: Sequence[Samples], shares: Sequence[float], batch_size: int, seed: int):
        self.corpora, self.shares, self.batch_size, self.seed = corpora, shares, batch_size, seed
        self._bounds = list(itertools.accumulate(shares))[:-1]
        self._drawn: list[tuple[int, int]] = []  # of each number: which corpus, and how many of it came before
        self._counts = [0] * len(corpora)

    def __getitem__(self, step: int) -> list[Sample]:
        return [self.corpora[which][place] for which, place in self.places(step)]

    def places(self, step: int) -> list[tuple[int, int]]:
        """The batch of a step: of each sample, in which corpus and where there it is."""
        return [self._place(step * self.batch_size + i) for i in range(self.batch_size)]

    def _place(self, number: int) -> tuple[int, int]:
        while len(self._drawn) <= number:
            # Golden-ratio steps spread the shares evenly: any stretch of numbers has each corpus in proportion.
            which = bisect_right(self._bounds, len(self._drawn) * 0.6180339887498949 % 1.0)
            self._drawn.append((which, self._counts[which]))
            self._counts[which] += 1
        which, before = self._drawn[number]
        size = len(self.corpora[which])
        turn, place = divmod(before, size)
        if not turn:  # in the order in which the teacher writes them, so that it is never far ahead
            return which, place
        generator = torch.Generator().manual_seed(hash((self.seed, which, turn)) % 2**63)
        return which, int(torch.randperm(size, generator=generator)[place])
