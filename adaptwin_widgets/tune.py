"""Fine-tuning a compressed model towards its original, for minutes or for steps, stoppable and resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptwin_widgets.distill import Lessons
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.model import is_compressed
from adaptwin_widgets.precision import release
from adaptwin_widgets.run import Progress, Run
from adaptwin_widgets.settings import LESSONS, Settings, check_limits, settings_for
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.threads import workers
from adaptwin_widgets.whisper import Whisper


def tune(
    small: Whisper,
    *,
    teacher: Whisper,
    speech: Corpus | Sequence[Corpus],
    minutes: float | None = None,
    steps: int | None = None,
    settings: Settings | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    lessons: Lessons | None = None,
    watch: Callable[[Whisper], float] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    job: Job | None = None,
) -> Whisper:
    """Tune a compressed model on speech with its original as the teacher; returns a new model.

    speech: one corpus or several, the first is the target speaker's. minutes or steps: when to stop; minutes
    include everything from the call to the return, and what a resumed run had used before. settings: see `Settings`;
    default: those of the method that chose the model's ranks. checkpoint: a file that
    keeps the state of the run, written every 20 seconds and at the end, from which `resume` goes on. lessons: what
    an earlier tune prepared of the same speech. watch: measures a model as it is (its word errors, say) at every
    look at the held-out loss, kept in the history as "wer". on_progress: called after every step. A cancelled job
    ends the run early with the best state so far. The result's ``notes["tuning"]`` tells steps, seconds, audio seen
    and losses.

    >>> import adaptwin_widgets as aw                                                             # doctest: +SKIP
    >>> speech = aw.demo_speech()["target_train"]                                                 # doctest: +SKIP
    >>> small = aw.tune(small, teacher=model, speech=speech, minutes=3)                           # doctest: +SKIP

    Raises InputError for a model that is not compressed or of another shape than its teacher, for missing or
    impossible limits, and for a checkpoint that does not fit.
    """
    began = time.monotonic()
    settings = settings or settings_for(small)
    corpora = [speech] if isinstance(speech, Corpus) else list(speech)
    check_tune(small, teacher, minutes, steps, corpora)
    job = ensure(job)
    lessons = lessons or prepare(teacher, corpora, settings, job)
    run = Run(small, lessons, settings, Path(checkpoint) if checkpoint else None, job, watch)
    if resume:
        run.restore()
    limit = minutes * 60 if minutes is not None else None
    with workers(small.device, settings.batch_size) as (pool, number):
        run.pool = pool if number > 1 else None
        run.go(began, limit, steps, on_progress)
    notes = {**small.notes, "tuning": {**run.summary(), "settings": asdict(settings)}}
    notes.pop("scores", None)  # they were another state's
    tuned = Whisper(run.best_model(), small.processor, f"{small.name}, tuned", notes)
    del run  # and with it the optimiser's state
    release(tuned.device)
    return tuned


def prepare(
    teacher: Whisper, corpora: Sequence[Corpus], settings: Settings, job: Job | None = None, **more: Any
) -> Lessons:
    """The speech made ready for tuning with these settings; many tunes can share it. more: see `Lessons`."""
    return Lessons(teacher, corpora, **{name: getattr(settings, name) for name in LESSONS}, job=job, **more)


def check_tune(
    small: Whisper, teacher: Whisper, minutes: float | None, steps: int | None, corpora: Sequence[Corpus]
) -> None:
    if not is_compressed(small.config):
        raise InputError(f"{small.source} is not compressed; compress it first, then tune it.")
    if is_compressed(teacher.config):
        raise InputError(f"The teacher {teacher.source} is compressed itself; give the original model.")
    if (small.config.d_model, small.config.encoder_layers) != (
        teacher.config.d_model,
        teacher.config.encoder_layers,
    ):
        raise InputError(f"{small.source} was not made from {teacher.source}; give the original it was made from.")
    check_limits(minutes, steps)
    if not corpora:
        raise InputError("There is no speech to tune on; give at least one corpus.")
