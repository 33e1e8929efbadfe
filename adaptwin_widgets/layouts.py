"""The ways in which speech lies on disk, told apart by what is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from .audio import FILMS, SOUNDS
from .errors import InputError
from .report import Problem
from .sheets import Row, header_of, json_rows, read_text, table_rows
from .subtitles import join_cues, parse_cues
from .utterance import Origin

Items = Iterator[Row | Problem]
MEDIA = SOUNDS | FILMS
# What may lie beside a recording, the better first: subtitles and segment lists say when something is said.
PARTNERS = (".srt", ".vtt", ".json", ".tsv", ".csv", ".txt", ".lab")
PLAIN = ("audio", "clips", "wavs", "wav", "flac", "mp3")  # folders that are no speaker's
KNOWN = (
    "a manifest (.jsonl), a table (.csv, .tsv) with columns for audio and text, recordings with a .txt, .srt, .vtt, "
    ".csv or .json of the same name, or LibriSpeech's *.trans.txt"
)


def find_layout(path: Path, columns: Mapping[str, str] | None = None) -> tuple[str, Path, Items]:
    """What lies at a path: the layout's name, the file that says it or the folder, and its rows.

    The layout is ``manifest`` (and there are no rows) where it is for `Corpus.from_manifest` to read.
    Raises `InputError` for a folder in which no layout is recognised, or several.
    """
    if path.is_dir():
        return _find_in_folder(path, columns)
    suffix = path.suffix.lower()
    if path.is_file():
        if path.name.lower().endswith(".trans.txt"):
            return "LibriSpeech", path, _librispeech([path])
        if suffix in (".csv", ".tsv") or (suffix == ".txt" and _starts(path, rb"[^\n{]+\|")):
            roles, _, lj = header_of(path, columns)
            if roles is None and lj:
                return "LJSpeech", path, table_rows(path, None, columns)
            segments = roles is not None and "audio" not in roles
            media = media_of(path) if segments else None
            return "segment list" if segments else "table", path, table_rows(path, media, columns)
        if suffix == ".json" and _is_json_list(path):
            return "segment list", path, json_rows(path, media_of(path, required=False), columns)
        if suffix in (".srt", ".vtt"):
            return "subtitles", path, _subtitles(path, media_of(path))
        if suffix in MEDIA:
            return "recordings with text", path, _pairs(path.parent, [path], columns)
    return "manifest", path, iter(())


def media_of(path: Path, required: bool = True) -> Path | None:
    """The recording that lies beside a list of segments or subtitles and has its name.

    Raises `InputError` where there is none, or more than one.
    """
    found = [other for other in _beside(path) if other.suffix.lower() in MEDIA and _named_for(path, other)]
    if len(found) == 1 or (not found and not required):
        return found[0] if found else None
    if not found:
        raise InputError(f"{path}: no recording of the same name lies beside it; put it there, or name it in a column.")
    raise InputError(f"{path}: {found[0].name} and {found[1].name} both have its name; leave one there.")


def _find_in_folder(folder: Path, columns: Mapping[str, str] | None) -> tuple[str, Path, Items]:
    children = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    names = {p.stem for p in children if p.suffix.lower() in MEDIA}
    tables = [p for p in children if p.stem not in names and _is_table(p, columns)]
    if len(tables) > 1:
        raise InputError(f"{folder}: holds {', '.join(p.name for p in tables)}; give the path of one of them.")
    if tables:
        return find_layout(tables[0], columns)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(folder)))
    if lists := [p for p in files if p.name.lower().endswith(".trans.txt")]:
        return "LibriSpeech", folder, _librispeech(lists)
    if any(p.suffix.lower() in MEDIA for p in files):
        return "recordings with text", folder, _pairs(folder, files, columns)
    raise InputError(f"{folder}: holds no speech in a layout that is known: {KNOWN}.")


def _is_table(path: Path, columns: Mapping[str, str] | None) -> bool:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return True
    if suffix in (".csv", ".tsv"):
        try:
            roles, _, lj = header_of(path, columns)
        except InputError:  # the columns asked for are another table's
            return False
        return lj if roles is None else "audio" in roles
    return suffix == ".txt" and path.stem == "metadata" and _starts(path, rb"[^\n{]+\|")


def _librispeech(lists: list[Path]) -> Items:
    """``84-121123-0000 GO DO YOU HEAR`` beside 84-121123-0000.flac; the speaker comes first in the id."""
    for path in lists:
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line.strip():
                name, _, words = line.strip().partition(" ")
                yield Row(Origin(str(path), number), name, words, path.parent, name.partition("-")[0], name)


def _subtitles(path: Path, media: Path | None) -> Items:
    for cue in join_cues(parse_cues(read_text(path))):
        if cue.start is None:
            reason = f"{cue.text!r} are no times; write 00:00:01,500 --> 00:00:04,000."
            yield Problem(str(path), cue.line, "broken line", reason)
        else:
            yield Row(Origin(str(path), cue.line), media, cue.text, path.parent, cue.speaker, "", cue.start, cue.end)


def _pairs(folder: Path, files: list[Path], columns: Mapping[str, str] | None) -> Items:
    """Recordings with a file of the same name beside each; the first folder below `folder` is the speaker."""
    beside: dict[Path, list[Path]] = {}
    used = set()
    for audio in files:
        if audio.suffix.lower() not in MEDIA:
            continue
        if audio.parent not in beside:
            beside[audio.parent] = sorted(audio.parent.iterdir())
        found = [p for p in beside[audio.parent] if p.suffix.lower() in PARTNERS and _named_for(p, audio)]
        used.update(found)
        first, *parts = audio.relative_to(folder).parts
        speaker = first if parts and first.lower() not in PLAIN else ""
        if not found:
            reason = f"no text beside it; add {audio.stem}.txt, or subtitles {audio.stem}.srt."
            yield Problem(str(audio), None, "no text", reason)
            continue
        found.sort(key=lambda p: PARTNERS.index(p.suffix.lower()))
        if alike := [p.name for p in found[1:] if p.suffix == found[0].suffix]:
            reason = f"{found[0].name} and {', '.join(alike)} both have its name; leave one there."
            yield Problem(str(audio), None, "several texts", reason)
            continue
        yield from _first_that_fits(found, audio, speaker, columns)
    for path in files:
        if path.suffix.lower() in PARTNERS and path not in used and path.parent in beside:
            yield Problem(str(path), None, "text alone", "no recording of the same name; not used.", skipped=False)


def _first_that_fits(texts: list[Path], audio: Path, speaker: str, columns: Mapping[str, str] | None) -> Items:
    """The rows of the first text that is what its name promises: a .json may be anything."""
    problems = []
    for path in texts:
        try:
            for row in _partner(path, audio, columns):
                yield row if isinstance(row, Problem) or row.speaker else replace(row, speaker=speaker)
            return
        except InputError as error:
            problems.append(Problem(str(path), None, "broken file", str(error).removeprefix(f"{path}: ")))
    yield from problems


def _partner(path: Path, audio: Path, columns: Mapping[str, str] | None) -> Items:
    suffix = path.suffix.lower()
    if suffix in (".srt", ".vtt"):
        yield from _subtitles(path, audio)
    elif suffix == ".json":
        yield from json_rows(path, audio, columns)
    elif suffix in (".csv", ".tsv"):
        yield from table_rows(path, audio, columns)
    else:
        text = read_text(path)
        broken = re.search("[\ud800-\udfff]", text)
        line = text.count("\n", 0, broken.start()) + 1 if broken else 1
        yield Row(Origin(str(path), line), audio, " ".join(text.split()), path.parent)


def _named_for(partner: Path, audio: Path) -> bool:
    """Whether a text's name is the recording's, perhaps with a language: talk.srt or talk.en.srt for talk.mp4."""
    stem = partner.name[: -len(partner.suffix)]
    return stem == audio.stem or (
        stem.startswith(audio.stem + ".") and bool(re.fullmatch(r"[A-Za-z]{2,3}(-\w+)?", stem[len(audio.stem) + 1 :]))
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _beside(path: Path) -> list[Path]:
    return sorted(p for p in path.parent.iterdir() if p.is_file())


def _starts(path: Path, pattern: bytes) -> bool:
    with path.open("rb") as file:
        return bool(re.match(pattern, file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()))


def _is_json_list(path: Path) -> bool:
    """A list or an object with segments; JSON lines are a manifest whatever they are called."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return True
    try:
        json.loads(text.lstrip().partition("\n")[0])
    except ValueError:
        return '"segments"' in text
    return '"segments"' in text and '"audio"' not in text.partition("\n")[0]
