"""Listening: one clip at hand, what each model makes of it and how long it takes, and the clips that got worse.

Nothing here knows a notebook. A view observes `Listening.revision` and reads the rest.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from traitlets import HasTraits, Int

from adaptwin_widgets.audio import SAMPLE_RATE
from adaptwin_widgets.comparison import Comparison, Stored, compare_models, stored_by
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Cancelled
from adaptwin_widgets.speech import Corpus, Utterance
from adaptwin_widgets.transcribe import detect_language, transcribe
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.worker import Task, Worker

ORDERS = ("corpus", "worst")


@dataclass(frozen=True, eq=False)
class Clip:
    """The clip at hand. samples: as the models hear it, or None where it cannot be read; problem says why."""

    corpus: str
    position: int
    utterance: Utterance
    samples: np.ndarray | None
    problem: str = ""


@dataclass(frozen=True)
class Reading:
    """What one model makes of one clip.

    state: "waiting", "running", "done", "stopped" or "failed". text: None until it is known. seconds: measured on
    this clip alone, None until then. error: one sentence; details: the traceback, where it is no `InputError`.
    """

    state: str = "waiting"
    text: str | None = None
    language: str = "en"
    looped: bool = False
    seconds: float | None = None
    error: str = ""
    details: str = ""


@dataclass(frozen=True)
class _Loaded:
    """A clip whose samples are in memory, so that a model's time holds no reading from disk."""

    id: str
    duration: float
    data: np.ndarray

    def samples(self) -> np.ndarray:
        return self.data


