"""The steps of the main job with what they share kept: observe once, then plan, compress and tune many times."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptwin_widgets.allocate import given_budgets, require_budgets, uniform
from adaptwin_widgets.anatomy import twins_of
from adaptwin_widgets.clock import measure_times
from adaptwin_widgets.compress import compress
from adaptwin_widgets.distill import Lessons
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.observe import Statistics, observe
from adaptwin_widgets.pieces import Crew
from adaptwin_widgets.plan import ADAPTWIN, RankPlan, shape_of
from adaptwin_widgets.prices import COUNTS, PARAMETERS, Prices, Times
from adaptwin_widgets.sensitivity import Sensitivity, measure_damage, measure_sensitivity
from adaptwin_widgets.settings import LESSONS, Settings, require_shares, settings_for
from adaptwin_widgets.spectra import Spectra, spectra
from adaptwin_widgets.speech import Corpus, distinct
from adaptwin_widgets.tune import prepare, tune
from adaptwin_widgets.vocabulary import Vocabulary, choose_vocabulary
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.windows import ROUGH, WINDOWS, require_observable

ALLOCATIONS = ("measured", "energy")
METHODS = ("ours", "even", "uniform", "adaptwin")
# Of an even plan, one head in so many may go; in pairs, for threads share heads and an odd one makes one wait.
HEADS = 3
COUNTED = (*COUNTS, "time")  # what a budget can be a fraction of


class Recipe:
    """A model and the speech to adapt it to; statistics, spectra and sensitivity are made when first needed.

    speech: corpora, the target speaker's first. allocation: "measured" (damage of every twin, measured once) or
    "energy" (quick). rough: the share of windows, in statistics and tuning, that are heard through noise, a telephone
    or a room; the others as they are. transcripts: how much of what tuning teaches is their word, where there are any,
    and not the original's (`Settings`).

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> recipe = aw.Recipe(aw.load("tiny.en"), [aw.demo_speech()["target_train"]])               # doctest: +SKIP
    >>> small = recipe.tune(recipe.compress(recipe.plan(encoder=0.3)), minutes=1)         # doctest: +SKIP

    Raises InputError for an unknown allocation, less than one window, and a weight or transcripts that are no share.
    """

    def __init__(
        self,
        model: Whisper,
        speech: Sequence[Corpus],
        *,
        target_weight: float = 0.5,
        allocation: str = "measured",
        windows: int = WINDOWS,
        rough: float = ROUGH,
        transcripts: float = Settings.transcripts,
        seed: int = 0,
        job: Job | None = None,
    ):
        if allocation not in ALLOCATIONS:
            raise InputError(f"allocation={allocation!r} does not exist; choose one of {', '.join(ALLOCATIONS)}.")
        require_observable(windows, target_weight)
        require_shares(transcripts=transcripts)
        self.model, self.speech, self.target_weight = model, distinct(speech), target_weight
        self.allocation, self.windows, self.rough, self.seed, self.job = allocation, windows, rough, seed, job
        self.transcripts = transcripts
        self.crew: Crew | None = None  # who measures the sensitivity instead of this process
        self._damage = Sensitivity()

    @property
    def shape(self) -> dict[str, int]:
        return shape_of(self.model.config)

    @cached_property
    def stats(self) -> Statistics | None:
        """Statistics of the speech; without any speech the twins are seen by their weights alone."""
        if not self.speech:
            return None
        return observe(
            self.model, self.speech, windows=self.windows, target_weight=self.target_weight, rough=self.rough,
            seed=self.seed, job=self.job,
        )  # fmt: skip

    @cached_property
    def spectra(self) -> Spectra:
        return spectra(self.model, self.stats, job=self.job)

    def sensitivity(self, sides: Sequence[str] = ("encoder", "decoder"), together: bool = True) -> Sensitivity | None:
        """Measured damage of the twins of these sides, and of many at once, which a plan is chosen without; None where
        energies are to decide."""
        if self.allocation == "energy" or self.stats is None:
            return None
        unknown = {twin.side for twin in twins_of(self.model.config) if twin not in self._damage.curves}
        unknown |= set(sides) - set(self._damage.together) if together else set()
        if missing := [side for side in sides if side in unknown]:  # one that was interrupted is known in part
            found = measure_sensitivity(
                self.model, self.spectra, self.stats, self.speech, sides=missing, together=together,
                executor=self.crew, job=self.job,
            )  # fmt: skip
            known = self._damage
            self._damage = Sensitivity(known.curves | found.curves, found.fingerprint, known.together | found.together)
        return self._damage

    @property
    def options(self) -> dict[str, Any]:
        """What it was made with, beside model and speech: ``Recipe(model, speech, **options)`` is the same recipe.

        >>> Recipe(None, [], windows=8).options["windows"]
        8
        """
        names = ("target_weight", "allocation", "windows", "rough", "transcripts", "seed")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def settings(self) -> Settings:
        return Settings(**self._mine)

    @property
    def _mine(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name in LESSONS}

    @cached_property
    def lessons(self) -> Lessons:
        """The speech prepared for tuning, once for every tune."""
        return prepare(self.model, self.speech, self.settings, self.job)

    def prepare(self, speech: Sequence[Corpus], settings: Settings) -> Lessons:
        """Speech made ready for tuning with these settings; what `lessons` holds already is not made again."""
        alike = all(getattr(settings, n) == getattr(self.settings, n) for n in LESSONS)
        if alike and [c.name for c in speech] == [c.name for c in self.speech]:
            return self.lessons
        self.__dict__.pop("lessons", None)  # the teacher's states of two kinds at once would take twice the memory
        return prepare(self.model, speech, settings, self.job)

    def vocabulary(self, wish: str | Vocabulary) -> Vocabulary:
        """The tokens to keep: a language, or a language and a size, "en" or "en:12000"."""
        if isinstance(wish, Vocabulary):
            return wish
        language, colon, size = wish.partition(":")
        if colon and not size.isdigit():
            raise InputError(f"vocabulary={wish!r} has no size; write {language}:12000, or {language} alone.")
        most = int(size) if colon else None
        if "stats" not in self.__dict__:
            choose_vocabulary(self.model, language, size=most)  # says what is wrong before the minutes of observing
        return choose_vocabulary(self.model, language, size=most, stats=self.stats)

    def plan(
        self, method: str = "ours", vocabulary: str | Vocabulary | None = None, embedding: int | None = None,
        of: str | Prices = "parameters", **budget: Any,
    ) -> RankPlan:  # fmt: skip
        """A plan for a budget, such as ``encoder=0.3``; see `RankPlan.for_budget`.

        method: "ours"; "even": the same, with ranks that runtimes run without padding (see `RankPlan.for_budget`), and
        where damage is measured with as many pairs of heads fewer in every layer of the encoder as do the least;
        "uniform": every twin loses the same share, as a baseline to see what choosing is worth; or "adaptwin": the
        paper's recipe as far as it is known (arXiv 2406.08904; no code is public), a reconstruction: every twin loses
        the same share, is cut by its weights alone, and tuned with LoRA, layer by layer first (`Settings.adaptwin`).
        vocabulary: "en" or "en:12000" cuts the vocabulary for a language; embedding: the rank of the token embedding.
        Both count towards ``model=`` and need no budget beside them. of: what the budget is a fraction of: parameters;
        "multiply-adds" for 30 s of audio and what is written of it; "time", measured here in torch, or what
        `measure_times` found in another runtime.
        """
        if method not in METHODS:
            raise InputError(f"method={method!r} does not exist; choose one of {', '.join(METHODS)}.")
        smaller = vocabulary is not None or embedding is not None
        if method in ("uniform", "adaptwin") and smaller:
            raise InputError(f'method="{method}" leaves the embedding whole; take "ours" or "even".')
        # Now, not after the minutes that observing takes.
        if of != "parameters" and (smaller or method in ("uniform", "adaptwin") or "tau" in budget):
            raise InputError('Budgets of other things than parameters are for "ours" and "even" without the embedding.')
        if not smaller:
            given_budgets(**budget)  # before a clock is asked
        prices = PARAMETERS if smaller else self.prices(of)
        require_budgets(self.model.config, smaller, prices=prices, **budget)
        if method in ("uniform", "adaptwin") and "tau" in budget:
            raise InputError(f'method="{method}" removes the same share everywhere; give a budget, not tau.')
        RankPlan({}, self.shape, self.model.source, embedding=embedding)
        words = None if vocabulary is None else self.vocabulary(vocabulary)
        if method == "adaptwin":
            return replace(uniform(spectra(self.model), **budget), method=ADAPTWIN)
        if method == "uniform":
            return uniform(self.spectra, **budget)
        sides = [side for side in ("encoder", "decoder") if {side, "model", "tau"} & set(budget)]
        damage = self.sensitivity(sides, together=False) if sides else None
        how: dict[str, Any] = {"sensitivity": damage, "embedding": embedding, "vocabulary": words, "prices": prices}
        if method == "even":
            return self.even(**how, **budget)
        return RankPlan.for_budget(self.spectra, **how, **budget)

    def even(self, sensitivity: Sensitivity | None, **how: Any) -> RankPlan:
        """An even plan with as many pairs of heads fewer in every layer of the encoder as do the least damage.

        sensitivity: where it is None, damage is not to be measured, and all heads stay. how: what else
        `RankPlan.for_budget` takes.
        """
        how |= {"sensitivity": sensitivity, "even": True}
        plans = [RankPlan.for_budget(self.spectra, **how)]
        if sensitivity is not None and {how.get("encoder"), how.get("model")} != {None}:
            with suppress(InputError):  # so many heads are more than was asked for
                for fewer in range(2, self.model.config.encoder_attention_heads // HEADS + 1, 2):
                    plans.append(RankPlan.for_budget(self.spectra, fewer_heads=fewer, **how))
        if len(plans) == 1:
            return plans[0]
        found = self.damage(*plans)
        return plans[found.index(min(found))]

    def damage(self, *plans: RankPlan) -> list[float]:
        """What plans do to what the decoder says, measured: the KL divergence from what the original says, nats a
        token, on a few single utterances of the speech. What a cut vocabulary can no longer say is not in it.

        >>> speech = [aw.demo_speech()["target_train"]]                                              # doctest: +SKIP
        >>> recipe = aw.Recipe(aw.load("tiny.en"), speech, windows=2, allocation="energy")           # doctest: +SKIP
        >>> recipe.damage(recipe.plan(encoder=0.3), recipe.plan("uniform", encoder=0.3))             # doctest: +SKIP
        [0.0922..., 0.2392...]

        Raises InputError where there is no speech.
        """
        if not self.speech:
            raise InputError("Damage is measured on speech; give the recipe at least one corpus.")
        spoken = [replace(plan, vocabulary=None) for plan in plans]
        stats, twins = self._observed(plans)
        return measure_damage(self.model, spoken, twins, stats, self.speech, executor=self.crew, job=self.job)

    def _observed(self, plans: Sequence[RankPlan]) -> tuple[Statistics | None, Spectra | None]:
        """What was observed, without the minutes that it takes where all of these plans cut by weights alone."""
        if all(plan.method == ADAPTWIN for plan in plans):
            return None, None
        return self.stats, self.spectra

    def prices(self, of: str | Prices) -> Prices:
        """What a budget counts, by its name (`COUNTED`)."""
        if not isinstance(of, str):
            return of
        if of not in COUNTED:
            raise InputError(f"A budget can be of {', '.join(COUNTED)}, not of {of!r}.")
        return self._times if of == "time" else COUNTS[of]

    @cached_property
    def _times(self) -> Times:
        return measure_times(self.model, job=self.job)

    def compress(self, plan: RankPlan) -> Whisper:
        """The model at a plan's ranks, before tuning."""
        plan.check(self.model.config, self.model.source)  # now, not after the minutes that observing takes
        stats, twins = self._observed([plan])
        return compress(self.model, plan, stats, spectra=twins, job=self.job)

    def tune(
        self,
        small: Whisper,
        *,
        minutes: float | None = None,
        steps: int | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> Whisper:
        """Tune on the recipe's speech, of which what an earlier tune prepared is at hand; see `tune.tune`."""
        return tune(
            small, teacher=self.model, speech=self.speech, minutes=minutes, steps=steps, checkpoint=checkpoint,
            resume=resume, settings=settings_for(small, **self._mine),
            lessons=self.lessons, job=self.job,
        )  # fmt: skip
