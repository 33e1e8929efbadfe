"""From what a layout says to utterances: every item is looked at, what cannot be used is skipped and reported."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from .audio import SAMPLE_RATE, SOUNDS, Header, audio_header, read_audio
from .errors import InputError
from .jobs import Job, ensure
from .report import Problem
from .sheets import Row, is_utf8
from .subtitles import LONGEST
from .utterance import Origin, Utterance, fields_of, is_file, manifest_lines, parse_line, prompt_key

SILENCE = 1e-3  # a peak of less than this (−60 dB of full scale) is no speech
CLIPPED = 1e-3  # share of samples at full scale from which on a clip counts as clipped
TOLERANCE = 0.1  # seconds that a file may be shorter or longer than is said of it
EDGE = 0.5  # seconds by which a subtitle may outlast its recording
PLACES = ("", "clips", "wavs", "audio")  # where a table's audio may lie, beside itself: Common Voice's, LJSpeech's


class Skip(Exception):
    """One item cannot be used: its kind of problem, and the sentence for the user."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason


class Reader:
    """Looks at one item after the other; keeps what is good and the problems of the rest."""

    def __init__(self, root: Path, strict: bool = False) -> None:
        self.root, self.strict = root, strict
        self.utterances: list[Utterance] = []
        self.problems: list[Problem] = []
        self.ids: dict[str, Origin] = {}
        self.header = lru_cache(maxsize=64)(_header)  # a long recording is asked for each of its parts

    def add(self, item: Row | Problem | Utterance, named: object = None) -> None:
        """Take one item in; named: what a manifest calls an utterance's audio."""
        if isinstance(item, Problem):
            return self._refuse(item)
        try:
            utterance = self._made(item) if isinstance(item, Row) else item
            named = item.audio if isinstance(item, Row) else named
            notes = self._vet(utterance, isinstance(named, str) and Path(named).is_absolute())
        except Skip as skip:
            origin = item.origin or Origin(str(self.root))
            return self._refuse(Problem(*origin, skip.kind, skip.reason, item.id))
        self.ids[utterance.id] = utterance.origin or Origin(str(self.root))
        self.utterances.append(utterance)
        self.problems += notes
        return None

    def add_line(self, line: bytes, folder: Path, origin: Origin) -> None:
        """Take one line of a manifest in."""
        try:
            utterance = parse_line(line, folder)
        except InputError as error:
            kind = "not UTF-8" if "UTF-8" in str(error) else "broken line"
            kind = "missing audio" if "is missing" in str(error) else kind
            return self._refuse(Problem(*origin, kind, str(error)))
        return self.add(replace(utterance, origin=origin), fields_of(json.loads(line))["audio"])

    def finish(self) -> tuple[list[Utterance], list[Problem]]:
        """What was read, and the problems; `InputError` where nothing is left."""
        if not self.utterances:
            skipped = [problem for problem in self.problems if problem.skipped]
            first = f"{len(skipped)} skipped, the first: {skipped[0]}" if skipped else "it is empty."
            raise InputError(f"{self.root}: nothing in it can be used; {first}")
        return self.utterances, self.problems

    def _refuse(self, problem: Problem) -> None:
        if self.strict and problem.skipped:
            raise InputError(str(problem))
        self.problems.append(problem)

    def _made(self, row: Row) -> Utterance:
        """The utterance of a row, its audio found and measured."""
        if not is_utf8(f"{row.text}{row.audio}{row.speaker}{row.id}"):
            raise Skip("not UTF-8", "not UTF-8; save the file as UTF-8.")
        if not row.audio:
            raise Skip("broken line", "no audio named; add the path of the audio file.")
        path = row.audio if isinstance(row.audio, Path) else _find_audio(str(row.audio), row.folder)
        if path is None:
            raise Skip("missing audio", f"{row.audio}: no such audio file; correct the path or take the line out.")
        header = self.header(path)
        start, end = row.start, row.end
        if start is None:
            duration = row.duration or header.seconds
        else:
            end = end if end is not None else start + row.duration if row.duration else header.seconds
            if not 0 <= start < end:
                raise Skip("impossible times", f"from {start:g} s to {end:g} s is no time; correct start or end.")
            if end > header.seconds + EDGE:
                raise Skip("audio too short", f"ends at {end:.2f} s, but {path.name} lasts {header.seconds:.2f} s.")
            end = min(end, header.seconds)
            if end - start < TOLERANCE:
                raise Skip("impossible times", f"lasts {end - start:.2f} s only; correct start or end.")
            duration = end - start
        name = row.id or self._name(row, path)
        if name in self.ids and not row.id:  # two files of one name, in two folders
            name = self._name(replace(row, audio=path), path)
        return Utterance(
            name, path, " ".join((row.text or "").split()), row.speaker, duration, more=row.more, start=start,
            origin=row.origin,
        )  # fmt: skip

    def _name(self, row: Row, path: Path) -> str:
        """An id from the audio's name: below the corpus' folder, and when it begins in a long recording."""
        if isinstance(row.audio, str) and not Path(row.audio).is_absolute():
            name = PurePosixPath(row.audio.replace("\\", "/"))
        else:
            folder = self.root if self.root.is_dir() else self.root.parent
            name = PurePosixPath((path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix())
        name = name.with_suffix("") if name.suffix.lower() == path.suffix.lower() else name
        return f"{name}-{round(row.start * 100):06d}" if row.start is not None else str(name)

    def _vet(self, u: Utterance, absolute: bool) -> list[Problem]:
        """What is worth a note; raises `Skip` if what can be told without decoding speaks against it."""
        if not prompt_key(u.text):
            raise Skip("no words", "its transcript holds no words; add what is said.")
        if u.id in self.ids:
            raise Skip("duplicate id", f"id {u.id!r} was given in {self.ids[u.id]}; rename one.")
        header = self.header(u.audio)
        if u.start is None and abs(u.recorded - header.seconds) > TOLERANCE:
            raise Skip(
                "wrong duration", f"{u.audio} lasts {header.seconds:.2f} s, not {u.recorded:.2f} s as said here."
            )
        if u.start is not None and u.start + u.recorded > header.seconds + TOLERANCE:
            end = u.start + u.recorded
            raise Skip("audio too short", f"ends at {end:.2f} s, but {u.audio.name} lasts {header.seconds:.2f} s.")
        if u.duration > LONGEST:
            reason = (
                f"lasts {u.duration:.1f} s, longer than Whisper's window of {LONGEST:g} s; cut it, or add subtitles."
            )
            raise Skip("too long", reason)
        notes = []
        origin = u.origin or Origin(str(self.root))
        if (header.rate, header.channels) != (SAMPLE_RATE, 1):
            change = [f"{header.rate / 1000:g} kHz, resampled to 16 kHz"] * (header.rate != SAMPLE_RATE)
            change += [f"{header.channels} channels, averaged"] * (header.channels != 1)
            kind = "below 16 kHz, resampled" if header.rate < SAMPLE_RATE else "resampled or averaged"
            notes.append(Problem(*origin, kind, f"{u.audio.name}: {'; '.join(change)}.", u.id, skipped=False))
        if absolute:
            reason = f"{u.audio}: an absolute path, which holds on this machine only."
            notes.append(Problem(*origin, "absolute path", reason, u.id, skipped=False))
        return notes


def read_items(
    layout: str, where: Path, rows: Iterable[Row | Problem], *, strict: bool = False, job: Job | None = None
) -> tuple[list[Utterance], list[Problem]]:
    """Utterances and problems of a layout that `layouts.find_layout` found, or of a manifest at `where`.

    Raises `InputError` where nothing is left; strict: for the first item that cannot be used.
    """
    reader, job = Reader(where, strict), ensure(job)
    text = f"Reading {where.name}"
    if layout == "manifest":
        for count, (origin, line) in enumerate(manifest_lines(where), 1):
            reader.add_line(line, where.parent, origin)
            job.update(count, count, text)
    else:
        for count, row in enumerate(rows, 1):
            reader.add(row)
            job.update(count, count, text)
    return reader.finish()


def check_sound(utterances: Iterable[Utterance], job: Job | None = None) -> tuple[list[Utterance], list[Problem]]:
    """Decode every utterance: those that are sound, and the problems.

    Skipped are those that break off, hold NaN, or are silent; clipped ones are noted.
    """
    utterances = list(utterances)
    good, problems = [], []
    for u in ensure(job).track(utterances, text="Checking the audio"):
        origin = u.origin or Origin(str(u.audio))
        try:
            clipped = _decoded(u)
        except Skip as skip:
            problems.append(Problem(*origin, skip.kind, skip.reason, u.id))
            continue
        good.append(u)
        if clipped > CLIPPED:
            reason = f"{u.audio.name}: {clipped:.1%} of its samples are at full scale."
            problems.append(Problem(*origin, "clipped", reason, u.id, skipped=False))
    return good, problems


def _decoded(u: Utterance) -> float:
    """The share of clipped samples of an utterance that is otherwise sound; else raises `Skip`."""
    try:
        samples = read_audio(u.audio, u.start or 0.0, None if u.start is None else u.recorded)
    except InputError as error:
        kind = "not finite" if "finite" in str(error) else "damaged audio"
        raise Skip(kind, str(error)) from error
    seconds = len(samples) / SAMPLE_RATE
    if abs(seconds - u.recorded) > TOLERANCE:
        raise Skip(
            "truncated audio", f"{u.audio}: {seconds:.2f} s of {u.recorded:.2f} s can be decoded; it is cut off."
        )
    peaks = np.abs(samples)
    if peaks.max() < SILENCE:
        raise Skip("silent audio", f"{u.audio}: is silent; leave it out or record it again.")
    return float((peaks >= 0.999).mean())


def _header(path: Path) -> Header:
    """The header of a file that can be read, is not empty and, a WAV, is as long as it says."""
    if path.is_file() and not path.stat().st_size:
        raise Skip("empty audio", f"{path}: holds nothing (0 bytes); leave it out or record it again.")
    try:
        header = audio_header(path)
    except InputError as error:
        raise Skip("unreadable audio", str(error)) from error
    if not header.seconds > 0 or not math.isfinite(header.seconds):
        raise Skip("empty audio", f"{path}: holds no audio samples; leave it out or record it again.")
    if missing := _missing_bytes(path):
        raise Skip("truncated audio", f"{path}: {missing} bytes of its audio are missing; it is cut off.")
    return header


def _missing_bytes(path: Path) -> int:
    """How much shorter a WAV is than its header says; libsndfile silently reads what is left."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return 0
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"data":
                # 0 and the largest number stand for a length that was not known when writing began.
                return 0 if size >= 0x7FFFF000 else max(0, size - (path.stat().st_size - file.tell()))
            file.seek(size + size % 2, 1)
    return 0


def _find_audio(name: str, folder: Path) -> Path | None:
    """The file that a table names: beside it, in clips/, wavs/ or audio/, with or without its suffix."""
    name = name.strip()
    for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
        for place in PLACES:
            if is_file(path := folder / place / spelled):
                return path
        if Path(spelled).suffix.lower() not in SOUNDS:
            for place in PLACES:
                for suffix in sorted(SOUNDS):
                    if is_file(path := folder / place / f"{spelled}{suffix}"):
                        return path
    return None
