"""Our decoder against transformers' own `generate`: word errors, equal transcripts, speed. One run, one table.

    python benchmarks/decoding.py [--json] [--limit N] [--model tiny.en base] [--kathleen M.jsonl] ...

For every model and corpus: `generate` in float32 with transformers' own features, ours in float32, ours in the
format `auto` chooses here; the same batches in the same order. Then everything once more in a process that may use
AVX2 only, as on an older machine, on fewer clips (the three settings in `AVX2` hold oneDNN, torch's own kernels
and MKL to it).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers.utils import logging

from adaptwin_widgets import Corpus, Whisper, load
from adaptwin_widgets.precision import fused_attention, resolve_dtype
from adaptwin_widgets.score import paired_difference, score_texts
from adaptwin_widgets.transcribe import transcribe

SPEECH = Path(__file__).parents[2] / "shared" / "speech"
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def generate(whisper: Whisper, corpus: Corpus, batch_size: int) -> list[str]:
    """transformers' own way, longest clips first as in `transcribe`."""
    order = sorted(range(len(corpus)), key=lambda i: -corpus[i].duration)
    language = {"language": "en", "task": "transcribe"} if whisper.multilingual else {}
    texts = [""] * len(corpus)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        samples = [corpus[i].samples() for i in batch]
        inputs = whisper.processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt")
        tokens = whisper.model.generate(inputs.input_features, num_beams=1, do_sample=False, **language)
        for i, text in zip(batch, whisper.processor.batch_decode(tokens, skip_special_tokens=True), strict=True):
            texts[i] = text.strip()
    return texts


def compare(whisper: Whisper, corpus: Corpus, batch_size: int) -> dict:
    """All three ways on one corpus."""
    ways = {
        "generate": lambda: generate(whisper, corpus, batch_size),
        "ours float32": lambda: ours(whisper, corpus, batch_size, "float32"),
        "ours auto": lambda: ours(whisper, corpus, batch_size, "auto"),
    }
    if resolve_dtype("auto") == torch.float32:
        del ways["ours float32"]  # the same thing
    references, ids = [u.text for u in corpus], [u.id for u in corpus]
    rows, texts, scores = {}, {}, {}
    for name, run in ways.items():
        wall, processor = time.perf_counter(), time.process_time()
        texts[name] = run()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        scores[name] = score_texts(references, texts[name], ids)
        difference, low, high = paired_difference(scores[name], scores["generate"])
        equal = [a == b for a, b in zip(texts[name], texts["generate"], strict=True)]
        exact = [a == b for a, b in zip(texts[name], texts.get("ours float32", texts[name]), strict=True)]
        rows[name] = {
            "wer": scores[name].wer,
            "difference": difference,
            "difference_low": low,
            "difference_high": high,
            "equal_to_generate": sum(equal) / len(equal),
            "equal_to_ours_float32": sum(exact) / len(exact),
            "seconds": wall,
            "processor_seconds": processor,
            "audio_seconds_per_second": corpus.seconds / wall,
            "times_faster": rows["generate"]["seconds"] / wall if rows else 1.0,
            "times_less_processor": rows["generate"]["processor_seconds"] / processor if rows else 1.0,
        }
    return rows


def ours(whisper: Whisper, corpus: Corpus, batch_size: int, dtype: str) -> list[str]:
    return [t.text for t in transcribe(whisper, corpus, batch_size=batch_size, dtype=dtype, language="en")]


def measure(options: argparse.Namespace) -> dict:
    """Every model on every corpus in this process."""
    logging.set_verbosity_error()
    dtype = resolve_dtype("auto")
    result = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "torch_kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "settings": {name: os.environ[name] for name in AVX2 if name in os.environ},
        "auto": str(dtype).removeprefix("torch."),
        "fused_attention": fused_attention("cpu", dtype),
        "batch_size": options.batch_size,
        "runs": [],
    }
    for name in options.model:
        whisper = load(name)
        for manifest in (options.kathleen, options.librispeech):
            corpus = Corpus.from_manifest(manifest, manifest.parent.name).head(options.limit)
            transcribe(whisper, corpus[:2])  # the first call of a kernel makes it
            rows = compare(whisper, corpus, options.batch_size)
            run = {
                "model": name,
                "corpus": corpus.name,
                "utterances": len(corpus),
                "audio_seconds": corpus.seconds,
            }
            result["runs"].append({**run, "ways": rows})
            if not options.json:
                show(result["runs"][-1])
    return result


def show(run: dict) -> None:
    """One block of the table."""
    print(f"\n{run['model']} on {run['corpus']}: {run['utterances']} clips, {run['audio_seconds']:.0f} s of speech")
    print(
        f"  {'':14}{'WER':>7}{'differs by':>12}{'alike':>8}{'seconds':>9}{'speech/s':>10}{'faster':>9}{'processor':>11}"
    )
    for name, row in run["ways"].items():
        print(
            f"  {name:14}{row['wer']:7.2f}{row['difference']:+12.2f}{row['equal_to_generate']:8.1%}"
            f"{row['seconds']:9.1f}{row['audio_seconds_per_second']:10.1f}{row['times_faster']:8.2f}x"
            f"{row['times_less_processor']:10.2f}x",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--limit", type=int, help="only so many clips of each corpus")
    parser.add_argument("--model", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--kathleen", type=Path, default=SPEECH / "kathleen" / "dev.jsonl")
    parser.add_argument("--librispeech", type=Path, default=SPEECH / "librispeech" / "dev.jsonl")
    parser.add_argument("--avx2-limit", type=int, default=48, help="clips of each corpus in the second half (48)")
    parser.add_argument("--no-avx2", action="store_true", help="leave the second half out")
    options = parser.parse_args()
    results = {"here": measure(options)}
    if not options.json:
        print(json.dumps({k: v for k, v in results["here"].items() if k != "runs"}))
    if not options.no_avx2:
        limit = min(options.limit or options.avx2_limit, options.avx2_limit)
        again = [
            sys.executable,
            __file__,
            *sys.argv[1:],
            "--no-avx2",
            "--limit",
            str(limit),
            *(() if options.json else ("--json",)),
        ]
        done = subprocess.run(again, env={**os.environ, **AVX2}, stdout=subprocess.PIPE, text=True, check=True)
        results["avx2"] = json.loads(done.stdout)["here"]
        if not options.json:
            for run in results["avx2"]["runs"]:
                show(run)
            print(json.dumps({k: v for k, v in results["avx2"].items() if k != "runs"}))
    if options.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
