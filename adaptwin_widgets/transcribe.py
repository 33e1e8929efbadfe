"""Speech to text: greedy decoding of many utterances at once, as fast as the machine does it soundly."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from adaptwin_widgets.engine import Engine
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.features import Sound, batches
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.precision import resolve_dtype
from adaptwin_widgets.threads import workers
from adaptwin_widgets.whisper import Whisper

LOOP_TOKENS = 32  # so many tokens ...
LOOP_TIMES = 4  # ... or so many rounds, whichever is longer, of the same words again and again are a loop
LANGUAGE_CLIPS = 8  # clips of a corpus that are heard to tell its language


@dataclass(frozen=True)
class Transcript:
    """What a model wrote for one clip.

    id: the utterance's. text: without special tokens. tokens: the ids behind it, without prompt and end.
    seconds: the clip's duration. language: the code the model was told. looped: the model wrote the same
    words again and again; the text holds them once.
    """

    id: str
    text: str
    tokens: tuple[int, ...]
    seconds: float
    language: str
    looped: bool


class Runner(Protocol):
    """What runs a model's two passes: `engine.Engine` in torch, `onnx_engine.OnnxEngine` in onnxruntime."""

    device: torch.device

    def memory(self, rows: int, tokens: int) -> Any: ...
    def listen(self, features: torch.Tensor, memory: Any, row: int) -> None: ...
    def step(self, tokens: Sequence[Sequence[int]], memory: Any, first: bool = False) -> torch.Tensor: ...
    def log_probabilities(self, tokens: Sequence[Sequence[int]], memory: Any) -> torch.Tensor: ...


def transcribe(
    whisper: Whisper,
    sounds: Sequence[Sound],
    *,
    batch_size: int = 16,
    dtype: str | torch.dtype = "auto",
    language: str | None = None,
    task: str = "transcribe",
    engine: Runner | None = None,
    job: Job | None = None,
) -> list[Transcript]:
    """Transcribe a corpus, or any list of utterances or windows of at most 30 s, in its order.

    Greedy, without timestamps: in float32 the text of transformers' ``generate(num_beams=1)``, except that a
    decoding loop is cut where it begins to repeat. language: code or name for a multilingual model; ``None``
    detects it once for all. task: ``transcribe``, or ``translate`` to English. dtype: ``auto`` is the fastest sound
    format (`precision.resolve_dtype`). engine: what runs the model instead of torch, such as
    ``OnnxEngine(folder)``; `whisper` then gives tokens and settings only.

    >>> texts = transcribe(whisper, corpus)                                              # doctest: +SKIP
    >>> texts[0].text, texts[0].looped                                                   # doctest: +SKIP
    ('Author of the danger trail, Philip Steels, etc.', False)

    Raises `InputError` for a clip that is too long or cannot be read and for an unknown language, task or dtype;
    `Cancelled` when the job was cancelled.
    """
    if batch_size < 1:
        raise InputError(f"a batch size of {batch_size} is not possible; give 1 or more.")
    engine = engine or Engine(whisper.model, resolve_dtype(dtype, whisper.device))
    if not sounds:
        return []
    if language is None and whisper.multilingual:
        language = detect_language(whisper, sounds, engine=engine)
    prompt = whisper.prompt(language, task)
    code = language_code(whisper, prompt)
    job = ensure(job)
    order = sorted(range(len(sounds)), key=lambda i: -sounds[i].duration)  # clips of a batch end together
    texts: list[Transcript | None] = [None] * len(sounds)
    job.update(0, len(sounds), "Transcribing")
    # Closed whatever happens: its threads end, and torch has its own number again, also where the job is cancelled.
    with closing(_decoded(engine, whisper, [sounds[i] for i in order], prompt, batch_size, job)) as found:
        for done, (index, (tokens, looped)) in enumerate(zip(order, found, strict=True), 1):
            text = whisper.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            sound = sounds[index]
            texts[index] = Transcript(sound.id, text, tuple(tokens), sound.duration, code, looped)
            if done % batch_size == 0 or done == len(sounds):
                job.update(done)
    return [text for text in texts if text is not None]


