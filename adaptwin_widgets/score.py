"""Word error rate, its interval, and how sure a difference between two models is."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.precision import resolve_dtype
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.whisper import Whisper

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # as in Radford et al. 2022, appendix D
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Hypothesis:
    """One utterance of a score: both texts as written, and the counts after normalisation.

    words: of the reference (characters where the metric is CER). errors: insertions, deletions and
    substitutions.
    """

    id: str
    reference: str
    hypothesis: str
    words: int
    insertions: int
    deletions: int
    substitutions: int
    looped: bool = False

    @property
    def errors(self) -> int:
        """All three kinds of error together."""
        return self.insertions + self.deletions + self.substitutions


@dataclass(frozen=True)
class Score:
    """How well a model did on a corpus.

    wer, wer_low, wer_high: percent, the corpus rate and its 95 % bootstrap interval over utterances.
    metric: ``wer``, or ``cer`` for languages without spaces, where characters are counted as words.
    loops: utterances on which decoding looped and was cut. seconds: taken to transcribe; audio_seconds: of
    speech. difference and its interval, in points, and against_wer: only where evaluated against another.
    """

    wer: float
    wer_low: float
    wer_high: float
    words: int
    utterances: int
    insertions: int
    deletions: int
    substitutions: int
    loops: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0
    metric: str = "wer"
    language: str = "en"
    dtype: str = ""
    against_wer: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    hypotheses: list[Hypothesis] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        """The rate and its interval, in words.

        >>> print(score_texts(["今日はいい天気"], ["今日はいい電気"], ["a"], "ja"))
        14.29 % character errors in Japanese, 95 % interval 14.29 to 14.29
        """
        kind = "character" if self.metric == "cer" else "word"
        rate = f"{self.wer:.2f} % {kind} errors in {LANGUAGES.get(self.language, self.language).title()}"
        return f"{rate}, 95 % interval {self.wer_low:.2f} to {self.wer_high:.2f}"

    def to_dict(self) -> dict[str, Any]:
        """All but the hypotheses, ready for JSON; what was not asked for is left out.

        >>> score_texts(["good day"], ["good"], ["a"]).to_dict()["deletions"]
        1
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "hypotheses"}
        return {name: value for name, value in values.items() if value is not None}

    def write_hypotheses(self, path: str | Path) -> Path:
        """Write one JSON object a line: id, reference, hypothesis, words, errors by kind, looped.

        >>> score.write_hypotheses("hypotheses.jsonl")                                   # doctest: +SKIP
        PosixPath('hypotheses.jsonl')
        """
        rows = ({**dataclasses.asdict(hypothesis), "errors": hypothesis.errors} for hypothesis in self.hypotheses)
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return Path(path)


def evaluate(
    whisper: Whisper,
    corpus: Corpus,
    *,
    limit: int | None = None,
    language: str | None = None,
    task: str = "transcribe",
    dtype: str | torch.dtype = "auto",
    batch_size: int = 16,
    against: Whisper | Score | None = None,
    job: Job | None = None,
) -> Score:
    """Transcribe a corpus and score it.

    limit: only the first so many utterances. language (that is spoken), task, dtype, batch_size: as for `transcribe`;
    translations are scored as the English they are, against references in English. against: another model, or its
    score on the same utterances; adds the paired difference.

    >>> import adaptwin_widgets as aw                                                    # doctest: +SKIP
    >>> aw.evaluate(aw.load("tiny.en"), aw.Corpus.from_manifest("dev.jsonl")).wer        # doctest: +SKIP
    4.24

    Raises `InputError` for an empty corpus, one without words in its transcripts, and what `transcribe`
    refuses.
    """
    corpus, dtype = corpus.head(limit), resolve_dtype(dtype, whisper.device)
    if not corpus:
        raise InputError(f"{corpus.name}: holds no utterances, so there is nothing to score; add speech.")
    start = time.perf_counter()
    texts = transcribe(whisper, corpus, batch_size=batch_size, dtype=dtype, language=language, task=task, job=job)
    seconds = time.perf_counter() - start
    spoken = texts[0].language
    written = spoken if task == "transcribe" else "en"
    score = score_texts(
        [u.text for u in corpus], [t.text for t in texts], [u.id for u in corpus], written,
        looped=[t.looped for t in texts],
    )  # fmt: skip
    score = dataclasses.replace(
        score, audio_seconds=corpus.seconds, seconds=seconds, dtype=str(dtype).removeprefix("torch.")
    )
    if against is None:
        return score
    if isinstance(against, Whisper):
        language = spoken if against.multilingual else None
        against = evaluate(against, corpus, language=language, task=task, dtype=dtype, batch_size=batch_size, job=job)
    difference, low, high = paired_difference(score, against)
    return dataclasses.replace(
        score, against_wer=against.wer, difference=difference, difference_low=low, difference_high=high
    )


