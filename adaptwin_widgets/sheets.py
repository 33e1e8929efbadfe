"""Rows of speech in tables (CSV, TSV, ``|``) and JSON files: which column says what, and on which line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .audio import SOUNDS
from .errors import InputError
from .report import Problem
from .subtitles import parse_time
from .utterance import FIELDS, Origin

# What other people call the columns; the first that is there is taken. Common Voice: path, sentence, client_id.
ROLES: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "path", "file_name", "filename", "file", "audio_file", "audio_path", "audio_filepath",
              "wav_filename", "wav_file", "wav_path", "wav"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text", "normalised_text"),
    "speaker": ("speaker", "speaker_id", "client_id", "speaker_name", "reader"),
    "id": ("id", "utterance_id", "utt_id", "segment_id"),
    "start": ("start", "start_time", "begin", "offset"),
    "end": ("end", "end_time", "stop"),
    "duration": ("duration",),
}  # fmt: skip
DELIMITERS = "\t|;,"


@dataclass(frozen=True)
class Row:
    """One item as a layout describes it, not yet looked at; what is not said is None or empty."""

    origin: Origin
    audio: str | Path | None
    text: str | None
    folder: Path
    speaker: str = ""
    id: str = ""
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def read_text(path: Path) -> str:
    """A text file; bytes that are not UTF-8 become lone surrogates, so that only their row is lost.

    A byte order mark is taken away; UTF-16 with a mark, as Excel writes it, is read as well.
    Raises `InputError` for a file that cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read; check the path and its permissions.") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace").replace("�", "\udcff")
    else:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def is_utf8(text: str) -> bool:
    """Whether `read_text` found nothing wrong in this part.

    >>> is_utf8("é"), is_utf8(b"\\xe9".decode("utf-8", "surrogateescape"))
    (True, False)
    """
    return not re.search("[\ud800-\udfff]", text)


