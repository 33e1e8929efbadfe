"""A clip for ear and eye: a WAV to play, its waveform, and the log-mel spectrogram that Whisper sees."""

from __future__ import annotations

import io
import math
import wave
from functools import lru_cache

import numpy as np
from transformers import WhisperFeatureExtractor

from .audio import SAMPLE_RATE
from .features import log_mel

MELS = 80  # of all Whispers but large-v3


def to_wav(samples: np.ndarray) -> bytes:
    """The samples [samples] at 16 kHz as a WAV file, mono, 16 bits; louder than 1 is clipped.

    >>> len(to_wav(np.zeros(16000, np.float32)))
    32044
    """
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return file.getvalue()


def waveform(samples: np.ndarray, columns: int) -> np.ndarray:
    """The smallest and largest sample under each of `columns` columns, float32 [columns, 2].

    >>> waveform(np.array([0, 1, -1, 0.5], np.float32), 2).tolist()
    [[0.0, 1.0], [-1.0, 0.5]]
    """
    if not len(samples):
        return np.zeros((columns, 2), np.float32)
    edges = np.arange(columns) * len(samples) // columns
    # Where a column holds no sample of its own, reduceat takes the one at its edge.
    low, high = (way.reduceat(samples, edges) for way in (np.minimum, np.maximum))
    return np.stack([low, high], axis=1).astype(np.float32)


def spectrogram(samples: np.ndarray, columns: int, rows: int = MELS) -> np.ndarray:
    """The log-mel Whisper sees, where there is sound, uint8 [rows, at most `columns`]; row 0 is the lowest band.

    255 is the loudest cell of the clip, 0 is 80 dB below or quieter: what Whisper's own features keep. A frame is
    10 ms; where there are more than `columns`, each column is the loudest of its frames. rows: mel bands, 80 or,
    for large-v3, 128.

    >>> spectrogram(np.zeros(16000, np.float32), 400).shape, spectrogram(np.zeros(16000, np.float32), 40).shape
    ((80, 100), (80, 40))

    Raises `InputError` for a clip longer than Whisper's window (30 s).
    """
    extractor = _extractor(rows)
    frames = max(1, math.ceil(len(samples) / extractor.hop_length))
    mel = log_mel([samples], extractor)[0, :, :frames].numpy()
    if mel.shape[1] > columns:
        mel = np.maximum.reduceat(mel, np.arange(columns) * mel.shape[1] // columns, axis=1)
    # Features lie within 2 of their largest: 8 decades of power, divided by 4.
    return ((mel - mel.max()) * (255 / 2) + 255).clip(0, 255).round().astype(np.uint8)


def mel_row(hertz: float, rows: int = MELS) -> float:
    """The row of the spectrogram, counted from its lowest edge, whose band is centred at a frequency.

    >>> round(mel_row(0), 1), round(mel_row(1000), 1), round(mel_row(8000), 1)
    (-0.5, 26.4, 80.5)

    Formula: Slaney's mel scale, as in Whisper's filters: linear below 1 kHz, logarithmic above.
    """

    def mel(hertz: float) -> float:
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)

    # `rows` centres lie evenly between 0 Hz and half the sample rate, both ends left out.
    return mel(hertz) / mel(SAMPLE_RATE / 2) * (rows + 1) - 0.5


@lru_cache
def _extractor(rows: int) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=rows)