def score_texts(
    references: Sequence[str],
    hypotheses: Sequence[str],
    ids: Sequence[str],
    language: str = "en",
    *,
    looped: Sequence[bool] | None = None,
) -> Score:
    """Score texts against references: the pure part of `evaluate`.

    The rate is of the corpus: all errors over all reference words, never a mean of rates. English is
    normalised with Whisper's English normaliser and spelling map, other languages with its basic one; for
    languages without spaces (Chinese, Japanese, Thai, Lao, Burmese, Cantonese) every character is a word.
    Where a reference is empty after normalisation, all of its hypothesis is insertions.

    >>> score = score_texts(["The colour is grey.", "Twenty-one"], ["the color is gray", "21 men"], "ab")
    >>> score.words, score.insertions, score.wer
    (5, 1, 20.0)

    Raises `InputError` where the lists differ in length, or no reference holds a word.
    Source: Radford et al. 2022, section 3.2 and appendix C.
    """
    if not len(references) == len(hypotheses) == len(ids):
        raise InputError(
            f"there are {len(references)} references, {len(hypotheses)} hypotheses and {len(ids)} ids; "
            "give one of each for every utterance."
        )
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    normalise = normaliser(code)
    looped = looped if looped is not None else [False] * len(ids)
    rows = [
        Hypothesis(name, reference, hypothesis, *_count(normalise(reference), normalise(hypothesis)), loop)
        for name, reference, hypothesis, loop in zip(ids, references, hypotheses, looped, strict=True)
    ]
    words = sum(row.words for row in rows)
    if not words:
        raise InputError("the references hold no words after normalisation; add transcripts to the manifest.")
    counts = _resamples(len(rows))
    low, high = _interval(_rates(rows, counts))
    return Score(
        wer=100 * sum(row.errors for row in rows) / words,
        wer_low=low,
        wer_high=high,
        words=words,
        utterances=len(rows),
        insertions=sum(row.insertions for row in rows),
        deletions=sum(row.deletions for row in rows),
        substitutions=sum(row.substitutions for row in rows),
        loops=sum(looped),
        metric="cer" if code in WITHOUT_SPACES else "wer",
        language=code,
        hypotheses=rows,
    )


def paired_difference(score: Score, other: Score) -> tuple[float, float, float]:
    """How much higher `score` is than `other`, in points, with its 95 % interval: (difference, low, high).

    Both models heard the same utterances, so both rates are resampled with the same ones: what is hard for
    both falls out, and the interval is much narrower than those of the two rates.

    >>> texts = ["red green blue", "cold and wet"], ["a", "b"]
    >>> good, bad = (score_texts(texts[0], said, texts[1]) for said in (texts[0], ["red green", "cold and"]))
    >>> [round(value, 1) for value in paired_difference(bad, good)]
    [33.3, 33.3, 33.3]

    Raises `InputError` where the two are not of the same utterances and metric.
    Source: Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation".
    """
    ids, others = ([row.id for row in s.hypotheses] for s in (score, other))
    if not ids or ids != others:
        raise InputError("the two scores are not of the same utterances in one order; evaluate both on one corpus.")
    if score.metric != other.metric:
        raise InputError(
            f"one score is a {score.metric}, the other a {other.metric}; evaluate both in the same language."
        )
    counts = _resamples(len(ids))
    low, high = _interval(_rates(score.hypotheses, counts) - _rates(other.hypotheses, counts))
    return score.wer - other.wer, low, high


@lru_cache
def normaliser(language: str) -> Callable[[str], str]:
    """What makes two ways to write the same words equal, for a language code.

    >>> normaliser("en")("Mr. Smith's favourite")
    'mister smith is favorite'
    >>> normaliser("ja")("はい。")
    'は い '
    """
    if language == "en":
        return EnglishTextNormalizer()
    return BasicTextNormalizer(split_letters=language in WITHOUT_SPACES)


def _count(reference: str, hypothesis: str) -> tuple[int, int, int, int]:
    """Words of the reference, insertions, deletions, substitutions."""
    reference, hypothesis = reference.strip(), hypothesis.strip()
    if not reference:  # jiwer's rate would divide by zero
        return 0, len(hypothesis.split()), 0, 0
    found = jiwer.process_words(reference, hypothesis)
    return len(reference.split()), found.insertions, found.deletions, found.substitutions


def _resamples(size: int) -> np.ndarray:
    """How often each utterance is drawn, [RESAMPLES, size]; the same for all scores of as many utterances."""
    return np.random.default_rng(SEED).multinomial(size, np.full(size, 1 / size), RESAMPLES)


def _rates(rows: Sequence[Hypothesis], counts: np.ndarray) -> np.ndarray:
    """The corpus rate in percent of every resample; NaN where one happens to hold no words."""
    errors, words = counts @ [row.errors for row in rows], counts @ [row.words for row in rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(words > 0, 100 * errors / words, np.nan)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
