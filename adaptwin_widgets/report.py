"""What was read of a corpus, what was left out, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .utterance import Origin, Utterance, word_count

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 3  # problems of a kind that are printed
COLUMNS = ["file", "line", "id", "kind", "reason", "skipped"]


@dataclass(frozen=True)
class Problem:
    """Something about one item of a corpus: it was skipped, or (`skipped` false) read and worth knowing.

    >>> print(Problem("train.tsv", 3, "missing audio", "clips/a.mp3: no such file; correct the path."))
    train.tsv, line 3: clips/a.mp3: no such file; correct the path.
    """

    file: str
    line: int | None
    kind: str
    reason: str
    id: str = ""
    skipped: bool = True

    def __str__(self) -> str:
        return f"{Origin(self.file, self.line)}: {self.reason}"


@dataclass(frozen=True)
class SpeechReport:
    """How much speech there is, and what was skipped or is worth knowing.

    >>> report = SpeechReport.of([], "train", [Problem("train.tsv", 3, "missing audio", "a.mp3: no such file.")])
    >>> print(report)
    train: 0 utterances, 0.0 min, 0 speakers, 0 words; 1 skipped
      skipped, missing audio: 1
        train.tsv, line 3: a.mp3: no such file.
    >>> report.frame().loc[0, "line"]
    np.int64(3)
    """

    name: str
    layout: str
    utterances: int
    seconds: float
    speakers: tuple[str, ...]
    words: float
    problems: tuple[Problem, ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls, utterances: Iterable[Utterance], name: str, problems: Iterable[Problem] = (), layout: str = ""
    ) -> SpeechReport:
        """Count what there is."""
        utterances = list(utterances)
        speakers = tuple(sorted({u.speaker for u in utterances}))
        seconds, words = math.fsum(u.duration for u in utterances), sum(word_count(u.text) for u in utterances)
        return cls(name, layout, len(utterances), seconds, speakers, words, tuple(problems))

    @property
    def skipped(self) -> list[Problem]:
        """What was left out."""
        return [problem for problem in self.problems if problem.skipped]

    @property
    def notes(self) -> list[Problem]:
        """What was read and is worth knowing."""
        return [problem for problem in self.problems if not problem.skipped]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON.

        >>> SpeechReport.of([], "train").to_dict()["utterances"]
        0
        """
        return {
            "name": self.name, "layout": self.layout, "utterances": self.utterances, "seconds": self.seconds,
            "speakers": list(self.speakers), "words": self.words,
            "skipped": [asdict(problem) for problem in self.skipped], "notes": [asdict(note) for note in self.notes],
        }  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """One row a problem: file, line, id, kind, reason, skipped."""
        import pandas as pd

        table = pd.DataFrame([asdict(problem) for problem in self.problems], columns=COLUMNS)
        return table.astype({"line": "Int64"}) if table["line"].isna().any() else table

    def __str__(self) -> str:
        layout = f" ({self.layout})" if self.layout else ""
        lines = [
            f"{self.name}{layout}: {self.utterances} utterances, {self.seconds / 60:.1f} min, "
            f"{len(self.speakers)} speakers, {self.words:.0f} words; {len(self.skipped)} skipped"
        ]
        for heading, problems in (("skipped", self.skipped), ("note", self.notes)):
            kinds: dict[str, list[Problem]] = {}
            for problem in problems:
                kinds.setdefault(problem.kind, []).append(problem)
            for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1])):
                lines.append(f"  {heading}, {kind}: {len(found)}")
                lines += [f"    {problem}" for problem in found[:SHOWN]]
                if len(found) > SHOWN:
                    lines.append(f"    and {len(found) - SHOWN} more, in .frame() and with --json")
        return "\n".join(lines)
