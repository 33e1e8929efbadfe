"""A study of several sizes, one after the other or many at once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptwin_widgets.allocate import require_budgets
from adaptwin_widgets.attempt import Attempts, Try, about_study, require_apart
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.pieces import PREFIX, Crew, Shared, corpus_of, turn, with_threads
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.recipe import Recipe
from adaptwin_widgets.settings import Settings, check_limits
from adaptwin_widgets.speech import Corpus, distinct
from adaptwin_widgets.study import Record, Study, point_name
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.windows import WINDOWS


def run_study(
    model: Whisper,
    speech: Sequence[Corpus],
    evaluations: Mapping[str, Corpus],
    *,
    points: Sequence[float],
    folder: str | Path,
    minutes: float | None = None,
    steps: int | None = None,
    target_weight: float = 0.5,
    allocation: str = "measured",
    windows: int = WINDOWS,
    transcripts: float = Settings.transcripts,
    seed: int = 0,
    recipe: Recipe | None = None,
    executor: Executor | int | None = None,
    threads: int | None = None,
    job: Job | None = None,
) -> Study:
    """Compress, tune and evaluate at every point; each is a record, and the frontier is redrawn after each.

    model: a `Whisper`. speech: corpora to observe and tune on, the target speaker's first. evaluations: by name,
    the corpora to score. points: fractions of the encoder's parameters to remove. minutes or steps: of tuning, a
    point; neither: no tuning. recipe: one of this model and speech that was used before; what it has observed is
    not observed again, and its settings take the place of target_weight, allocation, windows, transcripts and seed.
    The original is always the first record. executor: any of `concurrent.futures`, a dask cluster's or a number of
    processes here, to work on several points at once; its workers have to see the folder and the recordings (see the
    page on clusters). threads: of torch; with the same number, steps and seed the records are the same whatever the
    executor.
    Killed and called again, it goes on with the point, and within it the tuning step, at which it stopped.

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> demo = aw.demo_speech()                                                           # doctest: +SKIP
    >>> study = aw.run_study(aw.load("tiny.en"), [demo["target_train"]], {"target": demo["target_dev"]},
    ...                      points=[0.3], minutes=1, folder="run")                       # doctest: +SKIP

    Raises InputError when evaluation speech shares a recording or a prompt with the speech that is tuned on, when
    the recipe is of another model or other speech, when the workers are lost, and before anything is done for points
    or limits that cannot be.
    """
    check_limits(minutes, steps, needed=False)
    for fraction in points:
        require_budgets(model.config, encoder=fraction)
    if recipe is None:
        recipe = Recipe(
            model, speech, target_weight=target_weight, allocation=allocation, windows=windows,
            transcripts=transcripts, seed=seed,
        )  # fmt: skip
    elif recipe.model is not model or [c.name for c in recipe.speech] != [c.name for c in distinct(speech)]:
        raise InputError("The recipe was made of another model or other speech; give run_study the same ones.")
    require_apart(speech, evaluations)
    about = {
        **about_study(recipe, evaluations),
        **recipe.options,
        **{name: value for name, value in (("minutes", minutes), ("steps", steps)) if value is not None},
    }
    recipe.job, job = job, ensure(job)
    attempts = Attempts(Study(folder, about), recipe, evaluations)
    tries = {
        f: Try(point_name(f), minutes, steps, recipe.target_weight, recipe.transcripts, seed=recipe.seed)
        for f in sorted(points)
    }
    with with_threads(threads):
        attempts.original(job)
        todo = {fraction: how for fraction, how in tries.items() if how.name not in attempts.study}
        for old in attempts.study.folder.glob(f"{PREFIX}*"):
            shutil.rmtree(old, ignore_errors=True)  # of a call that was killed: its pieces stop now
        if executor is None:
            for fraction, how in todo.items():
                attempts.make(how, recipe.plan(encoder=fraction), job=job)
        elif todo:
            with Crew(executor, attempts.study.folder, threads) as crew:
                _make_all(attempts, todo, crew, job)
    return attempts.study


def _make_all(attempts: Attempts, todo: Mapping[float, Try], crew: Crew, job: Job) -> None:
    """Make the tries of these fractions, one a piece."""
    recipe = attempts.recipe
    crew.share(
        recipe.model, recipe.speech, recipe.stats, recipe.spectra, settings=recipe.options,
        study=str(attempts.study.folder.resolve()),
        evaluations={name: crew.manifest(corpus) for name, corpus in attempts.evaluations.items()},
    )  # fmt: skip
    recipe.crew = crew
    try:
        plans = {how.name: recipe.plan(encoder=fraction) for fraction, how in todo.items()}
    finally:
        recipe.crew = None
    pieces = [(asdict(how), plans[how.name].to_dict()) for how in todo.values()]
    for row in crew.run(make_point, pieces, job, "Points of the study"):
        attempts.keep(Record(**row))


def make_point(folder: str, how: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """The record of a try: a piece of `run_study`, see `pieces`."""
    with turn(folder) as (shared, job):
        study = Study(shared.more["study"])
        if how["name"] in study:  # recorded, but the executor lost the answer
            return asdict(study[how["name"]])
        attempts = shared.once("attempts", lambda: _attempts(shared, folder))
        return asdict(attempts.produce(Try(**how), RankPlan.from_dict(plan), job=job)[1])


def _attempts(shared: Shared, folder: str) -> Attempts:
    recipe = Recipe(shared.model, shared.speech, **shared.more["settings"])
    assert shared.spectra is not None  # `_make_all` shares them
    recipe.stats, recipe.spectra = shared.stats, shared.spectra
    evaluations = {name: corpus_of(folder, entry) for name, entry in shared.more["evaluations"].items()}
    return Attempts(Study(shared.more["study"]), recipe, evaluations)
