"""What the original heard, put right by what somebody wrote down, in the original's own way of writing."""

from __future__ import annotations

from collections.abc import Callable

import jiwer

from adaptwin_widgets.score import WITHOUT_SPACES, normaliser

WRONG = 0.5  # share of the words; beyond it the transcript is of something else, or the original heard nothing
ENDS = ".,;:?!…"


def corrected(heard: str, said: str, language: str = "en") -> str | None:
    """A model's text with the words that differ from a transcript replaced by the transcript's.

    What is alike after Whisper's normaliser stays as the model wrote it, case, punctuation and numbers, and what is
    replaced takes its manner on, for corpora write in capitals or without a comma. None where more than half of the
    words differ, where there is no transcript, and for languages without spaces. language: a code, such as "en".

    >>> corrected("Mr. Quilter is the possible.", "MISTER QUILTER IS THE APOSTLE")
    'Mr. Quilter is the apostle.'
    >>> corrected("22 men, in hit.", "Twenty two men in it")
    '22 men, in it.'
    """
    if language in WITHOUT_SPACES:
        return None
    normalise = normaliser(language)
    theirs, ours = _words(said, normalise), _words(heard, normalise)
    if not theirs or not ours:
        return None
    found = jiwer.process_words(" ".join(key for key, _ in theirs), " ".join(key for key, _ in ours)).alignments[0]
    plain = said.upper() == said  # nobody says where capitals belong
    written: list[str] = []
    wrong = 0
    for alike, old, new in _blocks(found, ours, theirs):
        old_text, new_text = " ".join(old), " ".join(new)
        if alike or normalise(old_text) == normalise(new_text):
            written += old
            continue
        wrong += max(len(old), len(new))
        written += _in_their_manner(new, old, first=not written or written[-1][-1] in ".?!", plain=plain)
    return " ".join(written) if wrong <= WRONG * len(theirs) else None


def _words(text: str, normalise: Callable[[str], str]) -> list[tuple[str, str]]:
    """(normalised, as written) of every word; what is nothing after normalising goes with its neighbour."""
    found: list[tuple[str, str]] = []
    nothing = ""  # before the first word
    for word in text.split():
        key = normalise(word).strip().replace(" ", "_")
        if key:
            found.append((key, nothing + word))
            nothing = ""
        elif found:
            found[-1] = found[-1][0], f"{found[-1][1]} {word}"
        else:
            nothing += f"{word} "
    return found


def _blocks(
    chunks: list, ours: list[tuple[str, str]], theirs: list[tuple[str, str]]
) -> list[tuple[bool, list[str], list[str]]]:
    """(whether alike, words as we wrote them, as they did), neighbours that differ together."""
    found: list[tuple[bool, list[str], list[str]]] = []
    for chunk in chunks:
        alike = chunk.type == "equal"
        old = [word for _, word in ours[chunk.hyp_start_idx : chunk.hyp_end_idx]]
        new = [word for _, word in theirs[chunk.ref_start_idx : chunk.ref_end_idx]]
        if found and not alike and not found[-1][0]:
            found[-1][1].extend(old)
            found[-1][2].extend(new)
        else:
            found.append((alike, old, new))
    return found


def _in_their_manner(new: list[str], old: list[str], first: bool, plain: bool) -> list[str]:
    """Words of a transcript as the model would have written them in the place of its own."""
    if not new:
        return []
    words = [word.lower() for word in new] if plain else list(new)
    if plain and (first or (old and old[0][:1].isupper())):
        words[0] = words[0][:1].upper() + words[0][1:]
    if old and old[-1][-1] in ENDS and words[-1][-1] not in ENDS:
        words[-1] += old[-1][-1]
    return words
