"""Speech with transcripts: a corpus, its splits and its conditions."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

from .audio import SAMPLE_RATE
from .conditions import Condition, Noise, parse_condition
from .errors import InputError
from .features import batches, log_mel
from .files import write_atomically
from .jobs import Job
from .layouts import find_layout
from .reading import check_sound, read_items
from .report import Problem, SpeechReport
from .splits import Overlap, groups_of, in_common
from .utterance import Utterance, manifest_lines, parse_line, prompt_key, to_row
from .windows import Window, pack

__all__ = [
    "SAMPLE_RATE", "Corpus", "Overlap", "Utterance", "Window",
    "apply_condition", "batches", "log_mel", "pack", "prompt_key", "require_disjoint",
]  # fmt: skip


def distinct(corpora: Iterable[Corpus]) -> list[Corpus]:
    """The corpora, numbered where several have one name, so that a choice by name is a choice.

    >>> [c.name for c in distinct([Corpus([], "train"), Corpus([], "dev"), Corpus([], "train")])]
    ['train', 'dev', 'train 2']
    """
    found: dict[str, Corpus] = {}
    for corpus in corpora:
        name, number = corpus.name, 1
        while name in found:
            number += 1
            name = f"{corpus.name} {number}"
        found[name] = corpus
    return [c if c.name == name else Corpus(c, name, problems=c.problems, layout=c.layout) for name, c in found.items()]


class Corpus(Sequence[Utterance]):
    """Utterances under a name; slices, sums, splits and conditions are corpora again.

    >>> corpus = Corpus([Utterance("a", Path("a.wav"), "One.", "ann", 2.0),
    ...                  Utterance("b", Path("b.wav"), "Two.", "bob", 3.0)], name="tiny")
    >>> corpus
    Corpus('tiny', 2 utterances, 2 speakers, 0.1 min)
    >>> corpus[:1].seconds, corpus.with_noise(10).name
    (2.0, 'tiny + noise 10 dB')
    """

    def __init__(
        self,
        utterances: Iterable[Utterance],
        name: str = "speech",
        *,
        problems: Iterable[Problem] = (),
        layout: str = "",
    ) -> None:
        self.utterances = tuple(utterances)
        self.name = name
        self.problems = tuple(problems)  # of reading it; a part of a corpus has none
        self.layout = layout

    @classmethod
    def read(
        cls,
        path: str | Path,
        name: str | None = None,
        *,
        strict: bool | None = None,
        audio: str | None = None,
        text: str | None = None,
        speaker: str | None = None,
        job: Job | None = None,
    ) -> Corpus:
        """Read speech in any layout that is known; which one it is, the files say.

        - a manifest (`from_manifest`); NeMo's field names as well
        - a CSV or TSV with a header (Common Voice: ``train.tsv`` beside ``clips/``); audio, text, speaker: the
          columns' names, where they are unusual
        - a folder of recordings, each with its text in a file of the same name (.txt, .lab), subtitles (.srt, .vtt)
          or a list of segments (.csv, .tsv, .json with start, end, text); folders below it are speakers. Subtitles are
          joined to sentences. Films are read where PyAV is there (the extra ``video``).
        - LibriSpeech (``*.trans.txt``) and LJSpeech (``metadata.csv`` with ``|``)
        - one file of these: a list of segments or subtitles beside its recording, or the recording itself

        strict: the first item that cannot be used is an `InputError`, as in `from_manifest`; if False, it is skipped
        and stands in `report`. By default a manifest is read strictly, what others laid out is not. What only decoding
        tells is found by `check`.

        >>> corpus = Corpus.read("cv-corpus/en/train.tsv")                               # doctest: +SKIP
        >>> print(corpus.report)                                                         # doctest: +SKIP
        train (table): 2 utterances, 0.1 min, 2 speakers, 16 words; 1 skipped
          skipped, missing audio: 1
            cv-corpus/en/train.tsv, line 3: c.mp3: no such audio file; correct the path or take the line out.

        Raises `InputError` where no layout is recognised, several are, or nothing is left.
        """
        path = Path(path)
        chosen = {"audio": audio, "text": text, "speaker": speaker}
        columns = {role: column for role, column in chosen.items() if column is not None}
        layout, where, rows = find_layout(path, columns)
        if layout == "manifest" and strict is not False:
            return cls.from_manifest(where, name)
        utterances, problems = read_items(layout, where, rows, strict=bool(strict), job=job)
        name = name or (path.resolve().name if path.is_dir() else path.stem)
        return cls(utterances, name, problems=problems, layout=layout)

    @classmethod
    def from_manifest(cls, path: str | Path, name: str | None = None) -> Corpus:
        """Read a JSON-lines manifest: one object a line, UTF-8.

        Fields: `audio` (path relative to the manifest), `text`; optional `id` (else the file's
        stem), `speaker`, `start` (in seconds, of a part of a longer recording), `duration` in
        seconds (else from the audio's header), `conditions`; others are kept.

        >>> Corpus.from_manifest("train.jsonl")             # doctest: +SKIP
        Corpus('train', 593 utterances, 1 speakers, 29.8 min)

        Raises `InputError` that names the line: broken JSON or UTF-8, a missing field, an id given
        twice, a missing audio file; or the manifest, where it is missing or empty.
        """
        path = Path(path)
        seen: dict[str, int | None] = {}
        utterances = []
        for origin, line in manifest_lines(path):
            try:
                utterance = parse_line(line, path.parent)
                if utterance.id in seen:
                    raise InputError(f"id {utterance.id!r} was given in line {seen[utterance.id]}; rename one.")
            except InputError as error:
                raise InputError(f"{origin}: {error}") from error.__cause__
            seen[utterance.id] = origin.line
            utterances.append(replace(utterance, origin=origin))
        if not utterances:
            raise InputError(f"{path}: holds no utterances; add one JSON object a line.")
        return cls(utterances, name or path.stem)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        audio: str = "audio",
        text: str | None = None,
        speaker: str | None = None,
        limit: int | None = None,
        name: str | None = None,
        cache: str | Path | None = None,
        job: Job | None = None,
    ) -> Corpus:
        """Read a split of a Hugging Face data set (`datasets`), streaming ones included.

        audio, text, speaker: its columns; text and speaker are found by their usual names. limit: only the first
        so many rows. Audio is decoded here, so that torchcodec is not needed; what is not on disk yet is kept once,
        under a name made from its content, in `cache` (by default the user's cache folder), so that every pass,
        process and later session reads it there. Any iterable of dicts with such columns is read as well.

        >>> import datasets                                                              # doctest: +SKIP
        >>> rows = datasets.load_dataset("google/fleurs", "cy_gb", split="train", streaming=True)  # doctest: +SKIP
        >>> aw.Corpus.from_dataset(rows, text="transcription", limit=200).report.skipped           # doctest: +SKIP
        []

        Rows that cannot be used are skipped and stand in `report`, as in `read`.
        Raises `InputError` for a column that is not there, splits in a dict, or where nothing is left.
        """
        from .dataset import read_dataset

        columns = {"audio": audio, "text": text, "speaker": speaker}
        called, utterances, problems = read_dataset(dataset, columns, limit=limit, name=name, cache=cache, job=job)
        return cls(utterances, called, problems=problems, layout="data set")

    @property
    def report(self) -> SpeechReport:
        """What was read: duration, speakers, words; what was skipped and why.

        >>> print(Corpus([], "mine").report)
        mine: 0 utterances, 0.0 min, 0 speakers, 0 words; 0 skipped
        """
        return SpeechReport.of(self, self.name, self.problems, self.layout)

    def check(self, *, job: Job | None = None) -> Corpus:
        """Decode every recording: the corpus without those that break off, hold NaN or are silent; see its `report`.

        >>> corpus = Corpus.read("recordings").check()                                   # doctest: +SKIP
        >>> [problem.kind for problem in corpus.report.skipped]                          # doctest: +SKIP
        ['silent audio']

        Raises `InputError` where nothing is left, `Cancelled` when the job was cancelled.
        """
        utterances, problems = check_sound(self, job)
        if not utterances and problems:
            raise InputError(f"{self.name}: no recording is sound; the first: {problems[0]}")
        return Corpus(utterances, self.name, problems=(*self.problems, *problems), layout=self.layout)

    def to_manifest(self, path: str | Path) -> Path:
        """Write the manifest `from_manifest` reads; audio stays where it is, paths become relative.

        >>> corpus.head(10).to_manifest("few.jsonl")         # doctest: +SKIP
        PosixPath('few.jsonl')

        Raises `InputError` if two utterances have the same id.
        """
        path = Path(path)
        if len({u.id for u in self}) < len(self):
            twice = next(u.id for i, u in enumerate(self) if u.id in {v.id for v in self[:i]})
            raise InputError(f"{self.name}: two utterances have the id {twice!r}; rename one before writing.")
        folder = os.path.realpath(path.parent)
        write_atomically(path, "".join(json.dumps(to_row(u, folder), ensure_ascii=False) + "\n" for u in self))
        return path

    def __len__(self) -> int:
        return len(self.utterances)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> Corpus: ...
    def __getitem__(self, index: int | slice) -> Utterance | Corpus:
        if isinstance(index, slice):
            return Corpus(self.utterances[index], self.name)
        return self.utterances[index]

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    def __add__(self, other: Corpus) -> Corpus:
        problems = (*self.problems, *other.problems)
        return Corpus(self.utterances + other.utterances, f"{self.name} and {other.name}", problems=problems)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Corpus) and self.utterances == other.utterances

    def __hash__(self) -> int:
        return hash(self.utterances)

    def __repr__(self) -> str:
        count, voices = len(self), len(self.speakers)
        return f"Corpus({self.name!r}, {count} utterances, {voices} speakers, {self.seconds / 60:.1f} min)"

    @property
    def seconds(self) -> float:
        """Seconds of audio in all."""
        return math.fsum(u.duration for u in self)

    @property
    def speakers(self) -> list[str]:
        """The speakers' names, sorted."""
        return sorted({u.speaker for u in self})

    def head(self, n: int | None) -> Corpus:
        """The first `n` utterances; all of them for None.

        >>> len(Corpus([]).head(3))
        0
        """
        if n is not None and n < 1:
            raise InputError(f"a limit of {n} leaves no utterances; give 1 or more.")
        return self[:n]

    def where(self, keep: Callable[[Utterance], bool]) -> Corpus:
        """The utterances for which `keep` is true: ``corpus.where(lambda u: u.duration < 10)``."""
        return Corpus(filter(keep, self), self.name)

    def split(
        self, share: float = 0.8, by: Literal["prompt", "speaker", "utterance"] = "prompt", seed: int = 0
    ) -> tuple[Corpus, Corpus]:
        """Two parts that do not overlap, the first with about `share` of the utterances.

        by="prompt": no transcript on both sides; by="speaker": neither a speaker nor a transcript;
        by="utterance": no recording on both sides, though a prompt read twice may be.

        >>> corpus = Corpus([Utterance(str(i), Path(f"{i}.wav"), f"Prompt {i // 2}") for i in range(10)])
        >>> train, dev = corpus.split(0.6)
        >>> len(train), len(dev), bool(train.shared_with(dev))
        (6, 4, False)

        Raises `InputError` if there are not two groups to put on two sides.
        """
        if not 0 < share < 1:
            raise InputError(f"a split's share must lie between 0 and 1, not {share}.")
        if by not in ("prompt", "speaker", "utterance"):
            raise InputError(f"cannot split by {by!r}; choose 'prompt', 'speaker' or 'utterance'.")
        groups = groups_of(self, by)
        if len(groups) < 2:
            raise InputError(
                f"{self.name!r} cannot be split by {by}: everything belongs together; "
                + ("split by prompt, or give another corpus." if by == "speaker" else "add more speech.")
            )
        random.Random(seed).shuffle(groups)
        first: set[int] = set()
        for group in groups[:-1]:
            # Each group goes where it brings the first part's size nearer to the share asked for.
            if not first or abs(len(first) + len(group) - share * len(self)) <= abs(len(first) - share * len(self)):
                first.update(group)
        parts = [[u for i, u in enumerate(self) if (i in first) == side] for side in (True, False)]
        return Corpus(parts[0], f"{self.name} (first part)"), Corpus(parts[1], f"{self.name} (second part)")

    def shared_with(self, other: Corpus) -> Overlap:
        """The recordings and prompts that are in both corpora.

        >>> corpus = Corpus([Utterance("a", Path("a.wav"), "One.")], "mine")
        >>> print(corpus.shared_with(corpus))
        'mine' and 'mine' share 1 utterances and 1 prompts (for example 'one')
        """
        prompts = {u.prompt for u in other}
        utterances = sorted({u.id for u, common in zip(self, in_common(self, other), strict=True) if common})
        return Overlap(self.name, other.name, tuple(utterances), tuple(sorted({u.prompt for u in self} & prompts)))

    def without(self, other: Corpus) -> Corpus:
        """The utterances that share neither recording nor prompt with `other`.

        >>> corpus = Corpus([Utterance("a", Path("a.wav"), "One.")])
        >>> len(corpus.without(corpus))
        0
        """
        prompts, common = {u.prompt for u in other}, in_common(self, other)
        return Corpus((u for u, c in zip(self, common, strict=True) if not c and u.prompt not in prompts), self.name)

    def with_noise(self, snr_db: float, seed: int = 0) -> Corpus:
        """The same speech under white noise at `snr_db` dB (see `audio.Noise`), the same every time."""
        return self.under(Noise(float(snr_db), seed))

    def under(self, condition: Condition) -> Corpus:
        """The same speech under a condition of `conditions`, on top of those it is under already."""
        return Corpus(
            (u.under(condition) for u in self),
            f"{self.name} + {condition.name}",
            problems=self.problems,
            layout=self.layout,
        )


def apply_condition(corpus: Corpus, condition: str | None) -> Corpus:
    """The corpus under conditions given as text, in the order given; unchanged for None or ``clean``.

    >>> apply_condition(Corpus([], "dev"), "noise:10").name
    'dev + noise 10 dB'
    >>> apply_condition(Corpus([], "dev"), "reverb:0.6+telephone").name
    'dev + reverberation 0.6 s + telephone'

    Raises `InputError` for a condition that does not exist (`conditions.parse_condition`).
    """
    if condition in (None, "", "clean"):
        return corpus
    for text in condition.split("+"):
        corpus = corpus.under(parse_condition(text))
    return corpus


def require_disjoint(training: Corpus, evaluation: Corpus) -> None:
    """Raise `InputError` if the two corpora share a recording or a prompt.

    >>> require_disjoint(Corpus([]), Corpus([]))
    """
    if overlap := training.shared_with(evaluation):
        raise InputError(f"{overlap}; word errors would look too low: leave them out of the training speech.")
