"""Study: tries on disk, one record each, and the frontier they draw.

A folder holds ``study.json`` (what is studied), ``records.jsonl`` (one line a try, only ever appended to),
``points/<name>/`` (plan and model of every try) and ``frontier.html``.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.figures import frontier
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.recipe import Recipe
from adaptwin_widgets.score import evaluate, score_texts
from adaptwin_widgets.speech import Corpus, require_disjoint
from adaptwin_widgets.whisper import Whisper, load

FORMAT = 1
PACKAGES = ("adaptwin-widgets", "torch", "transformers", "jiwer", "whisper-normalizer")


@dataclass
class Record:
    """One try.

    name: unique in its study; "original" is the first. sizes: parameters before and after and the fractions
    removed. scores: by evaluation set, the dictionary of a `score.Score` (percent, 95 % interval); untuned: the
    same before tuning. plan, tuning, settings: how it was made. seconds: what it took. model: the folder of the
    model, relative to the study.
    """

    name: str
    sizes: dict[str, float]
    scores: dict[str, dict[str, Any]]
    untuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0
    model: str | None = None
    note: str = ""
    time: str = ""


class Study:
    """Tries in a folder; opening it again shows them all and goes on.

    >>> import tempfile
    >>> study = Study(tempfile.mkdtemp(), about={"model": "tiny.en"})
    >>> study.add(Record("original", {"encoder_reduction": 0.0}, {"target": {"wer": 4.2}}))
    >>> Study(study.folder).frame()["wer"].tolist()
    [4.2]

    about: what is studied (model, speech, evaluation sets, seed); a folder that studies something else is refused
    with InputError, so is one whose records are damaged, naming file and line.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any] | None = None):
        self.folder = Path(folder)
        self.about: dict[str, Any] = dict(about or {})
        self.records: list[Record] = []
        head = self.folder / "study.json"
        if head.is_file():
            self._open(head)
        elif about is None:
            raise InputError(f"{self.folder} holds no study; make one with `adaptwin study`.")
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no study; give another folder.")
        else:
            write_atomically(head, json.dumps({"format": FORMAT, **self.about}, indent=1) + "\n")

    def _open(self, head: Path) -> None:
        try:
            stored = json.loads(head.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{head} cannot be read ({error}); the study cannot be continued.") from error
        if not isinstance(stored, dict) or stored.pop("format", None) != FORMAT:
            raise InputError(f"{head} is no study of format {FORMAT}; give another folder.")
        for key, value in self.about.items():
            if stored.get(key) != value:
                raise InputError(
                    f"{self.folder} studies another {key} ({stored.get(key)!r}, not {value!r}); give another folder."
                )
        self.about = stored
        self.records = list(_read_records(self.folder / "records.jsonl"))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, name: str) -> Record:
        for record in self.records:
            if record.name == name:
                return record
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(record.name == name for record in self.records)

    def add(self, record: Record) -> None:
        """Append a record to memory and, in one write that is forced to disk, to the file."""
        if record.name in self:
            raise InputError(f"The study has a try named {record.name!r} already; give this one another name.")
        record.versions = record.versions or versions()
        record.time = record.time or datetime.now(UTC).isoformat(timespec="seconds")
        path = self.folder / "records.jsonl"
        self._drop_torn_line(path)
        with path.open("ab") as file:
            file.write((json.dumps(asdict(record), ensure_ascii=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)

    @staticmethod
    def _drop_torn_line(path: Path) -> None:
        """A process killed while writing leaves a line without an end; it was never part of the study."""
        if path.is_file() and (data := path.read_bytes()) and not data.endswith(b"\n"):
            write_atomically(path, data[: data.rfind(b"\n") + 1])

    def point(self, name: str) -> Path:
        """The folder of a try."""
        return self.folder / "points" / name

    def plan(self, name: str) -> RankPlan:
        """The plan of a try; raises KeyError for the original and for unknown names."""
        found = self[name].plan
        if found is None:
            raise KeyError(name)
        return RankPlan.from_dict(found, f"The plan of {name}")

    def model(self, name: str) -> Whisper:
        """Load the model of a try back, as a `Whisper`."""
        record = self[name]
        return load(self.folder / record.model if record.model else self.about["model"])

    def frame(self) -> pd.DataFrame:
        """A tidy table: one row a try, stage ("original", "untuned", "tuned") and evaluation set."""
        rows = []
        for record in self.records:
            stages = {"original" if record.plan is None else "untuned" if record.tuning is None else "tuned":
                      record.scores, "untuned": record.untuned} if record.tuning else {
                      "original" if record.plan is None else "untuned": record.scores}  # fmt: skip
            for stage, scores in stages.items():
                for name, score in scores.items():
                    rows.append({"try": record.name, "stage": stage, "evaluation": name, **record.sizes, **score})
        return pd.DataFrame(rows)

    def figure(self) -> Any:  # a plotly Figure; only `figures` knows plotly
        """The frontier as a plotly figure; see `figures.frontier`."""
        return frontier(self)

    def draw(self) -> Path:
        """Write ``frontier.html``, a page that needs no network, and return its path."""
        path = self.folder / "frontier.html"
        write_atomically(path, self.figure().to_html(include_plotlyjs=True, full_html=True))
        return path


def _read_records(path: Path) -> Iterator[Record]:
    if not path.is_file():
        return
    known = {f.name for f in fields(Record)}
    data = path.read_bytes()
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        if not data.endswith(b"\n") and number == data.count(b"\n") + 1:
            return  # torn by a kill; `add` cuts it off
        try:
            row = json.loads(line)
            yield Record(**{key: value for key, value in row.items() if key in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}, line {number}: not a record of a study ({error}); remove the line.") from error


def versions() -> dict[str, str]:
    """Python and the packages a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


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
    windows: int = 40,
    seed: int = 0,
    job: Job | None = None,
) -> Study:
    """Compress, tune and evaluate at every point; each is a record, and the frontier is redrawn after each.

    model: a `Whisper`. speech: corpora to observe and tune on, the target speaker's first. evaluations: by name,
    the corpora to score. points: fractions of the encoder's parameters to remove. minutes or steps: of tuning, a
    point; neither: no tuning. The original is always the first record. Killed and called again, it goes on with
    the point, and within it the tuning step, at which it stopped.

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> demo = aw.demo_speech()                                                           # doctest: +SKIP
    >>> study = aw.run_study(aw.load("tiny.en"), [demo["target_train"]], {"target": demo["target_dev"]},
    ...                      points=[0.3], minutes=1, folder="run")                       # doctest: +SKIP

    Raises InputError when evaluation speech shares a recording or a prompt with the speech that is tuned on.
    """
    for corpus in speech:
        for evaluation in evaluations.values():
            require_disjoint(corpus, evaluation)
    recipe = Recipe(
        model,
        list(speech),
        target_weight=target_weight,
        allocation=allocation,
        windows=windows,
        seed=seed,
        job=job,
    )
    about = {
        "model": model.source,
        "speech": [c.name for c in speech],
        "evaluations": {name: c.name for name, c in evaluations.items()},
        "seed": seed,
        "allocation": allocation,
        "target_weight": target_weight,
    }
    for name, value in (("minutes", minutes), ("steps", steps)):
        if value is not None:
            about[name] = value
    plans = {point_name(p): p for p in sorted(points)}
    study = Study(folder, about)
    scorer = _Scorer(study, evaluations, job)
    if "original" not in study:
        began = time.monotonic()
        sizes = RankPlan({}, recipe.shape).reductions
        study.add(Record("original", sizes, scorer(model, "original"), seed=seed, seconds=time.monotonic() - began))
        study.draw()
    for name, fraction in plans.items():
        if name in study:
            continue
        began = time.monotonic()
        place = study.point(name)
        plan = recipe.plan(encoder=fraction)
        plan.save(place / "plan.json")
        small = recipe.compress(plan)
        record = Record(name, plan.reductions, scorer(small, name), plan=plan.to_dict(), seed=seed)
        if minutes is not None or steps is not None:
            state = place / "tuning.safetensors"
            small = recipe.tune(small, minutes=minutes, steps=steps, checkpoint=state, resume=state.is_file())
            record.untuned, record.scores = record.scores, scorer(small, name)
            record.tuning = small.notes["tuning"]
            state.unlink(missing_ok=True)
        small.save_pretrained(place / "model")
        record.model = (place / "model").relative_to(study.folder).as_posix()
        record.seconds = time.monotonic() - began
        study.add(record)
        study.draw()
    return study


class _Scorer:
    """Scores a model on every evaluation set, paired with the original; keeps every hypothesis in a file."""

    def __init__(self, study: Study, evaluations: Mapping[str, Corpus], job: Job | None):
        self.study, self.evaluations, self.job = study, evaluations, job

    def file(self, point: str, evaluation: str) -> Path:
        return self.study.point(point) / f"{evaluation}.hypotheses.jsonl"

    def __call__(self, whisper: Whisper, point: str) -> dict[str, dict[str, Any]]:
        found = {}
        for name, corpus in self.evaluations.items():
            original = None
            if point != "original":
                lines = self.file("original", name).read_text(encoding="utf-8").splitlines()
                rows = [json.loads(line) for line in lines]
                language = self.study["original"].scores[name]["language"]
                references, hypotheses, ids = ([r[k] for r in rows] for k in ("reference", "hypothesis", "id"))
                original = score_texts(references, hypotheses, ids, language)
            score = evaluate(whisper, corpus, against=original, job=self.job)
            self.file(point, name).parent.mkdir(parents=True, exist_ok=True)
            score.write_hypotheses(self.file(point, name))
            found[name] = score.to_dict()
        return found


def point_name(fraction: float) -> str:
    """The name of a try at a fraction of the encoder.

    >>> point_name(0.3), point_name(0.125)
    ('encoder-30', 'encoder-12.5')
    """
    return f"encoder-{100 * fraction:g}"
