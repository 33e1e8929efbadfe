"""Sound as Whisper wants it: mono, 16 kHz, float32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from .errors import InputError

SAMPLE_RATE = 16_000
"""Samples per second of all audio inside the package (what every Whisper was trained on)."""

# What PyAV reads where libsndfile does not: sound tracks of films, and sound alone in such containers.
FILMS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp"})
SOUNDS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".w64", ".caf",
                    ".m4a", ".aac", ".wma", ".amr", ".mka", ".sph"})  # fmt: skip


class Header(NamedTuple):
    """What an audio file says of itself: its length in seconds, samples per second, channels."""

    seconds: float
    rate: int
    channels: int


def read_audio(path: str | Path, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """Read an audio file of any rate and channel count, or the sound track of a film, as mono at 16 kHz.

    Channels are averaged; other rates are resampled with librosa (soxr, high quality). start, seconds: only this
    part of it, less where the file ends before.

    >>> read_audio("clip.flac").shape                                                    # doctest: +SKIP
    (48000,)
    >>> read_audio("lecture.mp4", start=61.5, seconds=4).shape                           # doctest: +SKIP
    (64000,)

    Returns float32 samples of shape [samples], nominally within -1 and 1.
    Raises `InputError` for a file that is missing, empty, holds NaN, or is of a format that neither libsndfile
    (WAV, FLAC, OGG Vorbis, Opus, MP3, AIFF and more) nor PyAV (the extra ``video``: M4A, MP4, MKV, WebM) can read.
    """
    with _opening(path) as sound:
        samples = sound.read(start, seconds)
        rate = sound.header.rate
    mono = samples.mean(axis=1) if samples.shape[1] != 1 else samples[:, 0]
    if not mono.size:
        raise InputError(f"{path}: holds no audio samples; leave it out or record it again.")
    if not np.isfinite(mono).all():
        raise InputError(f"{path}: holds samples that are not finite numbers; convert or record it again.")
    if rate != SAMPLE_RATE:
        import librosa  # slow to import, and most corpora are at 16 kHz already

        mono = librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    return np.ascontiguousarray(mono, dtype=np.float32)


def audio_header(path: str | Path) -> Header:
    """What the file's header says, without decoding it.

    >>> audio_header("clip.flac")                                                        # doctest: +SKIP
    Header(seconds=3.0, rate=16000, channels=1)

    Raises `InputError` for a file that is missing or cannot be read.
    """
    with _opening(path) as sound:
        return sound.header


def audio_seconds(path: str | Path) -> float:
    """Duration in seconds, from the file's header.

    >>> audio_seconds("clip.flac")                                                       # doctest: +SKIP
    3.0

    Raises `InputError` for a file that is missing or cannot be read.
    """
    return audio_header(path).seconds


def active_power(samples: np.ndarray) -> float:
    """Mean power of the part of a clip in which somebody speaks (0 for silence).

    A frame of 20 ms counts as active when it is less than 15.9 dB below the active level itself,
    found by iteration: the margin of ITU-T P.56, method B, with plain frames for its envelope.

    >>> tone = np.sin(np.arange(16000) * 0.1)
    >>> round(active_power(np.concatenate([tone, np.zeros(48000)])), 2)
    0.5
    """
    width = SAMPLE_RATE // 50
    frames = np.pad(samples.astype(np.float64), (0, -len(samples) % width)).reshape(-1, width)
    power = (frames**2).mean(axis=1)
    level = power.mean()
    for _ in range(50):  # converges in a handful of rounds; the bound is for pathological input
        active = power[power > level * 10**-1.59]
        if not active.size or math.isclose(active.mean(), level, rel_tol=1e-6):
            break
        level = active.mean()
    return float(level)


@contextmanager
def _opening(path: str | Path) -> Iterator[_Sndfile | _Track]:
    """The file, opened by whatever can read it; every mistake of theirs becomes an `InputError`."""
    unreadable = f"{path}: cannot be read as audio; convert it to FLAC, WAV, OGG or MP3."
    sound: _Sndfile | _Track
    try:
        sound = _Sndfile(path)
    except (soundfile.LibsndfileError, OSError) as error:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such audio file; correct the path.") from error
        try:
            import av
        except ImportError:
            if Path(path).suffix.lower() not in FILMS | SOUNDS:
                raise InputError(unreadable) from error
            raise InputError(
                f"{path}: needs PyAV to be read; run pip install 'adaptwin-widgets[video]', or convert it to FLAC."
            ) from error
        try:
            sound = _Track(av.open(str(path), metadata_errors="ignore"))
        except (av.FFmpegError, IndexError, OSError, ValueError) as other:
            raise InputError(unreadable) from other
    try:
        yield sound
    except InputError:
        raise
    except (soundfile.LibsndfileError, OSError, ValueError) as error:  # PyAV's errors are OSErrors or ValueErrors
        raise InputError(f"{path}: cannot be decoded; it is cut off or damaged.") from error
    finally:
        sound.file.close()


class _Sndfile:
    """A file that libsndfile reads."""

    def __init__(self, path: str | Path) -> None:
        self.file = soundfile.SoundFile(str(path))
        self.header = Header(self.file.frames / self.file.samplerate, self.file.samplerate, self.file.channels)

    def read(self, start: float, seconds: float | None) -> np.ndarray:
        """Samples [samples, channels], float32."""
        first = min(round(start * self.header.rate), self.file.frames)
        # An MP3 frame leans on those before it: begin a second earlier and leave that away again.
        early = min(first, self.header.rate) if self.file.format == "MP3" else 0
        self.file.seek(first - early)
        frames = -1 if seconds is None else round((start + seconds) * self.header.rate) - first + early
        return self.file.read(frames, dtype="float32", always_2d=True)[early:]


class _Track:
    """The first sound track of a container that PyAV reads; time begins with its first sample."""

    def __init__(self, container: Any) -> None:
        self.file = container
        self.stream = container.streams.audio[0]
        self.origin = float((self.stream.start_time or 0) * self.stream.time_base)
        self.header = Header(self._seconds(), self.stream.codec_context.sample_rate, self.stream.codec_context.channels)

    def _seconds(self) -> float:
        if self.file.format.name != "aac":  # which has no header: its duration is guessed from the bit rate
            if self.stream.duration is not None:
                return float(self.stream.duration * self.stream.time_base)
            if self.file.duration is not None:
                return max(0.0, self.file.duration / 1e6 - self.origin)
        ends = [(p.pts + (p.duration or 0)) * p.time_base for p in self.file.demux(self.stream) if p.pts is not None]
        self.file.seek(0)
        return max(0.0, float(max(ends, default=0)) - self.origin)

    def read(self, start: float, seconds: float | None) -> np.ndarray:
        """Samples [samples, channels], float32; every frame is put where its time stamp says."""
        import av

        rate, layout = self.header.rate, self.stream.codec_context.layout
        plain = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        first, last = round(start * rate), math.inf if seconds is None else round((start + seconds) * rate)
        if start > 1:  # a second earlier: decoders need to warm up
            self.file.seek(int((self.origin + start - 1) / self.stream.time_base), stream=self.stream)
        pieces: list[tuple[int, np.ndarray]] = []
        place = 0
        for frame in self.file.decode(self.stream):
            if frame.pts is not None:
                place = round((float(frame.pts * frame.time_base) - self.origin) * rate)
            if place >= last:
                break
            for part in plain.resample(frame):
                piece = part.to_ndarray().T
                if place + len(piece) > first:
                    pieces.append((place - first, piece))
                place += len(piece)
        end = max((at + len(piece) for at, piece in pieces), default=0)
        samples = np.zeros((int(min(end, last - first)), self.header.channels), np.float32)
        for at, piece in pieces:
            piece = piece[max(0, -at) :]
            room = samples[max(0, at) :][: len(piece)]
            room[:] = piece[: len(room)]
        return samples
