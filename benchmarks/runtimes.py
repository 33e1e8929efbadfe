"""The same small model in every runtime: word errors, seconds, size, and what each part takes beside the original.

    python benchmarks/runtimes.py [--json] [--model base] [--encoder 0.45] [--decoder 0.3] [--limit N] [--part wer]

wer: greedy, without temperature fallback, on both dev sets: PyTorch float32, CTranslate2 through unmodified
faster-whisper (as it is called, and with every clip filled up to 30 s with silence by the caller, as Whisper's own
code does) and with the features of PyTorch, onnxruntime, in float32 and int8, and the original beside it. --minutes
tunes the small model first, on the train sets. speed: medians with the models taking turns; "of counted" is the
encoder's time ratio over the ratio of multiply-adds, one being all that was promised.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _speech import SPEECH, corpora

import adaptwin_widgets as aw
from adaptwin_widgets.anatomy import Shape, twins_of
from adaptwin_widgets.audio import SAMPLE_RATE
from adaptwin_widgets.cost import cost
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.onnx_engine import OnnxEngine
from adaptwin_widgets.score import Score, paired_difference, score_texts
from adaptwin_widgets.speed import RUNTIMES

Texts = Callable[[aw.Corpus], list[str]]


def filled_up(samples: np.ndarray) -> np.ndarray:
    """With silence up to 30 s; left alone, faster-whisper writes zeros behind its spectrogram, which are louder."""
    return np.pad(samples, (0, max(0, 30 * SAMPLE_RATE - len(samples))))


@functools.cache
def opened(folder: Path, dtype: str, threads: int) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(folder), device="cpu", compute_type=dtype, cpu_threads=threads)


def faster_whisper(folder: Path, dtype: str, filled: bool = False, threads: int = 0) -> Texts:
    """How unmodified faster-whisper transcribes. threads: 0 is as many as it takes if nobody says."""
    model = opened(folder, dtype, threads)

    def texts(corpus: aw.Corpus) -> list[str]:
        found = []
        for clip in corpus:
            samples = clip.samples()
            segments, _ = model.transcribe(
                filled_up(samples) if filled else samples, language="en", beam_size=1, temperature=0.0,
                condition_on_previous_text=False, without_timestamps=True, compression_ratio_threshold=None,
                log_prob_threshold=None, no_speech_threshold=None,
            )  # fmt: skip
            found.append("".join(segment.text for segment in segments).strip())
        return found

    return texts


def ctranslate2_alone(folder: Path, dtype: str, whisper: aw.Whisper) -> Texts:
    """CTranslate2 with our features: what is left is the difference between the two runtimes."""
    import ctranslate2

    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type=dtype)
    extract, tokenizer = whisper.processor.feature_extractor, whisper.processor.tokenizer

    def texts(corpus: aw.Corpus) -> list[str]:
        found = []
        for clip in corpus:
            features = ctranslate2.StorageView.from_array(log_mel([clip.samples()], extract, whisper.device).numpy())
            (answer,) = model.generate(features, [whisper.prompt("en")], beam_size=1)
            found.append(tokenizer.decode(answer.sequences_ids[0], skip_special_tokens=True).strip())
        return found

    return texts


def own(model: aw.Whisper, **options: object) -> Texts:
    return lambda corpus: [t.text for t in aw.transcribe(model, corpus, language="en", **options)]


def ways(title: str, model: aw.Whisper, place: Path, most: bool) -> dict[str, tuple[Texts, int]]:
    """By name: how to transcribe, and the bytes on disk. most: all of them, else those of interest for a baseline."""
    size = cost(model.config, getattr(model.config, "ranks", None)).bytes("float32")
    found = {f"{title}, PyTorch float32": (own(model, dtype="float32"), size)}
    for dtype in ("float32", "int8"):
        folder = aw.export(model, place / f"{title}-ct2-{dtype}", dtype=dtype)
        bytes_there = bytes_of(folder, "model.bin")
        found[f"{title}, faster-whisper {dtype}"] = (faster_whisper(folder, dtype), bytes_there)
        found[f"{title}, faster-whisper {dtype}, filled up"] = (faster_whisper(folder, dtype, True), bytes_there)
        if most:
            found[f"{title}, CTranslate2 {dtype}"] = (ctranslate2_alone(folder, dtype, model), bytes_there)
    for dtype in ("float32", "int8") if most else ():
        folder = aw.export(model, place / f"{title}-onnx-{dtype}", to="onnx", dtype=dtype)
        found[f"{title}, onnxruntime {dtype}"] = (own(model, engine=OnnxEngine(folder)), bytes_of(folder, "*.data"))
    return found


def bytes_of(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def scored(
    way: str, texts: Texts, size: int, sets: dict[str, aw.Corpus], to: str = "", against: dict[str, Score] | None = None
) -> tuple[dict, dict[str, Score]]:
    """A row of the table, and its scores. to, against: what it is paired with, by name and with its scores."""
    row: dict = {"way": way, "megabytes": size / 1e6}
    scores = {}
    for part, corpus in sets.items():
        began = time.perf_counter()
        score = score_texts([u.text for u in corpus], texts(corpus), [u.id for u in corpus])
        row[part] = {"wer": score.wer, "seconds": time.perf_counter() - began}
        scores[part] = score
        if to:
            row[part] |= zip((to, "low", "high"), paired_difference(score, (against or scores)[part]), strict=True)
    return row, scores


def word_errors(original: aw.Whisper, small: aw.Whisper, sets: dict[str, aw.Corpus], quiet: bool) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        every = {**ways("small", small, Path(name), True), **ways("original", original, Path(name), False)}
        first: dict[str, Score] | None = None
        for way, (texts, size) in every.items():
            row, scores = scored(way, texts, size, sets, "to_small_pytorch", first)
            first = first or scores
            rows.append(row)
            if not quiet:
                cells = "   ".join(
                    f"{part} {row[part]['wer']:6.2f} ({row[part]['to_small_pytorch']:+.2f}) "
                    f"{row[part]['seconds']:6.1f} s"
                    for part in sets
                )
                print(f"{way:44} {row['megabytes']:7.1f} MB   {cells}", flush=True)
    return rows


def multiply_adds(small: aw.Whisper, original: aw.Whisper, keys: bool = True) -> float:
    """Those for 30 s of audio, small over original. keys: with the decoder's keys and values of the audio, which our
    engine makes with the encoder, the other runtimes with the first token."""
    cross = [twin for twin in twins_of(Shape.of(original.config)) if twin.part == "cross"]
    without = {} if keys else {str(twin): [0] for twin in cross}
    return cost(small.config, small.config.ranks | without).audio / cost(original.config, without).audio


def speeds(original: aw.Whisper, small: aw.Whisper, repeats: int, quiet: bool) -> list[dict]:
    counted = {runtime: multiply_adds(small, original, runtime == "torch") for runtime in RUNTIMES}
    tables = [
        aw.speed_table({"original": original, "small": small}, runtimes=[runtime], dtypes=dtypes, batch_sizes=(1, 8),
                       repeats=repeats)
        for runtime, dtypes in (("torch", ["auto"]), ("ctranslate2", ["float32", "int8"]), ("onnx", ["float32"]))
    ]  # fmt: skip
    rows = [row for table in tables for row in table.to_dict("records")]
    for row in rows:
        row["of_counted"] = row["encoder_ratio"] / counted[row["runtime"]] if row["model"] == "small" else None
    if not quiet:
        print(f"\nmultiply-adds for 30 s of audio, small over original: {counted['torch']:.3f}, "
              f"of the encoder alone, as the other runtimes run it, {counted['onnx']:.3f}")  # fmt: skip
        for row in rows:
            extra = (
                f"  ratio {row['encoder_ratio']:.3f}, of counted {row['of_counted']:.2f}" if row["of_counted"] else ""
            )
            print(f"{row['model']:9} {row['runtime']:12} {row['dtype']:8} batch {row['batch']}  "
                  f"encoder {row['encoder_ms']:7.1f} ms  prompt {row['prompt_ms']:6.1f} ms  "
                  f"token {row['token_ms']:5.1f} ms  {row['megabytes']:6.1f} MB{extra}")  # fmt: skip
    return rows


def options(description: str | None) -> argparse.ArgumentParser:
    """Which small model, and how to answer: shared with `encoder.py`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--encoder", type=float, default=0.45)
    parser.add_argument("--decoder", type=float, default=0.3)
    parser.add_argument("--method", default="ours", help="ours, or even: no padding in CTranslate2")
    parser.add_argument("--of", default="parameters", help="what the budgets are of: parameters, multiply-adds, or the "
                        "time measured in torch, ctranslate2 or onnx")  # fmt: skip
    parser.add_argument("--small", type=Path, help="the folder of a small model; where there is none, it is made there")
    parser.add_argument("--minutes", type=float, help="of tuning, for a small model that is made")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    return parser


