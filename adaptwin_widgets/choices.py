"""What the next tune shall be: speech, the target speaker's share, a limit, a method. Checked, not yet run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from traitlets import Dict, Float, HasTraits, List, TraitError, Unicode

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.mismatch import check_speech
from adaptwin_widgets.settings import Settings
from adaptwin_widgets.speech import Corpus, prompt_key
from adaptwin_widgets.whisper import Whisper

UNITS = ("minutes", "steps")
WORST = 5  # so many suspects of a corpus are shown


class Choices(HasTraits):
    """The settings of the next try; a view edits them, `arguments` are those of `Workbench.attempt`.

    corpora: names of the speech to tune on; target_weight: the share of windows that are the target speaker's, 0 to
    1; transcripts: how much of what tuning teaches is their word, 0 to 1; unit: whether `minutes` or `steps` ends the
    tune; method: one of the workbench's; note: kept with the try. Any number can be put in, so that a half-typed one is
    no error yet: `problem` says what is wrong. doubts: what `check` found, a row for each corpus with transcripts: its
    name, a sentence, its worst suspects.

    >>> choices = Choices([Corpus([], "ann")], ("ours", "uniform"))
    >>> choices.put(minutes=3)
    >>> choices.label, choices.arguments()["minutes"]
    ('Compress, tune 3 min, score', 3.0)
    >>> choices.put(minutes=-1)
    >>> choices.problem
    'A tune of -1 minutes is none; give a number above 0.'

    speech: the corpora there are, the target speaker's first. `put` raises InputError for a name that does not exist
    or a value of a wrong kind, `arguments` for what `problem` says.
    """

    corpora = List(Unicode())
    target_weight = Float(0.5, allow_none=True)
    transcripts = Float(Settings.transcripts, allow_none=True)
    unit = Unicode("minutes")
    minutes = Float(5.0, allow_none=True)
    steps = Float(200.0, allow_none=True)
    method = Unicode()
    note = Unicode()
    doubts = List(Dict()).tag(found=True)  # nobody's choice

    def __init__(self, speech: Sequence[Corpus], methods: Sequence[str]):
        super().__init__()
        self.speech, self.methods = list(speech), tuple(methods)
        self.corpora = [corpus.name for corpus in self.speech]
        self.method = self.methods[0]
        self.check()

    def put(self, **values: Any) -> None:
        """Change some of them: ``choices.put(unit="steps", steps=100)``."""
        for name, value in values.items():
            if name not in (names := self.trait_names(found=None)):
                raise InputError(f"{name!r} cannot be chosen; choose {', '.join(sorted(names))}.")
            try:
                self.set_trait(name, value)
            except TraitError:
                kind = {"corpora": "a list of names", "unit": "text", "method": "text", "note": "text"}
                raise InputError(f"{name} cannot be {value!r}; give {kind.get(name, 'a number')}.") from None

    def check(self, model: Whisper | None = None, job: Job | None = None) -> None:
        """Look for transcripts that do not match: at once by the speed of speech, with a model by what it hears."""
        found = []
        for corpus in self.speech:
            written = Corpus([u for u in corpus if u.text], corpus.name)  # what has no transcript cannot be wrong
            result = check_speech(written, model, job=job)
            if result.suspects or (model is not None and written):
                worst = [{"id": s.id, "reason": s.reason, "text": s.text, "heard": s.heard} for s in result.suspects]
                found.append({"name": corpus.name, "sentence": f"{result.sentence}.", "worst": worst[:WORST]})
        self.doubts = found

    @property
    def chosen(self) -> list[Corpus]:
        """The corpora to tune on, in the order of the speech."""
        return [corpus for corpus in self.speech if corpus.name in self.corpora]

    @property
    def mixes(self) -> bool:
        """Whether the target speaker's share means something: the target's speech is chosen, and other speech."""
        return len(self.chosen) > 1 and self.chosen[0] is self.speech[0]

    @property
    def written(self) -> bool:
        """Whether the chosen speech has transcripts."""
        return any(prompt_key(u.text) for corpus in self.chosen for u in corpus)

    @property
    def limit(self) -> float | None:
        return self.steps if self.unit == "steps" else self.minutes

    @property
    def label(self) -> str:
        """What starting does."""
        if self.problem:
            return "Compress, tune, score"
        return f"Compress, tune {self.limit:g} {'steps' if self.unit == 'steps' else 'min'}, score"

    @property
    def problem(self) -> str:
        """One sentence on what cannot be done and what to do; empty when all is well."""
        names = [corpus.name for corpus in self.speech]
        if unknown := [name for name in self.corpora if name not in names]:
            return f"There is no speech {unknown[0]!r}; choose from {', '.join(names)}."
        if self.method not in self.methods:
            return f"There is no method {self.method!r}; choose {' or '.join(self.methods)}."
        if self.unit not in UNITS:
            return f"A tune cannot be limited by {self.unit!r}; choose minutes or steps."
        if not self.speech:
            return "There is no speech to tune on; give the workbench some."
        if not self.chosen:
            return "No speech is chosen; choose at least one corpus to tune on."
        shares = (
            ("target speaker's", self.target_weight, self.mixes),
            ("transcripts'", self.transcripts, self.written),
        )
        for whose, share, means in shares:
            if means and (share is None or not 0 <= share <= 1):
                said = "empty" if share is None else f"{100 * share:g} %"
                return f"The {whose} share is {said}; give a number from 0 to 100 %."
        limit = self.limit
        if limit is None:
            return f"How long to tune is empty; give a number of {self.unit}."
        if not 0 < limit < math.inf:
            return f"A tune of {limit:g} {self.unit} is none; give a number above 0."
        if self.unit == "steps" and limit != int(limit):
            return f"A tune cannot end after {limit:g} steps; give a whole number."
        return ""

    def arguments(self, tune: bool = True) -> dict[str, Any]:
        """Keywords for `Workbench.attempt`; without `tune` those of a try that is compressed and scored only."""
        if not tune:
            if self.method not in self.methods:
                raise InputError(self.problem)
            return {"method": self.method, "note": self.note}
        if self.problem:
            raise InputError(self.problem)
        assert self.limit is not None  # `problem` says so
        word = {"transcripts": self.transcripts} if self.written else {}
        limit = {"steps": int(self.limit)} if self.unit == "steps" else {"minutes": self.limit}
        return {
            **limit, **word, "method": self.method, "target_weight": self._weight(),
            "corpora": [corpus.name for corpus in self.chosen], "note": self.note,
        }  # fmt: skip

    def _weight(self) -> float:
        """The weight of the first chosen corpus; where none is the target's, each counts by its duration."""
        if self.mixes and self.target_weight is not None:
            return self.target_weight
        seconds = sum(corpus.seconds for corpus in self.chosen)
        return self.chosen[0].seconds / seconds if seconds else 1.0
