"""Word by word: what a hypothesis got wrong, models side by side, and the clips that got worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jiwer

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.score import Score, normaliser


class Piece(NamedTuple):
    """A run of words of one kind: "equal", "substitute", "insert" (no reference), "delete" (no hypothesis)."""

    kind: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


class Word(NamedTuple):
    """One word of a hypothesis under one of the reference; word: as heard, of a deletion the word missing."""

    kind: str
    word: str


class Column(NamedTuple):
    """One word of the reference ("" where words were only inserted) over what each model made of it."""

    reference: str
    heard: tuple[Word | None, ...]


def align(reference: str, hypothesis: str, language: str = "en") -> list[Piece]:
    """Align two texts by their words (characters for languages without spaces), after Whisper's normaliser.

    language: a code, such as "en". A substitution has as many words on both sides.

    >>> for piece in align("The colour is grey.", "color is very gray"):
    ...     print(*piece)
    delete ('the',) ()
    equal ('color', 'is') ('color', 'is')
    insert () ('very',)
    equal ('gray',) ('gray',)
    """
    words, heard = (tuple(normaliser(language)(text).split()) for text in (reference, hypothesis))
    if not words or not heard:  # jiwer refuses an empty reference
        return [Piece("delete" if words else "insert", words, heard)] if words or heard else []
    found = jiwer.process_words(" ".join(words), " ".join(heard)).alignments[0]
    return [
        Piece(c.type, words[c.ref_start_idx : c.ref_end_idx], heard[c.hyp_start_idx : c.hyp_end_idx]) for c in found
    ]


def count_errors(pieces: Sequence[Piece]) -> dict[str, int]:
    """Words of the reference and errors of each kind in an alignment.

    >>> count_errors(align("one red apple", "one read"))
    {'words': 3, 'substitute': 1, 'insert': 0, 'delete': 1}
    """
    counts = {"words": sum(len(piece.reference) for piece in pieces), "substitute": 0, "insert": 0, "delete": 0}
    for piece in pieces:
        if piece.kind != "equal":
            counts[piece.kind] += max(len(piece.reference), len(piece.hypothesis))
    return counts


def interlinear(alignments: Sequence[Sequence[Piece]]) -> list[Column]:
    """Several hypotheses of one reference, a column a word: rows to be set under each other.

    alignments: one for each hypothesis, all of the same reference. Words inserted at one place share columns.

    >>> for column in interlinear([align("a red apple", "red apple"), align("a red apple", "a bread of apple")]):
    ...     print(column.reference or "-", *(f"{w.kind}:{w.word}" if w else "-" for w in column.heard))
    a delete:a equal:a
    - - insert:bread
    red equal:red substitute:of
    apple equal:apple equal:apple
    """
    spread = [_spread(pieces) for pieces in alignments]
    words = [word for piece in (alignments[0] if alignments else ()) for word in piece.reference]
    columns: list[Column] = []
    for place in range(len(words) + 1):
        inserted = [before[place] for before, _ in spread]
        for k in range(max(map(len, inserted), default=0)):
            columns.append(Column("", tuple(Word("insert", row[k]) if k < len(row) else None for row in inserted)))
        if place < len(words):
            columns.append(Column(words[place], tuple(under[place] for _, under in spread)))
    return columns


def _spread(pieces: Sequence[Piece]) -> tuple[list[list[str]], list[Word]]:
    """Words inserted before each word of the reference (and after the last), and what stands under each."""
    before: list[list[str]] = [[]]
    under: list[Word] = []
    for kind, reference, hypothesis in pieces:
        if kind == "insert":
            before[-1].extend(hypothesis)
            continue
        under.extend(Word(kind, word) for word in hypothesis or reference)
        before.extend([] for _ in reference)
    return before, under


def worst_first(before: Score, after: Score) -> list[str]:
    """Ids of all clips, those that got worse from one score to the other first.

    By the errors added, then by the errors after; clips that are alike in both keep the corpus's order.

    >>> from adaptwin_widgets.score import score_texts
    >>> said = ["red green", "hot cold", "up"]
    >>> before, after = ["red", "hot cold", "up"], ["red", "hat called", "up"]
    >>> worst_first(score_texts(said, before, "abc"), score_texts(said, after, "abc"))
    ['b', 'a', 'c']

    Raises `InputError` where the two are not of the same utterances in one order.
    """
    rows = list(zip(before.hypotheses, after.hypotheses, strict=False))
    if len(before.hypotheses) != len(after.hypotheses) or any(a.id != b.id for a, b in rows):
        raise InputError("the two scores are not of the same utterances in one order; evaluate both on one corpus.")
    return [b.id for _, b in sorted(rows, key=lambda row: (row[0].errors - row[1].errors, -row[1].errors))]