def small_of(model: aw.Whisper, chosen: argparse.Namespace) -> aw.Whisper:
    """The small model asked for, made from the train sets or read from its folder."""
    if chosen.small and chosen.small.is_dir():
        return aw.load(chosen.small)
    recipe = aw.Recipe(model, list(corpora("train", chosen.speech).values()))
    of = chosen.of
    if of in RUNTIMES:
        of = aw.measure_times(model, runtime=of, dtype=None if of == "torch" else "float32", repeats=chosen.repeats)
    budgets = {"encoder": chosen.encoder} | ({"decoder": chosen.decoder} if chosen.decoder else {})
    small = recipe.compress(recipe.plan(chosen.method, of=of, **budgets))
    if chosen.minutes:
        small = recipe.tune(small, minutes=chosen.minutes)
    if chosen.small:
        small.save_pretrained(chosen.small)
    return small


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--limit", type=int, help="only so many clips of each set")
    parser.add_argument("--part", nargs="+", default=["wer", "speed"], choices=["wer", "speed"])
    chosen = parser.parse_args()
    model = aw.load(chosen.model)
    small = small_of(model, chosen)
    result: dict = {"model": chosen.model, "source": small.source}
    if "wer" in chosen.part:
        sets = {part: corpus.head(chosen.limit) for part, corpus in corpora("dev", chosen.speech).items()}
        result["wer"] = word_errors(model, small, sets, chosen.json)
    if "speed" in chosen.part:
        result["speed"] = speeds(model, small, chosen.repeats, chosen.json)
    if chosen.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
