"""Where the encoder's time and memory go, small and original: a profile, transformers beside, peak memory.

    python benchmarks/encoder.py [--json] [--model base] [--encoder 0.45] [--decoder 0.3] [--small DIR] [--batch 8]

profile: one pass over --batch windows, by kind of work, milliseconds of all threads together; what does not shrink
with the ranks (softmax over 1500 x 1500 scores, convolutions, norms) is why time shrinks less than multiply-adds.
encoder: medians of our own path for both models and of transformers for the original, with the decoder's keys and
values of the audio, models taking turns, float32 and the machine's fast format. memory: the largest resident size of
a process that loads a model and transcribes eight clips, less what it has with its imports alone; and the size of the
weights on disk. CTranslate2: its encoder with half of all ranks and with half of all neurons, for it multiplies by
weights in eight bits, and attends in float32.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from runtimes import bytes_of, multiply_adds, options, small_of

import adaptwin_widgets as aw
from adaptwin_widgets.engine import Engine
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.precision import resolve_dtype

KINDS = {
    "matrix products with weights": ("addmm", "linear"),
    "attention's products": ("mm", "bmm", "matmul", "scaled_dot_product"),
    "softmax": ("softmax",),
    "convolutions": ("conv",),
    "activation": ("gelu",),
    "norms": ("norm",),
}
PEAK = """
import sys
from pathlib import Path
import adaptwin_widgets as aw
import adaptwin_widgets.engine, adaptwin_widgets.transcribe, faster_whisper
from adaptwin_widgets.whisper import load
# getrusage's peak outlives exec: it would start at the size of the process that started this one
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
clips = [u.samples() for u in aw.demo_speech()["target_dev"][:8]]
before = peak()
where, runtime = sys.argv[1:]
if runtime == "torch":
    aw.transcribe(load(where), aw.demo_speech()["target_dev"][:8])
else:
    model = faster_whisper.WhisperModel(where, device="cpu", compute_type=runtime)
    for clip in clips:
        list(model.transcribe(clip, language="en", beam_size=1, temperature=0.0)[0])