def roles_of(header: list[str], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which column plays which role; `chosen` names some.

    >>> roles_of(["client_id", "path", "sentence", "age"])
    {'audio': 'path', 'text': 'sentence', 'speaker': 'client_id'}

    Raises `InputError` for a chosen column that is not there.
    """
    roles = {}
    by_name = {name.strip().casefold(): name for name in reversed(header)}
    for role, names in ROLES.items():
        if wanted := (chosen or {}).get(role):
            if wanted not in header:
                raise InputError(f"no column {wanted!r} for the {role}; choose one of {', '.join(header)}.")
            roles[role] = wanted
        elif found := next((by_name[name] for name in names if name in by_name), None):
            roles[role] = found
    return roles


def delimiter_of(line: str, suffix: str) -> str:
    """What separates the columns of a table, from its first line."""
    if suffix == ".tsv":
        return "\t"
    counts = {mark: line.count(mark) for mark in DELIMITERS}
    return max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else ","


def header_of(path: Path, chosen: Mapping[str, str] | None = None) -> tuple[dict[str, str] | None, str, bool]:
    """Roles of a table's columns (None: no header is known), its delimiter, and whether it is LJSpeech's."""
    with path.open("rb") as file:  # the first line only: a table may be long
        start = file.readline(65536)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        first = read_text(path).partition("\n")[0]
    else:
        first = start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        first = re.split("[\r\n]", first, maxsplit=1)[0]  # a classic Mac's lines end in \r alone
    delimiter = delimiter_of(first, path.suffix.lower())
    try:
        header = next(csv.reader([first], delimiter=delimiter, quoting=_quoting(delimiter)), [])
    except csv.Error:  # no table at all, whatever its name
        header = []
    try:
        roles = roles_of(header, chosen)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if "text" in roles and ("audio" in roles or "start" in roles):
        return roles, delimiter, False
    return None, delimiter, delimiter == "|" and len(header) in (2, 3)


def table_rows(path: Path, media: Path | None, chosen: Mapping[str, str] | None = None) -> Iterator[Row | Problem]:
    """The rows of a table with a header, or of LJSpeech's, which has none: id | text | text as it is spoken.

    media: the recording that the rows are segments of, where the table names none.
    Raises `InputError` where it is neither.
    """
    roles, delimiter, lj = header_of(path, chosen)
    if roles is None and not lj:
        raise InputError(
            f"{path}: no columns for audio and text among those of its first line; name them (audio=, text=; "
            "on the command line --audio, --text)."
        )
    lines = read_text(path).split("\n")
    milliseconds = roles is not None and "audio" not in roles and _whisper_tsv(lines, delimiter)
    header: list[str] = []
    for line, values in _records(lines, delimiter):
        if isinstance(values, csv.Error):
            reason = f"not a row of a table ({values}); correct or remove it."
            yield Problem(str(path), line, "broken line", reason)
            continue
        if roles is not None and not header:
            header = values
            continue
        origin = Origin(str(path), line)
        if not any(value.strip() for value in values):
            continue
        if roles is None:
            name, *texts = values
            spoken = next((text for text in reversed(texts) if text.strip()), None)
            yield Row(origin, name, spoken, path.parent, id="" if Path(name).suffix.lower() in SOUNDS else name)
            continue
        cells = dict(zip(header, values, strict=False))
        if len(values) < len(header) and not cells.get(roles["text"]):
            reason = f"{len(values)} columns instead of {len(header)}; correct or remove the line."
            yield Problem(str(path), line, "broken line", reason)
            continue
        yield row_of(cells, roles, origin, path.parent, media, milliseconds)


def json_rows(path: Path, media: Path | None, chosen: Mapping[str, str] | None = None) -> Iterator[Row | Problem]:
    """The objects of a JSON list, or of the list ``segments`` that Whisper's own tools write.

    media: the recording that they are segments of, where they name none.
    Raises `InputError` where the file holds no such list.
    """
    text, decoder = read_text(path), json.JSONDecoder()
    opening = re.match(r"\s*\[", text) or re.search(r'"segments"\s*:\s*\[', text)
    if opening is None:
        raise InputError(f'{path}: holds neither a list nor "segments"; write [{{"start": 0, "end": 2, "text": ...}}].')
    place = opening.end()
    while (found := re.compile(r"[\s,]*").match(text, place)) and text[found.end() : found.end() + 1] not in ("]", ""):
        place = found.end()
        line = text.count("\n", 0, place) + 1
        try:
            cells, place = decoder.raw_decode(text, place)
        except ValueError:
            yield Problem(str(path), line, "broken line", "not valid JSON from here on; correct it.")
            return
        if not isinstance(cells, dict):
            yield Problem(str(path), line, "broken line", 'not a JSON object; write {"start": ..., "text": ...}.')
            continue
        yield row_of(cells, roles_of(list(cells), chosen), Origin(str(path), line), path.parent, media)


def row_of(
    cells: Mapping[str, Any],
    roles: Mapping[str, str],
    origin: Origin,
    folder: Path,
    media: Path | None = None,
    milliseconds: bool = False,
) -> Row | Problem:
    """The row that a table's cells describe."""
    said: dict[str, Any] = {role: cells.get(name) for role, name in roles.items()}
    times: dict[str, float | None] = {}
    for role in ("start", "end", "duration"):
        value = said.get(role)
        try:
            times[role] = (
                None if value is None or value == "" else parse_time(str(value)) / (1000 if milliseconds else 1)
            )
        except ValueError:
            return Problem(*origin, "broken line", f"{role} {value!r} is not a time; write seconds.")
    if media is not None and not said.get("audio") and times.get("start") is None:
        return Problem(*origin, "broken line", f"does not say when in {media.name} it starts; add the time.")
    text = said.get("text")
    used = set(roles.values()) | set(FIELDS)
    return Row(
        origin, said.get("audio") or media, text if isinstance(text, str) else None, folder,
        speaker=str(said.get("speaker") or ""), id=str(said.get("id") or "") if said.get("audio") else "", **times,
        more={key: value for key, value in cells.items() if key not in used and value not in (None, "", [])},
    )  # fmt: skip


def _records(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """The number of the first line of every record, and its cells or what is wrong with it.

    A quote that is never closed swallows the rest of the file: after a mistake the next line begins anew.
    """
    first = 0
    while first < len(lines):
        rest = (lines[i] + "\n" for i in range(first, len(lines)))
        reader = csv.reader(rest, delimiter=delimiter, quoting=_quoting(delimiter), strict=True)
        begun = first
        try:
            for values in reader:
                yield first + 1, values
                first = begun + reader.line_num
        except csv.Error as error:
            yield first + 1, error
            first += 1


def _quoting(delimiter: str) -> Any:
    """Commas and semicolons need quotes; tables with tabs or bars hold quotes of the text's own."""
    return csv.QUOTE_MINIMAL if delimiter in ",;" else csv.QUOTE_NONE


def _whisper_tsv(lines: list[str], delimiter: str) -> bool:
    """Whether it is what Whisper's own tool writes: start, end and text, in whole milliseconds."""
    if delimiter != "\t" or lines[0].split("\t") != ["start", "end", "text"]:
        return False
    return all(re.fullmatch(r"\d+\t\d+\t.*", line) for line in lines[1:] if line.strip())
