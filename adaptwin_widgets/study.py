"""Study: tries on disk, one record each, and the frontier they draw.

A folder holds ``study.json`` (what is studied), ``records.jsonl`` (one line a try, appended to; only its note can be
changed), ``points/<name>/`` (plan and model of every try) and ``frontier.html``.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.figures import frontier
from adaptwin_widgets.files import require_room, write_atomically
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.versus import compare
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
        self.listeners: list[Callable[[], None]] = []  # called after every new or changed record
        self._lock = threading.RLock()  # a note may be written while the worker adds a record
        head = self.folder / "study.json"
        if head.is_file():
            self._open(head)
        elif about is None:
            raise InputError(f"{self.folder} holds no study; make one with `adaptwin study`.")
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no study; give another folder.")
        else:
            require_room(head)
            write_atomically(head, json.dumps({"format": FORMAT, **self.about}, indent=1) + "\n")

    def _open(self, head: Path) -> None:
        try:
            stored = json.loads(head.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{head} cannot be read ({error}); the study cannot be continued.") from error
        if not isinstance(stored, dict) or stored.pop("format", None) != FORMAT:
            raise InputError(f"{head} is no study of format {FORMAT}; give another folder.")
        for key, value in self.about.items():
            if key == "recordings" and key not in stored:
                continue  # begun before that was written down
            if stored.get(key) != value:
                another = f"other {key}" if key.endswith("s") else f"another {key}"
                raise InputError(
                    f"{self.folder} studies {another} ({stored.get(key)!r}, not {value!r}); give another folder."
                )
        self.about |= stored
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
        with self._lock:
            self._drop_torn_line(path)
            with path.open("ab") as file:
                file.write((json.dumps(asdict(record), ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
            self.records.append(record)
        self._tell()

    def annotate(self, name: str, text: str) -> None:
        """Change the note on a try, in memory and on disk; the file's other lines stay as they are.

        Raises InputError for an unknown try.
        """
        if name not in self:
            raise InputError(f"There is no try called {name!r} in this study.")
        path = self.folder / "records.jsonl"
        with self._lock:
            lines = path.read_bytes().split(b"\n")
            for i, line in enumerate(lines[:-1]):  # the last is empty, or torn by a kill
                if line and (row := json.loads(line)).get("name") == name:
                    lines[i] = json.dumps({**row, "note": str(text)}, ensure_ascii=False).encode()
            write_atomically(path, b"\n".join(lines))
            self[name].note = str(text)
        self._tell()

    def _tell(self) -> None:
        for listener in list(self.listeners):
            listener()

    @staticmethod
    def _drop_torn_line(path: Path) -> None:
        """A process killed while writing leaves a line without an end; it was never part of the study."""
        if path.is_file() and (data := path.read_bytes()) and not data.endswith(b"\n"):
            write_atomically(path, data[: data.rfind(b"\n") + 1])

    def point(self, name: str) -> Path:
        """The folder of a try."""
        return self.folder / "points" / name

    def hypotheses_file(self, name: str, evaluation: str) -> Path:
        """Where every utterance's text of a try and an evaluation set is."""
        return self.point(name) / f"{evaluation}.hypotheses.jsonl"

    def hypotheses(self, name: str, evaluation: str) -> list[dict[str, Any]]:
        """Every utterance's reference and hypothesis of a try, as `Score.write_hypotheses` wrote them."""
        text = self.hypotheses_file(name, evaluation).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line]  # splitlines also cuts within a text, at U+2028

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
                    where = {"try": record.name, "stage": stage, "evaluation": name}
                    rows.append({**where, **record.sizes, **score, "note": record.note})
        return pd.DataFrame(rows)

    def compare(self, first: str, second: str) -> pd.DataFrame:
        """Two tries beside each other: sizes, errors with paired intervals, speed, ranks; see `versus.compare`."""
        return compare(self, first, second)

    def figure(self, **options: Any) -> Any:  # a plotly Figure; only `figures` knows plotly
        """The frontier as a plotly figure; for the options (axis, goal, dark) see `figures.frontier`."""
        return frontier(self, **options)

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


def point_name(fraction: float) -> str:
    """The name of a try at a fraction of the encoder.

    >>> point_name(0.3), point_name(0.125)
    ('encoder-30', 'encoder-12.5')
    """
    return f"encoder-{100 * fraction:g}"
