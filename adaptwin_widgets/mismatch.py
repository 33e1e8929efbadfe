"""Transcripts that do not match their recordings: told by the speed of speech, and by what a model hears."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adaptwin_widgets.jobs import Job
from adaptwin_widgets.score import score_texts
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.utterance import word_count
from adaptwin_widgets.whisper import Whisper

if TYPE_CHECKING:
    import pandas as pd

WORDS_PER_SECOND = (0.3, 6.0)  # of 1100 clips at hand, some of one word, the slowest has 1.2, the fastest 5.6
WER = 50.0  # percent, of one utterance
ERRORS = 3  # so many words must be wrong as well: of three words one may be a name
COLUMNS = ["id", "place", "audio", "seconds", "words", "words_per_second", "wer", "reason", "text", "heard"]


@dataclass(frozen=True)
class Suspect:
    """One utterance whose transcript is perhaps not what is said in it.

    place: where it was described. words_per_second: of its transcript. heard, wer (percent): what the model
    made of it; empty and None without one.
    """

    id: str
    place: str
    audio: str
    seconds: float
    words: float
    words_per_second: float
    reason: str
    text: str
    heard: str = ""
    wer: float | None = None


@dataclass(frozen=True)
class SpeechCheck:
    """The suspects of a corpus, the worst first.

    good: the corpus without them. model: what listened, if anything did.
    """

    good: Corpus
    suspects: tuple[Suspect, ...]
    checked: int
    model: str = ""
    wer: float | None = field(default=None)

    def frame(self) -> pd.DataFrame:
        """One row a suspect, with the columns of `COLUMNS`."""
        import pandas as pd

        return pd.DataFrame([vars(suspect) for suspect in self.suspects], columns=COLUMNS)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "checked": self.checked, "model": self.model, "wer": self.wer,
            "suspects": [vars(suspect) for suspect in self.suspects],
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return f"<p>{self.sentence}</p>" + (self.frame().to_html(index=False) if self.suspects else "")

    @property
    def sentence(self) -> str:
        """How many may not match, and by what that was judged."""
        by = f"the speed of speech and {self.model}" if self.model else "the speed of speech"
        return f"{len(self.suspects)} of {self.checked} transcripts may not match, judged by {by}"

    def __str__(self) -> str:
        lines = [self.sentence]
        for s in self.suspects:
            lines.append(f"  {s.place}, id {s.id!r}: {s.reason}")
            lines.append(f"    written: {_short(s.text)}")
            if self.model:
                lines.append(f"    heard:   {_short(s.heard)}")
        return "\n".join(lines)


def check_speech(
    corpus: Corpus,
    model: Whisper | None = None,
    *,
    words_per_second: tuple[float, float] = WORDS_PER_SECOND,
    wer: float = WER,
    language: str | None = None,
    job: Job | None = None,
) -> SpeechCheck:
    """Which transcripts may not match their recordings; look at them before anything is tuned on them.

    Without a model at once, by words per second (in scripts without spaces two letters count as a word). With the
    original model by what it hears as well: suspect is an utterance of which it gets more than `wer` percent of the
    words, and at least three, wrong. language: as for `transcribe`.

    >>> import adaptwin_widgets as aw
    >>> print(aw.check_speech(aw.demo_speech()["target_dev"]))
    0 of 40 transcripts may not match, judged by the speed of speech
    >>> aw.check_speech(corpus, aw.load("tiny.en")).good.to_manifest("good.jsonl")       # doctest: +SKIP
    PosixPath('good.jsonl')

    Raises what `transcribe` raises.
    """
    heard, rates, total = _heard(corpus, model, language, job) if model is not None else ({}, {}, None)
    slowest, fastest = words_per_second
    suspects, good = [], []
    for i, u in enumerate(corpus):
        words = word_count(u.text)
        rate = words / u.duration if u.duration > 0 else float("inf")
        reasons = []
        if not slowest <= rate <= fastest:
            reasons.append(f"{rate:.1f} words per second" if rate > 1 else f"{words:g} words in {u.duration:.1f} s")
        percent, errors = rates.get(i, (None, 0))
        if percent is not None and percent > wer and errors >= ERRORS:
            reasons.append(f"{percent:.0f} % word errors")
        if reasons:
            place = str(u.origin or corpus.name)
            suspects.append(
                Suspect(u.id, place, str(u.audio), u.duration, words, rate, "; ".join(reasons), u.text,
                        heard.get(i, ""), percent)
            )  # fmt: skip
        else:
            good.append(u)
    suspects.sort(key=lambda s: (-(s.wer or 0), -s.words_per_second))
    kept = Corpus(good, corpus.name, problems=corpus.problems, layout=corpus.layout)
    return SpeechCheck(kept, tuple(suspects), len(corpus), model.source if model else "", total)


def _heard(
    corpus: Corpus, model: Whisper, language: str | None, job: Job | None
) -> tuple[dict[int, str], dict[int, tuple[float, int]], float | None]:
    """Text, and word errors in percent and number, of every utterance; and the corpus' rate."""
    if not corpus:
        return {}, {}, None
    texts = transcribe(model, corpus, language=language, job=job)
    score = score_texts([u.text for u in corpus], [t.text for t in texts], [u.id for u in corpus], texts[0].language)
    rates = {i: (100 * h.errors / max(h.words, 1), h.errors) for i, h in enumerate(score.hypotheses)}
    return {i: h.hypothesis for i, h in enumerate(score.hypotheses)}, rates, score.wer


def _short(text: str, size: int = 100) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