print(peak() - before)
"""


def windows(model: aw.Whisper, count: int) -> torch.Tensor:
    clips = [u.samples() for u in aw.demo_speech()["target_dev"][:count]]
    return log_mel(clips, model.processor.feature_extractor, model.device)


def profile(model: aw.Whisper, features: torch.Tensor) -> dict[str, float]:
    """Milliseconds by kind of work."""
    engine = Engine(model.model, resolve_dtype("auto", model.device))
    memory = engine.memory(len(features), 8)
    engine.listen(features, memory, 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        engine.listen(features, memory, 0)
    found: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((k for k, marks in KINDS.items() if any(m in name for m in marks)), "the rest")
        found[kind] += event.self_cpu_time_total / 1000
    return {kind: found[kind] for kind in [*KINDS, "the rest"]}


def medians(original: aw.Whisper, small: aw.Whisper, features: torch.Tensor, dtype: torch.dtype, repeats: int) -> dict:
    """Milliseconds of the encoder, three ways taking turns."""
    engines = {"original": Engine(original.model, dtype), "small": Engine(small.model, dtype)}
    memories = {name: engine.memory(len(features), 8) for name, engine in engines.items()}
    theirs = original.model.model

    def transformers() -> None:  # with the decoder's keys and values of the audio, as ours
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            heard = theirs.encoder(features).last_hidden_state
            for layer in theirs.decoder.layers:
                layer.encoder_attn.k_proj(heard), layer.encoder_attn.v_proj(heard)

    ways = {name: lambda n=name: engines[n].listen(features, memories[n], 0) for name in engines}
    ways["original in transformers"] = transformers
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(repeats + 1):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            if turn:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def memory(model: aw.Whisper, place: Path) -> dict[str, dict[str, float]]:
    """Megabytes by runtime: at the peak, and on disk."""
    model.save_pretrained(place / "torch")
    found = {}
    for runtime in ("torch", "float32", "int8"):
        if runtime != "torch":
            aw.export(model, place / runtime, dtype=runtime)
        command = [sys.executable, "-c", PEAK, str(place / runtime), runtime]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        size = bytes_of(place / runtime, "model.safetensors" if runtime == "torch" else "model.bin")
        name = "PyTorch" if runtime == "torch" else f"CTranslate2 {runtime}"
        found[name] = {"peak_megabytes": float(answer), "disk_megabytes": size / 1e6}
    return found


def halves(model: aw.Whisper, repeats: int) -> list[dict]:
    """What CTranslate2's encoder takes with half of one kind of twin, and what multiply-adds say it should."""
    full, twins, models = aw.RankPlan.full(model.config), aw.spectra(model), {"original": model}
    for title, kinds in {"ranks": ("query_key", "value_output"), "neurons": ("feed_forward",)}.items():
        half = {
            name: [rank // (2 if name.endswith(kinds) else 1) for rank in ranks]
            for name, ranks in full.ranks.items() if name.startswith("encoder.")
        }  # fmt: skip
        models[title] = aw.compress(model, aw.RankPlan(half, full.shape, full.source), spectra=twins)
    table = aw.speed_table(models, runtimes=["ctranslate2"], dtypes=["float32", "int8"], repeats=repeats)
    return [
        {"half": row["model"], "dtype": row["dtype"], "ms": row["encoder_ms"], "ratio": row["encoder_ratio"],
         "counted": multiply_adds(models[row["model"]], model, keys=False)}
        for row in table.to_dict("records") if row["model"] != "original"
    ]  # fmt: skip


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=8)
    chosen = parser.parse_args()
    model = aw.load(chosen.model)
    small = small_of(model, chosen)
    counted = multiply_adds(small, model)
    features = windows(model, chosen.batch)
    result: dict = {"model": chosen.model, "batch": len(features), "multiply_adds": counted}
    with torch.inference_mode():
        result["profile_ms"] = {"original": profile(model, features), "small": profile(small, features)}
    fast = resolve_dtype("auto", model.device)
    result["encoder_ms"] = {
        f"{str(dtype).removeprefix('torch.')}, batch {count}": medians(
            model, small, features[:count], dtype, chosen.repeats
        )
        for dtype in dict.fromkeys((fast, torch.float32))
        for count in dict.fromkeys((1, len(features)))
    }
    with tempfile.TemporaryDirectory() as place:
        result["memory"] = {
            name: memory(whisper, Path(place) / name) for name, whisper in (("original", model), ("small", small))
        }
    result["ctranslate2_halves"] = halves(model, chosen.repeats)
    if chosen.json:
        print(json.dumps(result))
        return
    print(f"multiply-adds for 30 s of audio, small over original: {counted:.3f}\n")
    both = result["profile_ms"]
    for kind, before in both["original"].items():
        after = both["small"][kind]
        print(f"{kind:30} {before:8.1f} ms  {after:8.1f} ms  {after / before if before else 0:5.2f}")
    sums = [sum(both[name].values()) for name in ("original", "small")]
    print(f"{'all':30} {sums[0]:8.1f} ms  {sums[1]:8.1f} ms  {sums[1] / sums[0]:5.2f}\n")
    for title, times in result["encoder_ms"].items():
        ratio = times["small"] / times["original"]
        print(f"{title:20}" + "  ".join(f"{name} {value:7.1f} ms" for name, value in times.items())
              + f"  small over original {ratio:.3f}, of counted {ratio / counted:.2f}")  # fmt: skip
    for name in result["memory"]["original"]:
        before, after = (result["memory"][which][name] for which in ("original", "small"))
        cells = (f"{key.split('_')[0]} {before[key]:7.1f} MB  {after[key]:7.1f} MB  {after[key] / before[key]:.2f}"
                 for key in before)  # fmt: skip
        print(f"{name:20}" + "   ".join(cells))
    for row in result["ctranslate2_halves"]:
        print(f"CTranslate2 {row['dtype']:8} half the {row['half']:8} {row['ms']:7.1f} ms  ratio {row['ratio']:.3f}, "
              f"multiply-adds {row['counted']:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
