"""Subtitles (SubRip and WebVTT): cues, and the utterances a long recording is cut into by them."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

LONGEST = 30.0  # seconds: Whisper's window
PAUSE = 1.0  # seconds without a cue after which a new utterance begins
TIME = re.compile(r"\s*(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)\s*")
VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
TAGS = re.compile(r"<[^>]*>|\{\\[^}]*\}|\[[^\]]*\]|[♪♫]")
LEADS = re.compile(r"^\s*(?:-|–|>>+)\s*|^\s*\([^)]*\)\s*$", re.MULTILINE)  # who else speaks now; (laughs)
# Captions that a machine wrote as it listened: every word has its time, every line is shown again above the next.
ROLLING = re.compile(r"<\d\d:\d\d:\d\d\.\d+><c>")
ENDS = re.compile(r"[.?!…。？！][\"'”’»)]*$")


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown, in seconds; `line` is where its times stand. `start` is None for a line that
    should hold times and does not."""

    line: int
    start: float | None
    end: float
    text: str
    speaker: str = ""


def parse_time(text: str) -> float:
    """Seconds of ``12.5`` or ``[hours:]minutes:seconds``, with a point or a comma.

    >>> parse_time("01:02,500"), parse_time("1:00:00"), parse_time("12.5")
    (62.5, 3600.0, 12.5)

    Raises `ValueError` for anything else.
    """
    if match := TIME.fullmatch(text):
        hours, minutes, rest = match.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", "."))
    if not 0 <= (seconds := float(text)) < math.inf:
        raise ValueError(text)
    return seconds


def parse_cues(text: str) -> Iterator[Cue]:
    """The cues of an .srt or .vtt file, marks and descriptions of sounds ([music], ♪, <i>) taken away.

    >>> [cue] = parse_cues("WEBVTT\\n\\n00:01.000 --> 00:02.500\\n<i>Hello</i>\\nyou [sighs]")
    >>> cue.line, cue.start, cue.end, cue.text
    (3, 1.0, 2.5, 'Hello you')
    """
    lines = text.split("\n")
    rolling = bool(ROLLING.search(text))
    before: list[str] = []
    for number, line in enumerate(lines, 1):
        if "-->" not in line:
            continue
        shown = []
        for following in lines[number:]:
            if not following.strip() or "-->" in following:
                break
            shown.append(following)
        raw = "\n".join(shown)
        voice = VOICE.search(raw)
        spoken = [" ".join(line.split()) for line in LEADS.sub(" ", html.unescape(TAGS.sub(" ", raw))).split("\n")]
        words = " ".join(" ".join(line for line in spoken if not (rolling and line in before)).split())
        before = spoken
        first, _, second = line.partition("-->")
        try:
            # After its end a WebVTT cue may say where on the screen it stands.
            start, end = parse_time(first), parse_time(second.split()[0])
        except (ValueError, IndexError):
            yield Cue(number, None, 0.0, line.strip())
        else:
            yield Cue(number, start, end, words, voice.group(1).strip() if voice else "")


def join_cues(cues: Iterable[Cue], longest: float = LONGEST) -> Iterator[Cue]:
    """Cues joined to sentences: a cue ends where the screen is full, in the middle of what somebody says.

    A new utterance begins after a full stop, a pause of a second, another speaker, or where it would be longer than
    `longest` seconds. Cues without words are dropped.

    >>> [c.text for c in join_cues([Cue(1, 0, 2, "Good"), Cue(4, 2, 3, "morning."), Cue(7, 3, 4, "And you?")])]
    ['Good morning.', 'And you?']
    """
    open_cue: Cue | None = None
    for cue in cues:
        if cue.start is None or cue.end <= cue.start:
            yield cue  # for the reader to refuse
            continue
        if not cue.text:
            continue
        if open_cue is None or open_cue.start is None:
            open_cue = cue
            continue
        goes_on = (
            not ENDS.search(open_cue.text)
            and open_cue.speaker == cue.speaker
            and open_cue.start <= cue.start <= open_cue.end + PAUSE
            and cue.end - open_cue.start <= longest
        )
        if goes_on:
            end = max(open_cue.end, cue.end)
            open_cue = replace(open_cue, end=end, text=f"{open_cue.text} {cue.text}")
        else:
            yield open_cue
            open_cue = cue
    if open_cue is not None:
        yield open_cue
