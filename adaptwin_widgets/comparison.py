"""Two models on one corpus, clip by clip: which clips got worse, from a study's files where it has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from adaptwin_widgets.alignment import worst_first
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.score import Score, evaluate, score_texts
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.whisper import Whisper

KEYS = ("reference", "hypothesis", "id", "looped")


class Stored(NamedTuple):
    """What a study keeps of one model on one corpus: rows of a hypotheses file, and the language it was told."""

    rows: list[dict[str, Any]]
    language: str

    def fits(self, corpus: Corpus) -> bool:
        """Whether it is of just these utterances, in their order."""
        return len(self.rows) == len(corpus) and all(
            row["id"] == u.id and row["reference"] == u.text for row, u in zip(self.rows, corpus, strict=True)
        )

    def score(self) -> Score:
        """The texts, scored."""
        references, hypotheses, ids, looped = ([row[key] for row in self.rows] for key in KEYS)
        return score_texts(references, hypotheses, ids, self.language, looped=looped)


@dataclass(frozen=True)
class Comparison:
    """The scores of two models, the first one's and the last one's, on one corpus.

    measured: False where a study had all the texts.
    """

    models: tuple[str, str]
    scores: tuple[Score, Score]
    measured: bool

    @cached_property
    def errors(self) -> list[tuple[int, int]]:
        """Errors before and after, by position."""
        first, last = ([row.errors for row in score.hypotheses] for score in self.scores)
        return list(zip(first, last, strict=True))

    @cached_property
    def order(self) -> list[int]:
        """All positions, those that got worse first (see `alignment.worst_first`)."""
        # Positions for ids: a corpus with its noisy copy holds every id twice.
        first, last = (
            replace(score, hypotheses=[replace(row, id=str(i)) for i, row in enumerate(score.hypotheses)])
            for score in self.scores
        )
        return [int(position) for position in worst_first(first, last)]

    @property
    def worse(self) -> int:
        """How many clips have more errors than before."""
        return sum(after > before for before, after in self.errors)

    @property
    def better(self) -> int:
        """How many clips have fewer errors than before."""
        return sum(after < before for before, after in self.errors)


def compare_models(
    models: Mapping[str, Whisper],
    corpus: Corpus,
    *,
    stored: Callable[[str], Stored | None] = lambda name: None,
    language: Callable[[Whisper], str | None] = lambda model: None,
    job: Job | None = None,
) -> Comparison:
    """Run two models over a corpus; one whose texts are `stored`, for its name, is not run.

    language: what to tell a model, or None.

    >>> compare_models({"original": model, "small": small}, corpus).worse                        # doctest: +SKIP
    12

    Raises what `evaluate` raises.
    """
    job = ensure(job)
    known = {name: found for name in models if (found := stored(name)) is not None and found.fits(corpus)}
    run = [name for name in models if name not in known]

    def score(name: str) -> Score:
        if name in known:
            return known[name].score()

        def forward(part: Job) -> None:  # both models' work is one count
            done = run.index(name) * len(corpus) + part.done
            job.update(done, len(run) * len(corpus), f"Transcribing with {name}")

        part = Job(name, listeners=[forward], parent=job)
        return evaluate(models[name], corpus, language=language(models[name]), job=part)

    first, last = models
    return Comparison((first, last), (score(first), score(last)), measured=bool(run))


def stored_by(study: Any, name: str, evaluation: str) -> Stored | None:
    """What a `study.Study` keeps of a try on an evaluation set; None where it has no such file, or a damaged one.

    >>> stored_by(Study("run"), "encoder-30", "target").rows[0]["hypothesis"]             # doctest: +SKIP
    'Author of the danger trail, Philip Steels, etc.'
    """
    path = study.hypotheses_file(name, evaluation)
    try:
        return Stored(_rows(path, path.stat().st_mtime_ns), study[name].scores[evaluation]["language"])
    except (KeyError, OSError, TypeError, ValueError):
        return None


@lru_cache(maxsize=8)
def _rows(path: Path, changed: int) -> list[dict[str, Any]]:
    lines = filter(None, path.read_text(encoding="utf-8").split("\n"))  # splitlines also cuts within a text, at U+2028
    return [{key: row[key] for key in KEYS} for row in map(json.loads, lines)]