def detect_language(whisper: Whisper, sounds: Sequence[Sound], *, engine: Runner | None = None) -> str:
    """The code of the language most likely spoken, from a few clips of all; ``en`` for an English-only model.

    >>> detect_language(whisper, corpus)                                                 # doctest: +SKIP
    'en'

    Radford et al. 2022, section 2.3: the distribution over the language tokens after the start token.
    """
    if not whisper.multilingual or not sounds:
        return "en"
    settings = whisper.model.generation_config
    engine = engine or Engine(whisper.model, resolve_dtype("auto", whisper.device))
    count = min(LANGUAGE_CLIPS, len(sounds))
    chosen = [sounds[i * len(sounds) // count] for i in range(count)]
    names, ids = zip(*settings.lang_to_id.items(), strict=True)
    total = torch.zeros(len(ids), device=whisper.device)
    with torch.inference_mode():
        for _, features in batches(chosen, whisper.processor.feature_extractor, 1, device=whisper.device):
            memory = engine.memory(1, 1)
            engine.listen(features, memory, 0)
            found = engine.log_probabilities([[settings.decoder_start_token_id]], memory)
            total += found[0, list(ids)].log_softmax(-1)
    return names[int(total.argmax())].strip("<|>")


def language_code(whisper: Whisper, prompt: Sequence[int]) -> str:
    """The language a decoder prompt asks for, as a code.

    >>> from adaptwin_widgets.whisper import load
    >>> whisper = load("tiny.en")
    >>> language_code(whisper, whisper.prompt())
    'en'
    """
    known = getattr(whisper.model.generation_config, "lang_to_id", None) or {}
    return next((name.strip("<|>") for name, token in known.items() if token in prompt), "en")


def loop_end(tokens: Sequence[int]) -> int | None:
    """Where to cut tokens that end in a loop: after the first of the rounds; ``None`` where there is no loop.

    >>> loop_end([7, 8] + [1, 2, 3] * 20)
    5
    >>> loop_end([7, 8] + [1, 2, 3] * 3) is None
    True
    """
    size = len(tokens)
    for period in range(1, size // LOOP_TIMES + 1):
        start = size - max(LOOP_TOKENS, LOOP_TIMES * period)
        if start < 0:
            break
        if tokens[start : size - period] == tokens[start + period :]:
            while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
                start -= 1
            return start + period
    return None


def _decoded(
    engine: Runner, whisper: Whisper, sounds: Sequence[Sound], prompt: list[int], batch_size: int, job: Job
) -> Generator[tuple[list[int], bool]]:
    """Tokens, and whether they looped, of every sound in its order; every thread works on a window to encode or a batch
    to decode of its own."""
    config, settings = whisper.config, whisper.model.generation_config
    limit = min(config.max_target_positions, settings.max_length or config.max_target_positions)
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    idle: list[Any] = []  # used again: fresh pages cost more than what is written into them

    def encode(features: torch.Tensor, memory: Any, row: int) -> None:
        with torch.inference_mode():
            job.check()
            engine.listen(features, memory, row)

    def decode(memory: Any, heard: list[Future[None]]) -> list[tuple[list[int], bool]]:
        for future in heard:  # these were begun before, so nobody waits for a thread
            future.result()
        with torch.inference_mode():
            found = _greedy(engine, memory, prompt, limit, set(ends), job)
        idle.append(memory)
        return found

    extractor = whisper.processor.feature_extractor
    with workers(engine.device, len(sounds)) as (pool, number):
        step = 1 if engine.device.type == "cpu" else batch_size
        ahead: deque[Future[list[tuple[list[int], bool]]]] = deque()
        for group, features in batches(sounds, extractor, batch_size, device=engine.device, sort=False):
            rows = len(group)
            memory = idle.pop() if idle else engine.memory(min(batch_size, len(sounds)), limit)
            memory.rows, memory.length = rows, 0
            heard = [pool.submit(encode, features[i : i + step], memory, i) for i in range(0, rows, step)]
            ahead.append(pool.submit(decode, memory, heard))
            if len(ahead) > max(1, number // 4):
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _greedy(
    engine: Runner, memory: Any, prompt: list[int], limit: int, ends: set[int], job: Job
) -> list[tuple[list[int], bool]]:
    """Write every utterance in memory to its end, the limit or a loop; each then leaves the batch."""
    tokens: list[list[int]] = [[] for _ in range(memory.rows)]
    looped = [False] * memory.rows
    active = list(range(memory.rows))
    following = engine.step([prompt] * memory.rows, memory, first=True).tolist()
    while True:
        job.check()
        keep = []
        for row, (who, token) in enumerate(zip(active, following, strict=True)):
            if token in ends:
                continue
            text = tokens[who]
            text.append(token)
            cut = loop_end(text) if len(text) % 8 == 0 else None
            if cut is not None:
                del text[cut:]
                looped[who] = True
            elif len(prompt) + len(text) < limit:
                keep.append(row)
        if not keep:
            return list(zip(tokens, looped, strict=True))
        kept = memory.keep(keep)
        active, following = [active[row] for row in kept], [following[row] for row in kept]
        following = engine.step([[token] for token in following], memory).tolist()
