"""What keeps training and evaluation speech apart: recordings and prompts that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .utterance import Utterance, recordings


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


def in_common(utterances: Sequence[Utterance], others: Sequence[Utterance]) -> list[bool]:
    """For each of `utterances` whether its recording is among the `others` as well.

    >>> from pathlib import Path
    >>> one, two = (Utterance(name, Path(name), "") for name in ("a.wav", "b.wav"))
    >>> in_common([one, two], [two])
    [False, True]
    """
    names = recordings((*utterances, *others))
    theirs = set(names[len(utterances) :])
    return [name in theirs for name in names[: len(utterances)]]


def groups_of(utterances: Sequence[Utterance], by: str) -> list[list[int]]:
    """Indices of the utterances, those together that must be on one side of a split by prompt, speaker or utterance.

    A recording's copies under other conditions always stay together.

    >>> from pathlib import Path
    >>> groups_of([Utterance(name, Path(name), "Yes.") for name in ("a.wav", "b.wav")], "prompt")
    [[0, 1]]
    """
    parts = zip(utterances, recordings(utterances), strict=True)
    return _connected([(part, *_split_keys(u, by)) for u, part in parts])


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
