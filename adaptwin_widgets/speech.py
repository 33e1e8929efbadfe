"""Speech with transcripts: a corpus, its splits and its conditions."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from .audio import SAMPLE_RATE, Noise, parse_condition
from .errors import InputError
from .features import batches, log_mel
from .files import write_atomically
from .utterance import Utterance, parse_line, prompt_key
from .windows import Window, pack

__all__ = [
    "SAMPLE_RATE", "Corpus", "Overlap", "Utterance", "Window",
    "apply_condition", "batches", "log_mel", "pack", "prompt_key", "require_disjoint",
]  # fmt: skip


@dataclass(frozen=True)
class Overlap:
    """What two corpora share: recordings (ids) and prompts. True if there is anything.

    >>> bool(Overlap("train", "dev", (), ()))
    False
    """

    first: str
    second: str
    utterances: tuple[str, ...]
    prompts: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.utterances or self.prompts)

    def __str__(self) -> str:
        example = f" (for example {self.prompts[0]!r})" if self.prompts else ""
        return (
            f"{self.first!r} and {self.second!r} share {len(self.utterances)} utterances and "
            f"{len(self.prompts)} prompts{example}"
        )


class Corpus(Sequence[Utterance]):
    """Utterances under a name; slices, sums, splits and conditions are corpora again.

    >>> corpus = Corpus([Utterance("a", Path("a.wav"), "One.", "ann", 2.0),
    ...                  Utterance("b", Path("b.wav"), "Two.", "bob", 3.0)], name="tiny")
    >>> corpus
    Corpus('tiny', 2 utterances, 2 speakers, 0.1 min)
    >>> corpus[:1].seconds, corpus.with_noise(10).name
    (2.0, 'tiny + noise 10 dB')
    """

    def __init__(self, utterances: Iterable[Utterance], name: str = "speech") -> None:
        self.utterances = tuple(utterances)
        self.name = name

    @classmethod
    def from_manifest(cls, path: str | Path, name: str | None = None) -> Corpus:
        """Read a JSON-lines manifest: one object a line, UTF-8.

        Fields: `audio` (path relative to the manifest), `text`; optional `id` (else the file's
        stem), `speaker`, `duration` in seconds (else from the audio's header), `conditions`;
        others are kept.

        >>> Corpus.from_manifest("train.jsonl")             # doctest: +SKIP
        Corpus('train', 593 utterances, 1 speakers, 29.8 min)

        Raises `InputError` that names the line: broken JSON or UTF-8, a missing field, an id given
        twice, a missing audio file; or the manifest, where it is missing or empty.
        """
        path = Path(path)
        try:
            lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        except OSError as error:
            kind = "is a folder" if path.is_dir() else "cannot be read" if path.exists() else "no such file"
            raise InputError(f"{path}: {kind}; give the path of a JSON-lines manifest.") from error
        seen: dict[str, int] = {}
        utterances = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                utterance = parse_line(line, path.parent)
                if utterance.id in seen:
                    raise InputError(f"id {utterance.id!r} was given in line {seen[utterance.id]}; rename one.")
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from error.__cause__
            seen[utterance.id] = number
            utterances.append(utterance)
        if not utterances:
            raise InputError(f"{path}: holds no utterances; add one JSON object a line.")
        return cls(utterances, name or path.stem)

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
        lines = []
        for u in self:
            row: dict[str, Any] = {"id": u.id, "audio": _relative(u.path, folder), "text": u.text}
            row |= {"speaker": u.speaker, "duration": u.duration, **u.more}
            if u.conditions:
                row["conditions"] = [str(condition) for condition in u.conditions]
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        write_atomically(path, "".join(lines))
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
        return Corpus(self.utterances + other.utterances, f"{self.name} and {other.name}")

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
        # A recording's copies under other conditions always stay together.
        groups = _connected([(u.path, *_split_keys(u, by)) for u in self])
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
        paths, prompts = {u.path for u in other}, {u.prompt for u in other}
        utterances = sorted({u.id for u in self if u.path in paths})
        return Overlap(self.name, other.name, tuple(utterances), tuple(sorted({u.prompt for u in self} & prompts)))

    def without(self, other: Corpus) -> Corpus:
        """The utterances that share neither recording nor prompt with `other`.

        >>> corpus = Corpus([Utterance("a", Path("a.wav"), "One.")])
        >>> len(corpus.without(corpus))
        0
        """
        paths, prompts = {u.path for u in other}, {u.prompt for u in other}
        return self.where(lambda u: u.path not in paths and u.prompt not in prompts)

    def with_noise(self, snr_db: float, seed: int = 0) -> Corpus:
        """The same speech under white noise at `snr_db` dB (see `audio.Noise`), the same every time."""
        return self.under(Noise(float(snr_db), seed))

    def under(self, condition: Noise) -> Corpus:
        """The same speech under a condition, on top of those it is under already."""
        noisy = (replace(u, conditions=(*u.conditions, condition)) for u in self)
        return Corpus(noisy, f"{self.name} + {condition.name}")


def apply_condition(corpus: Corpus, condition: str | None) -> Corpus:
    """The corpus under a condition given as text: ``noise:10``; unchanged for None or ``clean``.

    >>> apply_condition(Corpus([], "dev"), "noise:10").name
    'dev + noise 10 dB'

    Raises `InputError` for a condition that does not exist.
    """
    return corpus if condition in (None, "", "clean") else corpus.under(parse_condition(condition))


def require_disjoint(training: Corpus, evaluation: Corpus) -> None:
    """Raise `InputError` if the two corpora share a recording or a prompt.

    >>> require_disjoint(Corpus([]), Corpus([]))
    """
    if overlap := training.shared_with(evaluation):
        raise InputError(f"{overlap}; word errors would look too low: leave them out of the training speech.")


def _relative(path: str, folder: str) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive, on Windows
        return Path(path).as_posix()


def _split_keys(u: Utterance, by: str) -> tuple[str, ...]:
    """What must not be on both sides of a split."""
    return {"prompt": (u.prompt,), "speaker": (u.prompt, f"@{u.speaker}"), "utterance": ()}[by]


def _connected(keys: list[tuple[str, ...]]) -> list[list[int]]:
    """Indices of items, grouped so that items with a key in common are in one group (union-find)."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    owner: dict[str, int] = {}
    for i, names in enumerate(keys):
        for name in names:
            parent[root(i)] = root(owner.setdefault(name, i))
    groups: dict[int, list[int]] = {}
    for i in range(len(keys)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
