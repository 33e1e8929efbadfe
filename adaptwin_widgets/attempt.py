"""One try, from a plan to a record of its study.

Everything a try needs to go on after a kill is in its folder: ``plan.json``, ``try.json`` (how it is made, and its
score before tuning), ``model`` (compressed, later tuned) and ``tuning.safetensors`` (where the tune is).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaptwin_widgets.distill import Lessons, held_out_of
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.recipe import Recipe
from adaptwin_widgets.run import Progress
from adaptwin_widgets.score import evaluate, score_texts
from adaptwin_widgets.settings import Settings, settings_for
from adaptwin_widgets.speech import Corpus, prompt_key, require_disjoint
from adaptwin_widgets.study import Record, Study, versions
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.tune import tune
from adaptwin_widgets.whisper import Whisper, load

WATCHED = 6  # held-out utterances of each corpus whose word errors are watched while tuning


@dataclass
class Try:
    """How a try is made; what ``try.json`` holds.

    minutes or steps: of tuning; neither: none. target_weight: share of the first corpus; transcripts: how much is their
    word (`Settings`); corpora: names of the speech to tune on, none: all. method: how the ranks were chosen
    (`Recipe.plan`). untuned: its scores before tuning, once known.
    """

    name: str
    minutes: float | None = None
    steps: int | None = None
    target_weight: float = 0.5
    transcripts: float = Settings.transcripts
    corpora: list[str] = field(default_factory=list)
    seed: int = 0
    note: str = ""
    method: str = "ours"
    untuned: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def tuned(self) -> bool:
        return self.minutes is not None or self.steps is not None

    def save(self, folder: Path) -> None:
        write_atomically(folder / "try.json", json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Try:
        """Read it back; raises InputError when the file is damaged."""
        try:
            return cls(**json.loads((folder / "try.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{folder / 'try.json'} cannot be read ({error}); delete the folder.") from error


class Attempts:
    """Makes the tries of one study: a model, its speech, and the speech it is scored on.

    >>> attempts = Attempts(study, recipe, {"target": dev})                                  # doctest: +SKIP
    >>> small = attempts.make(Try("encoder-30", minutes=3), recipe.plan(encoder=0.3))        # doctest: +SKIP
    """

    def __init__(self, study: Study, recipe: Recipe, evaluations: Mapping[str, Corpus]):
        self.study, self.recipe, self.evaluations = study, recipe, dict(evaluations)
        self._lessons: dict[tuple, Lessons] = {}

    def original(self, job: Job | None = None) -> None:
        """Score the original, once; it is the first record of every study."""
        if "original" in self.study:
            return
        began = time.monotonic()
        scores = self._score(self.recipe.model, "original", job)
        sizes = RankPlan({}, self.recipe.shape).reductions
        seconds = time.monotonic() - began
        settings = {"threads": torch.get_num_threads()}
        self.study.add(Record("original", sizes, scores, settings=settings, seed=self.recipe.seed, seconds=seconds))
        self.study.draw()

    def make(
        self,
        how: Try,
        plan: RankPlan,
        *,
        job: Job | None = None,
        tuning: Job | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Whisper:
        """Compress, score, tune, score again, and add the record; called again after a kill it goes on.

        job: cancelled, the try stays unfinished and can be gone on with. tuning: cancelled, only the tune ends; its
        best state so far is scored and recorded. on_progress: called after every step.
        """
        job = ensure(job)
        self.original(job)
        small, record = self.produce(how, plan, job=job, tuning=tuning, on_progress=on_progress)
        self.keep(record)
        return small

    def produce(
        self,
        how: Try,
        plan: RankPlan,
        *,
        job: Job,
        tuning: Job | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> tuple[Whisper, Record]:
        """All of `make` that may happen elsewhere; the record waits in the try's folder until `keep` adds it."""
        began = time.monotonic()
        self.recipe.job = job
        place, study = self.study.point(how.name), self.study
        folder, waiting = place / "model", place / "record.json"
        if how.name in study:
            raise InputError(f"{how.name} is made and recorded already; give this try another name.")
        if waiting.is_file():
            return load(folder), Record(**json.loads(waiting.read_text(encoding="utf-8")))
        if (place / "try.json").is_file() and folder.is_dir():
            how, plan = Try.load(place), RankPlan.load(place / "plan.json")
            small = load(folder)
        else:
            (place / "tuning.safetensors").unlink(missing_ok=True)  # of a try of this name that is gone
            plan.save(place / "plan.json")
            small = self.recipe.compress(plan)
            small.save_pretrained(folder)
            how.save(place)
        if not how.untuned:
            how.untuned = self._score(small, how.name, job)
            how.save(place)
        record = Record(how.name, plan.reductions, how.untuned, plan=plan.to_dict(), seed=how.seed, note=how.note)
        record.settings, record.versions = {"threads": torch.get_num_threads()}, versions()
        if how.tuned:
            small = self._tune(how, small, place, job, tuning or Job(), on_progress)
            record.untuned, record.scores = how.untuned, self._score(small, how.name, job)
            record.tuning = small.notes["tuning"]
            record.settings |= {name: getattr(how, name) for name in ("target_weight", "transcripts", "corpora")}
        small.notes["scores"] = record.scores
        small.save_pretrained(folder)
        record.model = folder.relative_to(study.folder).as_posix()
        record.seconds = time.monotonic() - began
        write_atomically(waiting, json.dumps(asdict(record)))
        return small, record

    def keep(self, record: Record) -> None:
        """Add a record to the study and clear away what its try would have gone on from."""
        self.study.add(record)
        for name in ("try.json", "tuning.safetensors", "record.json"):
            (self.study.point(record.name) / name).unlink(missing_ok=True)
        self.study.draw()

    def _tune(
        self, how: Try, small: Whisper, place: Path, job: Job, tuning: Job,
        on_progress: Callable[[Progress], None] | None,
    ) -> Whisper:  # fmt: skip
        def both(inner: Job) -> None:  # what the tune reports is the try's progress
            job.update(inner.done, inner.total, inner.text)

        corpora = [c for c in self.recipe.speech if not how.corpora or c.name in how.corpora]
        mine = {"target_weight": how.target_weight, "transcripts": how.transcripts, "seed": how.seed}
        settings = settings_for(small, rough=self.recipe.rough, **mine)
        key = (tuple(c.name for c in corpora), *mine.values())
        if key not in self._lessons:
            # Teacher's states of two kinds of lessons at once would hold twice the memory for little.
            self._lessons.clear()
            self._lessons[key] = self.recipe.prepare(corpora, settings)
        tuning.parent = job
        tuning.listeners.append(both)
        state = place / "tuning.safetensors"
        try:
            tuned = tune(
                small, teacher=self.recipe.model, speech=corpora, minutes=how.minutes, steps=how.steps,
                settings=settings, checkpoint=state, resume=state.is_file(),
                lessons=self._lessons[key], watch=_watch(corpora, how.seed) if on_progress else None,
                on_progress=on_progress, job=tuning,
            )  # fmt: skip
        finally:
            tuning.listeners.remove(both)
        job.check()
        return tuned

    def unfinished(self) -> list[Try]:
        """Tries with a folder and no record: paused, or killed."""
        found = []
        for file in sorted((self.study.folder / "points").glob("*/try.json")):
            if file.parent.name not in self.study and (file.parent / "model").is_dir():
                found.append(Try.load(file.parent))
        return found

    def _score(self, whisper: Whisper, point: str, job: Job | None) -> dict[str, dict[str, Any]]:
        """Scores on every evaluation set, paired with the original's; every hypothesis goes to a file."""
        found = {}
        for name, corpus in self.evaluations.items():
            original = None
            if point != "original":
                rows = self.study.hypotheses("original", name)
                language = self.study["original"].scores[name]["language"]
                references, hypotheses, ids = ([r[k] for r in rows] for k in ("reference", "hypothesis", "id"))
                original = score_texts(references, hypotheses, ids, language)
            score = evaluate(whisper, corpus, against=original, job=job)
            score.write_hypotheses(self.study.hypotheses_file(point, name))
            found[name] = score.to_dict()
        return found