class Listening(HasTraits):
    """Clips of several corpora, and what several models make of them, transcribed in the background.

    revision: counts up with every change. models: by name; the first is the one to compare with, the last the one
    in question. speech: corpora by name. stored: what a study has of a model on a corpus, both by name, or None.
    asleep: nothing is transcribed until somebody looks, see `wake`. lock: held while revision is told; a view that
    paints at another time holds it too, and calls no worker then.

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> listening = Listening({"original": aw.load("tiny.en")}, {"target": aw.demo_speech()["target_dev"]})
    ...                                                                                   # doctest: +SKIP
    >>> listening.choose("target", 3); listening.wait(); listening.readings               # doctest: +SKIP
    {'original': Reading(state='done', text='...', language='en', looped=False, seconds=0.41, ...)}

    Raises `InputError` for models or speech of another kind, and where there are none.
    """

    revision = Int(0)

    def __init__(
        self,
        models: Mapping[str, Whisper],
        speech: Mapping[str, Corpus],
        *,
        worker: Worker | None = None,
        stored: Callable[[str, str], Stored | None] = lambda model, corpus: None,
    ):
        super().__init__()
        _require(speech, "speech", Corpus, "aw.Corpus.from_manifest")
        for name, corpus in speech.items():
            if not len(corpus):
                raise InputError(f"the corpus {name!r} holds no utterances; leave it out or add speech.")
        self.speech, self.stored = dict(speech), stored
        self.worker = worker if worker is not None else Worker()
        self.models: dict[str, Whisper] = {}
        self.order = "corpus"
        self.asleep = True
        self.search: Task | None = None
        self.lock = threading.RLock()
        self._cache: dict[tuple[int, str, int], Reading] = {}
        self._live: dict[int, Reading] = {}  # of the clip at hand, by the model's identity
        self._warm: set[int] = set()
        self._languages: dict[str, str] = {}
        self._comparisons: dict[str, Comparison] = {}
        self._task: Task | None = None
        self._search_state = ""
        self._choice = 0
        self.clip = self._load(next(iter(self.speech)), 0)
        self.use(models)
        self.worker.observe(self._watch, "revision")

    @classmethod
    def of(cls, workbench: Any) -> Listening:
        """The workbench's own, the same for all its views: its original, its small model as that changes, its
        evaluation sets."""
        found: Listening | None = getattr(workbench, "listening", None)
        if found is None:
            found = workbench.listening = cls(
                _models_of(workbench, {}), workbench.evaluations, worker=workbench.worker,
                stored=partial(stored_by, workbench.study),
            )  # fmt: skip
            own = found
            workbench.observe(lambda _: own.use(_models_of(workbench, own.models)), "small")
        return found

    @property
    def readings(self) -> dict[str, Reading]:
        """What is known of the clip at hand, by the model's name."""
        with self.lock:
            return {name: self._live.get(id(model), Reading()) for name, model in self.models.items()}

    @property
    def comparison(self) -> Comparison | None:
        """The first and the last model on the whole of the present corpus; None until `find_worse` has run."""
        return self._comparisons.get(self.clip.corpus)

    @property
    def behind(self) -> str:
        """The name of other work that the worker does first; empty if there is none."""
        running = self.worker.running
        return running.name if running is not None and running is not self._task and not running.cancelled else ""

    def use(self, models: Mapping[str, Whisper]) -> None:
        """Take these models from now on, and sleep; what is known of those that stay is kept."""
        _require(models, "models", Whisper, "aw.load")
        with self.lock:
            was, self.models = self.models, dict(models)
            stay = {id(model) for model in self.models.values()}
            self._cache = {key: reading for key, reading in self._cache.items() if key[0] in stay}
            self._warm &= stay
            changed = list(map(id, was.values())) != list(map(id, self.models.values()))
            if changed:
                self._comparisons, self.order, self.asleep = {}, "corpus", True
        if changed and self.search is not None:
            self.search.cancel()
        self._read_clip()

    def choose(self, corpus: str | None = None, clip: str | int | None = None) -> None:
        """Take a clip, by its id or its position (None: the first shown); transcribe it with every model.

        Raises `InputError` where there is no such corpus or clip.
        """
        corpus = self.clip.corpus if corpus is None else corpus
        if corpus not in self.speech:
            raise InputError(f"there is no corpus {corpus!r}; choose {_listed(self.speech)}.")
        utterances = self.speech[corpus]
        if clip is None:
            found = self._comparisons.get(corpus) if self.order == "worst" else None
            clip = found.order[0] if found else 0
        if isinstance(clip, str):
            position = next((i for i, utterance in enumerate(utterances) if utterance.id == clip), None)
            if position is None:
                raise InputError(f"the corpus {corpus!r} has no clip {clip!r}; {utterances[0].id!r} is its first.")
        else:
            position = clip
            if not isinstance(clip, int) or not 0 <= clip < len(utterances):
                raise InputError(f"the corpus {corpus!r} has clips 0 to {len(utterances) - 1}, no clip {clip!r}.")
        loaded = self._load(corpus, position)
        with self.lock:
            self.clip, self.asleep = loaded, False
            if self.comparison is None:
                self.order = "corpus"
        self._read_clip()

    def wake(self) -> None:
        """Somebody looks: transcribe the clip at hand, and from now on every other one."""
        if self.asleep:
            self.asleep = False
            self._read_clip()

    def arrange(self, order: str) -> None:
        """List the clips in the order of the "corpus", or "worst" first.

        Raises `InputError` for another order, and for "worst" before `find_worse` has run.
        """
        if order not in ORDERS:
            raise InputError(f"there is no order {order!r}; choose {_listed(ORDERS)}.")
        if order == "worst" and self.comparison is None:
            raise InputError("which clips got worse is not known yet; find them first.")
        self.order = order
        self._changed()

    def find_worse(self) -> Task:
        """Run the first and the last model over the whole of the present corpus, or read what a study has of them.

        Then the clips are listed "worst" first, and unless another was chosen meanwhile the worst one is taken.
        Raises `InputError` where there is only one model.
        """
        if len(self.models) < 2:
            raise InputError("there is only one model; make a smaller one to find the clips that got worse.")
        if self.search is not None and not self.search.finished and not self.search.cancelled:
            return self.search
        names, clip = list(self.models), self.clip
        pair = {name: self.models[name] for name in (names[0], names[-1])}

        def work(task: Task) -> Comparison:
            task.listeners.append(lambda job: self._changed())
            return compare_models(
                pair, self.speech[clip.corpus], stored=lambda name: self.stored(name, clip.corpus),
                language=lambda model: self._language(model, clip.corpus), job=task,
            )  # fmt: skip

        def then(found: Comparison) -> None:
            with self.lock:
                if any(self.models.get(name) is not model for name, model in pair.items()):
                    return
                self._comparisons[clip.corpus] = found
                self._remember(found, list(pair.values()), clip.corpus)
                if self.clip.corpus != clip.corpus:
                    return
                self.order = "worst"
                untouched = self.clip is clip
            if untouched and found.worse:
                self.choose(clip.corpus, found.order[0])

        task = self.worker.submit(f"Find the clips of {clip.corpus} that got worse", work, then)
        with self.lock:
            self.search = task
        self._watch()
        return task

    def wait(self, seconds: float = 60) -> None:
        """Block until the clip at hand is transcribed; raises what `Task.wait` raises."""
        if self._task is not None:
            self._task.wait(seconds)

    def _load(self, corpus: str, position: int) -> Clip:
        utterance = self.speech[corpus][position]
        try:
            return Clip(corpus, position, utterance, utterance.samples())
        except InputError as error:
            return Clip(corpus, position, utterance, None, str(error))

    def _read_clip(self) -> None:
        """Drop what was asked for an earlier clip, and ask for what is not known of this one."""
        # No call to the worker under the lock: the worker tells its observers, us too, under its own.
        with self.lock:
            self._choice += 1
            number, clip, before = self._choice, self.clip, self._task
            known = {n: (m, self._known(n, m, clip)) for n, m in self.models.items()}
            self._live = {id(model): reading for model, reading in known.values()}
            missing = {n: pair for n, pair in known.items() if pair[1].state != "done"}
            self._task = None
        if before is not None and not before.finished:
            self.worker.cancel(before.number)
        if missing and clip.samples is not None and not self.asleep:
            name = f"Transcribe {clip.utterance.id}"
            task = self.worker.submit(name, lambda task: self._transcribe(missing, clip, number, task), quiet=True)
            with self.lock:
                late = number != self._choice
                if not late:
                    self._task = task
            if late:
                task.cancel()
        self._changed()

    def _known(self, name: str, model: Whisper, clip: Clip) -> Reading:
        found = self._cache.get((id(model), clip.corpus, clip.position))
        if found is not None:
            return found if found.seconds is not None else replace(found, state="waiting")
        stored = self.stored(name, clip.corpus)
        if stored is None or not stored.fits(self.speech[clip.corpus]):
            return Reading()
        row = stored.rows[clip.position]
        return Reading("waiting", row["hypothesis"], stored.language, row["looped"])

    def _transcribe(self, missing: Mapping[str, tuple[Whisper, Reading]], clip: Clip, number: int, task: Task) -> None:
        """Transcribe with one model after the other; one that fails keeps none from its turn."""
        assert clip.samples is not None
        sound = _Loaded(clip.utterance.id, len(clip.samples) / SAMPLE_RATE, clip.samples)
        failure: Exception | None = None
        for name, (model, known) in missing.items():
            reading = replace(known, state="running")
            self._keep(model, clip, number, reading)
            try:
                language = self._language(model, clip.corpus)
                while reading.seconds is None:
                    began = time.perf_counter()
                    said = transcribe(model, [sound], language=language, job=task)[0]
                    seconds = time.perf_counter() - began
                    if reading.text is None:
                        reading = replace(reading, text=said.text, language=said.language, looped=said.looped)
                    if id(model) in self._warm:  # the first run also pays for what all later ones find ready
                        reading = replace(reading, state="done", seconds=seconds)
                    self._warm.add(id(model))
                    self._keep(model, clip, number, reading)
            except Cancelled:
                raise
            except Exception as error:
                plain = isinstance(error, InputError)
                sentence = str(error) if plain else f"{type(error).__name__}: {error}"
                details = "" if plain else traceback.format_exc()
                self._keep(model, clip, number, replace(reading, state="failed", error=sentence, details=details))
                failure = InputError(f"{name} cannot transcribe {clip.utterance.id!r}: {sentence}")
        if failure is not None:
            raise failure

    def _remember(self, found: Comparison, models: Sequence[Whisper], corpus: str) -> None:
        for model, score in zip(models, found.scores, strict=True):
            for position, row in enumerate(score.hypotheses):
                reading = Reading("waiting", row.hypothesis, score.language, row.looped)
                self._cache.setdefault((id(model), corpus, position), reading)

    def _keep(self, model: Whisper, clip: Clip, number: int, reading: Reading) -> None:
        with self.lock:
            if not any(model is own for own in self.models.values()):
                return
            if reading.text is not None and reading.state != "failed":
                self._cache[id(model), clip.corpus, clip.position] = reading
            if number != self._choice:
                return
            self._live[id(model)] = reading
        self._changed()

    def _language(self, model: Whisper, corpus: str) -> str | None:
        """What to tell a model about the language: that of the corpus, heard once for all of its clips."""
        if not model.multilingual:
            return None
        if corpus not in self._languages:
            self._languages[corpus] = detect_language(model, self.speech[corpus])
        return self._languages[corpus]

    def _watch(self, _: Any = None) -> None:
        """A task that somebody else stopped, or that failed, says so only through the worker."""
        search, task = self.search, self._task
        if search is not None and search.state != self._search_state:
            self._search_state = search.state
            self._changed()
        if task is not None and task.state == "stopped":
            with self.lock:
                if task is not self._task:
                    return
                self._task = None
                self._live = {
                    key: replace(reading, state="stopped") if reading.state in ("waiting", "running") else reading
                    for key, reading in self._live.items()
                }
            self._changed()

    def _changed(self) -> None:
        with self.lock:
            self.revision += 1


def _models_of(workbench: Any, present: Mapping[str, Whisper]) -> dict[str, Whisper]:
    """The original and the small model, under the name of its try.

    A model that has a name keeps it: `current` moves on to another try before that one's model is loaded.
    """
    models = {"original": workbench.model}
    if workbench.small is not None:
        had = next((name for name, model in present.items() if model is workbench.small), "")
        models[had or workbench.current or "small model"] = workbench.small
    return models


def _require(given: Mapping[str, Any], what: str, kind: type, maker: str) -> None:
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{what} must map names to one {kind.__name__} or more; make one with {maker}.")
    for name, value in given.items():
        if not isinstance(value, kind):
            raise InputError(
                f"{what}[{name!r}] is of type {type(value).__name__}, not {kind.__name__}; make one with {maker}."
            )


def _listed(names: Iterable[str]) -> str:
    return " or ".join(repr(name) for name in names)
