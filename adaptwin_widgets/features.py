"""Log-mel features in batches, equal to those of transformers' Whisper feature extractor."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from .audio import SAMPLE_RATE
from .errors import InputError


class Sound(Protocol):
    """What can be batched: an `Utterance` or a `Window`."""

    @property
    def id(self) -> str: ...
    @property
    def duration(self) -> float: ...
    def samples(self) -> np.ndarray: ...


S = TypeVar("S", bound=Sound)


def log_mel(
    samples: Sequence[np.ndarray],
    extractor: WhisperFeatureExtractor,
    device: str | torch.device = "cpu",
    *,
    zeros: Sequence[bool] = (),
) -> torch.Tensor:
    """Whisper's log-mel features of several clips at once.

    Equal to ``extractor(samples, sampling_rate=16000)`` within rounding, but quicker: frames that
    hold nothing but the padding are known (the floor of 1e-10) and not transformed.

    >>> log_mel([np.zeros(16000, np.float32)], WhisperFeatureExtractor()).shape
    torch.Size([1, 80, 3000])

    `samples` are mono clips at 16 kHz, float32, each of shape [samples]. `zeros`: the clips behind which the features
    are zero, as faster-whisper fills a window, and not those of silence; none where it is empty.
    Returns float32 of shape [clips, mels, frames]; 3000 frames of 10 ms.
    Raises `InputError` for a clip longer than the window (30 s).
    Formula: Radford et al. 2022, section 2.2, as in transformers' ``WhisperFeatureExtractor``.
    """
    longest = max(len(clip) for clip in samples)
    if longest > extractor.n_samples:
        raise InputError(
            f"a clip of {longest / SAMPLE_RATE:.1f} s is longer than Whisper's window of "
            f"{extractor.n_samples // SAMPLE_RATE} s; cut it at pauses."
        )
    hop, half = extractor.hop_length, extractor.n_fft // 2
    frames = min(extractor.nb_max_frames, (longest + half) // hop + 2)
    # Long enough that the mirrored edge reaches no frame we keep, unless the window itself ends there.
    length = min(extractor.n_samples, frames * hop + half)
    waves = np.zeros((len(samples), length), np.float32)
    for row, clip in zip(waves, samples, strict=True):
        row[: len(clip)] = clip

    window = torch.hann_window(extractor.n_fft, device=device)
    spectrum = torch.stft(torch.from_numpy(waves).to(device), extractor.n_fft, hop, window=window, return_complex=True)[
        ..., :frames
    ]
    power = torch.view_as_real(spectrum).square().sum(-1)
    filters = torch.from_numpy(extractor.mel_filters).to(device, torch.float32)
    mel = torch.full((len(samples), filters.shape[1], extractor.nb_max_frames), -10.0, device=device)
    mel[..., :frames] = (filters.T @ power).clamp(min=1e-10).log10()
    mel = (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
    for row, clip, zero in zip(mel, samples, zeros, strict=True) if zeros else ():
        if zero:
            row[:, len(clip) // hop + 1 :] = 0.0
    return mel


def batches(
    sounds: Sequence[S],
    extractor: WhisperFeatureExtractor,
    batch_size: int = 16,
    *,
    device: str | torch.device = "cpu",
    sort: bool = True,
    prefetch: int = 2,
) -> Iterator[tuple[list[S], torch.Tensor]]:
    """Batches of utterances or windows with their features, read ahead in a thread.

    The longest come first, so that a batch that does not fit in memory fails at once and clips of
    one batch end together; ``sort=False`` keeps the order given.

    >>> for utterances, features in batches(corpus, whisper.processor.feature_extractor):
    ...     print(len(utterances), features.shape)      # doctest: +SKIP
    16 torch.Size([16, 80, 3000])

    Yields (list of at most `batch_size`, float32 of shape [clips, mels, frames]).
    Raises `InputError` that names the utterance longer than 30 s, or the file that cannot be read.
    """
    order = sorted(sounds, key=lambda sound: -sound.duration) if sort else list(sounds)
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    limit = extractor.n_samples / SAMPLE_RATE

    def read(sound: S) -> np.ndarray:
        clip = sound.samples()
        if len(clip) > extractor.n_samples:
            raise InputError(
                f"utterance {sound.id!r} lasts {len(clip) / SAMPLE_RATE:.1f} s, longer than Whisper's "
                f"window of {limit:.0f} s; cut it at pauses or leave it out."
            )
        return clip

    def prepare(group: list[S]) -> tuple[list[S], torch.Tensor]:
        return group, log_mel([read(sound) for sound in group], extractor, device)

    ahead: deque[Future[tuple[list[S], torch.Tensor]]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="speech")
    try:
        for group in groups:
            ahead.append(pool.submit(prepare, group))
            if len(ahead) > prefetch:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:  # also when the consumer stops early
        pool.shutdown(wait=True, cancel_futures=True)