def _watch(corpora: Sequence[Corpus], seed: int) -> Callable[[Whisper], float] | None:
    """Word error rate, percent, on a few utterances that are never tuned on: quick enough for every check. None where
    nobody wrote down what they say."""
    spoken = ([u for u in held_out_of(corpus, seed)[1] if prompt_key(u.text)] for corpus in corpora)
    clips = [u for some in spoken for u in some[:WATCHED]]
    if not clips:
        return None

    def measure(whisper: Whisper) -> float:
        texts = transcribe(whisper, clips)
        score = score_texts([c.text for c in clips], [t.text for t in texts], [c.id for c in clips], texts[0].language)
        return score.wer

    return measure


def about_study(recipe: Recipe, evaluations: Mapping[str, Corpus]) -> dict[str, Any]:
    """What a study is of: another model or other speech is another study."""
    return {
        "model": recipe.model.source,
        "speech": [c.name for c in recipe.speech],
        "evaluations": {name: c.name for name, c in evaluations.items()},
        "recordings": _recordings([recipe.speech, list(evaluations.values())]),
        "seed": recipe.seed,
    }


def _recordings(kinds: Sequence[Sequence[Corpus]]) -> str:
    """How many to learn from and to be scored on, and which: corpora grow under the same name."""
    counts = [sum(len(corpus) for corpus in corpora) for corpora in kinds]
    which = [[sorted((u.id, round(u.duration, 2)) for u in corpus) for corpus in corpora] for corpora in kinds]
    mark = hashlib.sha256(json.dumps(which).encode()).hexdigest()[:8]
    return f"{counts[0]} to learn from, {counts[1]} to be scored on, {mark}"


def default_folder(about: Mapping[str, Any]) -> Path:
    """Where a study is kept if nobody says: the same for the same model and speech."""
    mark = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / "studio" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', str(about['model'])).strip('-')}-{mark}"


def new_name(plan: RankPlan, method: str, taken: Container[str]) -> str:
    """What to call a try of a plan: after what it removes, and numbered where that is taken.

    >>> from adaptwin_widgets.plan import shape_of
    >>> from transformers import WhisperConfig
    >>> new_name(RankPlan({}, shape_of(WhisperConfig())), "ours", {"plan"})
    'plan_2'
    """
    removed = plan.reductions
    parts = [(side, 100 * removed[f"{side}_reduction"]) for side in ("encoder", "decoder")]
    base = "_".join(f"{side}-{share:.1f}".removesuffix(".0") for side, share in parts if share >= 0.05) or "plan"
    base += "" if method == "ours" else f"-{method}"
    number, name = 1, base
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def require_apart(speech: Sequence[Corpus], evaluations: Mapping[str, Corpus]) -> None:
    """Raise InputError when speech to learn from shares a recording or a prompt with speech to be scored on, and for
    a name of the latter that could not be a file's."""
    if unfit := [name for name in evaluations if not name or set(name) & set('/\\:*?"<>|') or name.startswith(".")]:
        raise InputError(f"Speech to be scored on is called {unfit[0]!r}, which no file can be; give a plain name.")
    for corpus in speech:
        for evaluation in evaluations.values():
            require_disjoint(corpus, evaluation)
