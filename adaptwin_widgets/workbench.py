"""Everything one person works on: a model, its speech, the plan, the tries. The truth behind every view.

It knows no widget. Views observe its traits and call its methods; whatever is slow runs on its `Worker`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Any as AnyTrait
from traitlets import Dict, HasTraits, Int, List, Unicode

from adaptwin_widgets.allocate import uniform
from adaptwin_widgets.attempt import Attempts, Try, about_study, default_folder, new_name, require_apart
from adaptwin_widgets.choices import Choices
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.live import Live, unfinished
from adaptwin_widgets.model import is_compressed
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.planner import Planner
from adaptwin_widgets.recipe import Recipe
from adaptwin_widgets.sensitivity import Sensitivity
from adaptwin_widgets.settings import Settings, require_shares
from adaptwin_widgets.spectra import spectra
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.speed import speed_table
from adaptwin_widgets.study import Record, Study
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.worker import Task, Worker

METHODS = ("ours", "even", "uniform")
WINDOWS = 40  # to observe of each corpus: a third of `windows.WINDOWS`, for somebody is waiting
OBSERVE, SCORE = "Observe the speech", "Score the original"


class Workbench(HasTraits):
    """One model and what is done with it; opening the same folder again in one kernel gives the same workbench.

    model: an original `Whisper`. speech: corpora to observe and tune on, the target speaker's first. evaluations:
    by name, the corpora to score on. folder: of the study (default: below ``runs/studio``, named after model and
    speech, so that the same call finds the same study again). windows: 30 s windows of each corpus to observe,
    fewer than elsewhere, for somebody is waiting; 120 take three times as long and make better small models.

    spectra: those shown, weight-only until the speech was observed. small: the compressed model at hand, None at the
    original. speed: the last table of `time_parts`. current: the try that plan and model belong to, "" once the plan
    was changed since. revision: counts up with every new or changed record. tuning: the state of the tune.
    unfinished: tries that can be gone on with.

    >>> import adaptwin_widgets as aw                                                       # doctest: +SKIP
    >>> demo = aw.demo_speech()                                                             # doctest: +SKIP
    >>> bench = Workbench(aw.load("tiny.en"), [demo["target_train"]], {"target": demo["target_dev"]})  # doctest: +SKIP
    >>> bench.planner.commit(bench.planner.budget("encoder", 0.3))                          # doctest: +SKIP
    >>> bench.attempt(minutes=3).wait()                                                     # doctest: +SKIP

    Raises InputError for a compressed model, for no speech or no evaluation speech, for speech that is in both, and
    for a folder that holds another study.
    """

    METHODS: ClassVar = METHODS
    _open: ClassVar[dict[Path, Workbench]] = {}
    spectra = AnyTrait()
    small = AnyTrait(None, allow_none=True)
    speed = AnyTrait(None, allow_none=True)
    current = Unicode("original")
    revision = Int(0)
    tuning = Dict()
    unfinished: Any = List()

    def __init__(
        self,
        model: Whisper,
        speech: Corpus | Sequence[Corpus],
        evaluations: Mapping[str, Corpus],
        *,
        folder: str | Path | None = None,
        windows: int = WINDOWS,
        seed: int = 0,
    ):
        super().__init__()
        corpora = [speech] if isinstance(speech, Corpus) else list(speech)
        self.model, self.evaluations = model, dict(evaluations)
        _check(model, corpora, self.evaluations)
        self.recipe = Recipe(model, corpora, windows=windows, seed=seed)
        self.speech = self.recipe.speech
        about = about_study(self.recipe, self.evaluations)
        self.folder = Path(folder) if folder is not None else default_folder(about)
        self.study = Study(self.folder, about)
        self.attempts = Attempts(self.study, self.recipe, self.evaluations)
        self.worker = Worker()
        self.choices = Choices(self.speech, METHODS)  # how the next try is to be tuned
        self.views: dict[str, Any] = {}  # for whoever shows it, so that showing it again shows the same
        self.spectra = spectra(model)
        self.planner = Planner(self.spectra)
        self._tuning: tuple[Task, Job] | None = None
        self._given = self.planner.plan  # the plan `current` belongs to
        self._held: tuple[str, dict] = ("original", {})  # the try `small` is of, and its ranks in the planner
        self.planner.observe(self._plan_changed, "revision")
        self.study.listeners.append(self._study_changed)
        self._look_for_unfinished()

    @classmethod
    def open(
        cls,
        model: Whisper,
        speech: Corpus | Sequence[Corpus],
        evaluations: Mapping[str, Corpus],
        **options: Any,
    ) -> Workbench:
        """The workbench of this model and speech that is open in this kernel, or a new one."""
        corpora = [speech] if isinstance(speech, Corpus) else list(speech)
        about = about_study(Recipe(model, corpora, seed=options.get("seed", 0)), evaluations)
        folder = Path(options.get("folder") or default_folder(about)).resolve()
        found, windows = cls._open.get(folder), options.get("windows", WINDOWS)
        if found is None or not found.study.folder.is_dir() or not about.items() <= found.study.about.items():
            found = cls._open[folder] = cls(model, corpora, evaluations, **options)
        elif found.recipe.windows != windows:
            raise InputError(
                f"{folder.name} is open with windows={found.recipe.windows}, not {windows}; give another folder=, or "
                "restart the kernel."
            )
        return found

    # -- what runs in the background ------------------------------------------------------------------------

    def start(self) -> None:
        """Observe the speech and score the original, unless that is done or under way."""
        under_way = {task.name for task in self.worker.tasks if not task.finished}
        if not self.spectra.aware and OBSERVE not in under_way:
            self.observe_speech()
        if "original" not in self.study and SCORE not in under_way:
            self.worker.submit(SCORE, self.attempts.original)

    def observe_speech(self) -> Task:
        """See the twins as the speech uses them."""

        def work(task: Task) -> Any:
            self.recipe.job = task
            return self.recipe.spectra

        return self.worker.submit(OBSERVE, work, self._observed)

    def _observed(self, found: Any) -> None:
        self.planner.learn(found)
        self.spectra = found

    def measure(self, sides: Sequence[str] = ("encoder", "decoder")) -> Task:
        """Measure what cutting each twin does to the decoder's output; from then on it drives the allocation."""

        def work(task: Task) -> Any:
            self.recipe.job = task
            if not self.spectra.aware:
                self._observed(self.recipe.spectra)
            return self.recipe.sensitivity(sides)

        return self.worker.submit(
            f"Measure the {' and the '.join(sides)}", work, lambda found: self.planner.learn(sensitivity=found)
        )

    def attempt(
        self,
        *,
        minutes: float | None = None,
        steps: int | None = None,
        method: str = "ours",
        target_weight: float = 0.5,
        transcripts: float = Settings.transcripts,
        corpora: Sequence[str] | None = None,
        note: str = "",
    ) -> Task:
        """Compress by the present plan, tune, score, and add the record; neither minutes nor steps: do not tune.

        method: "ours" takes the plan as it is; at its budget, "even" keeps all heads of a layer alike, which other
        runtimes run without padding, and "uniform" gives every twin the same share.
        target_weight: the first corpus's share. transcripts: how much is their word (`Settings`). corpora: names of
        the speech to tune on (default: all).
        """
        plan = self._plan_for(method)
        if minutes is not None and steps is not None:
            raise InputError("Say how long to tune: minutes or steps, one of the two.")
        if any(limit is not None and not limit > 0 for limit in (minutes, steps)):
            raise InputError("A tune needs a limit above 0; or only compress and score.")
        require_shares(target_weight=target_weight, transcripts=transcripts)
        known = [c.name for c in self.speech]
        if unknown := [name for name in corpora or [] if name not in known]:
            raise InputError(f"There is no speech called {unknown[0]!r}; there is {', '.join(known)}.")
        if corpora is not None and not corpora:
            raise InputError("There is no speech to tune on; choose at least one corpus.")
        taken = {r.name for r in self.study.records} | {how.name for how in self.attempts.unfinished()}
        taken |= {t.name.removeprefix("Try ") for t in self.worker.tasks if not t.finished}
        name = new_name(plan, method, taken)
        how = Try(
            name, minutes, steps, target_weight, transcripts, list(corpora or []), self.recipe.seed, note, method
        )  # fmt: skip
        return self._submit(how, plan, self.recipe.even if method == "even" and self._worth(plan.budget) else None)

    def resume(self, name: str) -> Task:
        """Go on with a try that was paused, or cut off by a restart."""
        how = self._waiting(name)
        return self._submit(how, RankPlan.load(self.study.point(name) / "plan.json"))

    def pause(self) -> None:
        """Stop the tune within one step and keep where it is; the try waits in `unfinished`."""
        if self._tuning:
            self._tuning[0].cancel()
            self.worker.changed()

    def stop(self) -> None:
        """Stop the tune within one step; its best state so far is scored and recorded."""
        if self._tuning:
            self._tuning[1].cancel()
            self.worker.changed()

    def discard(self, name: str) -> None:
        """Forget an unfinished try and its checkpoint."""
        self._waiting(name)
        shutil.rmtree(self.study.point(name))
        self._look_for_unfinished()

    def _waiting(self, name: str) -> Try:
        found = next((how for how in self.attempts.unfinished() if how.name == name), None)
        if found is None:
            raise InputError(f"There is no unfinished try called {name!r}.")
        if self.at_work(name):
            raise InputError(f"{name} is being worked on, or waits its turn; pause or cancel it first.")
        return found

    def at_work(self, name: str) -> bool:
        """Whether a try runs or is queued."""
        return any(task.name == f"Try {name}" and not task.finished for task in self.worker.tasks)

    # -- going back -----------------------------------------------------------------------------------------

    def go_back(self, name: str) -> Task | None:
        """Make a try's plan and model the present ones; the model loads in the background."""
        if name not in self.study:
            raise InputError(f"There is no try called {name!r} in this study.")
        record = self.study[name]
        plan = RankPlan({}, self.planner.shape, self.model.source, method="original")
        if record.plan is not None:
            plan = self.study.plan(name)
        self._hold(name, plan, None)  # until it is loaded
        self.planner.commit(plan)
        if record.plan is None:
            return None
        return self.worker.submit(f"Load {name}", lambda task: self.study.model(name), self._loaded(name))

    def _loaded(self, name: str) -> Callable[[Whisper], None]:
        def take(model: Whisper) -> None:
            if self._held[0] == name:
                self.small = model

        return take

    def take(self, model: Whisper) -> None:
        """Make a compressed model, made elsewhere from this original, the present one."""
        if not is_compressed(model.config):
            raise InputError(f"{model.source} is not compressed; open it in a Studio of its own.")
        ranks = {k: list(v) for k, v in model.config.ranks.items()}
        rank = model.config.embedding_rank
        plan = RankPlan(ranks, self.planner.shape, self.model.source, method="given", embedding=rank)
        plan.check(model.config, model.source)
        self._hold("", plan, model)
        self.planner.commit(plan)

    def _hold(self, name: str, plan: RankPlan, model: Whisper | None) -> None:
        self._given, self._held = plan, (name, plan.ranks)
        self.current, self.small = name, model

    def note(self, name: str, text: str) -> None:
        """Write a note on a try."""
        self.study.annotate(name, text)

    @property
    def present(self) -> Whisper:
        """The small model of the current try or plan, the original where there is none of it; raises InputError while
        the current try's is loading."""
        if self.matching:
            return self.small
        if self.current not in ("", "original"):
            raise InputError(f"{self.current} is not loaded yet; the list of jobs says what runs before.")
        return self.model

    @property
    def matching(self) -> bool:
        """Whether there is a small model, of the current try or, where there is none, of the plan as it is now."""
        known = self.study[self.current].plan if self.current in self.study else None
        plan = known or self.planner.plan.to_dict()
        wanted = RankPlan.from_dict(plan)
        config = getattr(self.small, "config", None)
        return config is not None and (config.ranks, config.embedding_rank) == (wanted.ranks, wanted.embedding)

    def save(self, folder: str | Path) -> Path:
        """Save the present model in a folder that `load` and transformers read; raises InputError where there is none
        of the plan, and while it is loading."""
        if not self.current and not self.matching:
            raise InputError("There is no small model of this plan yet; make a try, or go back to one.")
        return self.present.save_pretrained(folder)

    def time_parts(self, **options: Any) -> Task:
        """Time original and small model part by part; the table is then in `speed`. options: of `speed_table`."""
        models = {"original": self.model} | ({self.current or "small": self.small} if self.matching else {})
        return self.worker.submit(
            "Time the models",
            lambda task: speed_table(models, job=task, **options),
            lambda table: setattr(self, "speed", table),
        )

    # -- inside ---------------------------------------------------------------------------------------------

    def _plan_for(self, method: str) -> RankPlan:
        plan = self.planner.plan
        if method not in METHODS:
            raise InputError(f"method={method!r} does not exist; choose one of {', '.join(METHODS)}.")
        if not plan.ranks:
            raise InputError("The plan removes nothing yet; move a budget or a cut first.")
        if method == "ours":
            return plan
        removed = plan.reductions
        sides = [side for side in ("encoder", "decoder") if removed[f"{side}_reduction"] > 0]
        budgets: dict[str, Any] = {side: removed[f"{side}_reduction"] for side in sides}
        if method == "uniform":
            return uniform(self.spectra, **budgets)
        return RankPlan.for_budget(self.spectra, sensitivity=self._worth(sides), even=True, **budgets)

    def _worth(self, sides: Iterable[str]) -> Sensitivity | None:
        """The measured damage that an allocation for these sides goes by."""
        return self.planner.sensitivity if self.planner.measured(sides) else None

    def _submit(self, how: Try, plan: RankPlan, better: Callable[..., RankPlan] | None = None) -> Task:
        """better: makes a plan of the same budget from it that takes longer than anybody waits for a button."""
        tuning, live = Job(), Live(how, lambda state: setattr(self, "tuning", state))

        def work(task: Task) -> Whisper:
            self.tuning, self._tuning = {}, (task, tuning)
            if how.tuned:
                live.show("preparing")
                task.listeners.append(live.scoring)
            try:
                best = plan
                if better is not None:
                    self.recipe.job = task
                    best = better(self._worth(plan.budget), **plan.budget)
                return self.attempts.make(how, best, job=task, tuning=tuning, on_progress=live.stepped)
            finally:
                self._tuning = None
                if how.tuned:
                    live.show("done" if how.name in self.study else "paused" if task.cancelled else "failed")
                self._look_for_unfinished()

        def made(model: Whisper) -> None:
            # Somebody who has gone on to another plan meanwhile stays there.
            if self.planner.plan.ranks in wanted:
                self._hold(how.name, self.planner.plan, model)

        wanted = [plan.ranks] if how.method == "ours" else [plan.ranks, self.planner.plan.ranks]
        return self.worker.submit(f"Try {how.name}", work, made)

    def _plan_changed(self, _: Any) -> None:
        plan = self.planner.plan
        if plan.ranks == self._given.ranks:
            return
        if not plan.ranks:
            self._hold("original", plan, None)
        else:  # back at the ranks of the model at hand, by an undo perhaps, its try is the current one again
            self._given, self.current = plan, self._held[0] if plan.ranks == self._held[1] else ""

    def _study_changed(self) -> None:
        self.revision += 1

    def _look_for_unfinished(self) -> None:
        self.unfinished = unfinished(self.attempts)

    def record(self, name: str) -> Record:
        """A try's record."""
        return self.study[name]


def _check(model: Whisper, speech: list[Corpus], evaluations: Mapping[str, Corpus]) -> None:
    if is_compressed(model.config):
        raise InputError(f"{model.source} is compressed already; give the original, and open its study to go on.")
    if not speech or not evaluations:
        raise InputError("Give speech to learn from and, as eval={'target': ...}, speech to be scored on.")
    require_apart(speech, evaluations)
