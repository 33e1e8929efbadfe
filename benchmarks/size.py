"""Time and memory against the size of the model: weights alone, from safetensors on disk to a small model on disk.

    python benchmarks/size.py [--json] [--model tiny base ...] [--dtype float16] [--picture docs/size.png]

Random weights in the shapes of Whisper's sizes (what they are does not matter to the work) are written to a temporary
folder. Child processes then measure, each from its start of loading to its end and with all the memory that was ever
resident, the mapped file and Python's own half gigabyte included (CPU seconds count Python's start as well):

spectra: load, all weight-only spectra. compress: load, spectra, a plan with 45 % of the encoder and 30 % of the decoder
removed, compression, saving. OMP_NUM_THREADS sets the number of threads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {  # width, heads, layers of encoder and decoder, tokens, mel bins
    "tiny": (384, 6, 4, 4, 51865, 80),
    "base": (512, 8, 6, 6, 51865, 80),
    "small": (768, 12, 12, 12, 51865, 80),
    "medium": (1024, 16, 24, 24, 51865, 80),
    "large-v3": (1280, 20, 32, 32, 51866, 128),
    "turbo": (1280, 20, 32, 4, 51866, 128),
}
USUAL = [name for name in SIZES if name != "turbo"]
WORK = ("spectra", "compress")
BUDGET = {"encoder": 0.45, "decoder": 0.3}


def write(name: str, folder: Path, dtype: str) -> None:
    """A random model of this shape, in the layout of the hub."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from adaptwin_widgets.assemble import assemble, forbidden_tokens, tokenizer_of
    from adaptwin_widgets.offline import known_tokenizer
    from adaptwin_widgets.whisper import Whisper

    width, heads, encoder, decoder, tokens, mels = SIZES[name]
    sizes = {
        "d_model": width, "encoder_layers": encoder, "decoder_layers": decoder, "vocab_size": tokens,
        "encoder_attention_heads": heads, "decoder_attention_heads": heads, "num_mel_bins": mels,
        "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
    }  # fmt: skip
    with torch.device("meta"):
        empty = WhisperForConditionalGeneration(WhisperConfig(**sizes)).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in empty.items():
        if key != "proj_out.weight":
            spread = value.shape[-1] ** -0.5 if value.dim() > 1 else 0.02
            state[key] = torch.randn(value.shape, generator=generator).mul_(spread).to(getattr(torch, dtype))
    tokenizer = tokenizer_of(known_tokenizer(tokens, name), tokens, name)
    Whisper(*assemble(state, sizes, tokenizer, forbidden_tokens(tokenizer), name), name).save_pretrained(folder)


def work(kind: str, folder: Path, stored: bool) -> dict[str, Any]:
    """Do one piece of work in this process and say what it took."""
    import torch

    import adaptwin_widgets as aw

    marks = [("start", time.perf_counter())]

    def mark(stage: str) -> None:
        marks.append((stage, time.perf_counter()))

    model = aw.load(folder, dtype=None if stored else torch.float32)
    mark("load")
    twins = aw.spectra(model)
    mark("spectra")
    if kind == "compress":
        plan = aw.RankPlan.for_budget(twins, **BUDGET)
        mark("plan")
        small = aw.compress(model, plan, spectra=twins)
        mark("compress")
        small.save_pretrained(folder.with_name("small"))
        mark("save")
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    stages = {after: end - begun for (_, begun), (after, end) in itertools.pairwise(marks)}
    return {
        "seconds": sum(stages.values()), "cpu_seconds": used.ru_utime + used.ru_stime, "peak_gib": peak / 2**30,
        "stages": stages, "parameters": model.model.num_parameters(),
    }  # fmt: skip


def child(*arguments: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))} failed.")
    return json.loads(done.stdout)


def measure(name: str, dtype: str, stored: bool, quiet: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        child("write", name, folder, dtype)
        row: dict[str, Any] = {"model": name, **{kind: child(kind, folder, *["stored"] * stored) for kind in WORK}}
    row["parameters"] = row["spectra"].pop("parameters")
    if not quiet:
        cells = "   ".join(
            f"{kind} {row[kind]['seconds']:7.1f} s (CPU {row[kind]['cpu_seconds']:.1f}) "
            f"{row[kind]['peak_gib']:5.2f} GiB ("
            + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row[kind]["stages"].items()) + ")"
            for kind in WORK
        )  # fmt: skip
        print(f"{name:9} {row['parameters'] / 1e6:7.1f} M   {cells}", flush=True)
    return row


def growth(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Exponents: with twice the parameters a thing grows by two to their power."""
    found = {}
    for kind in WORK:
        found[kind] = {}
        for what in ("seconds", "peak_gib"):
            (x0, y0), (x1, y1) = ((math.log(r["parameters"]), math.log(r[kind][what])) for r in (rows[0], rows[-1]))
            found[kind][what] = (y1 - y0) / (x1 - x0)
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    x = [row["parameters"] / 1e6 for row in rows]
    for panel, what, unit in zip(panels, ("seconds", "peak_gib"), ("seconds", "GiB resident at most"), strict=True):
        for kind, words in zip(WORK, ("all spectra", "plan and compression to disk"), strict=True):
            panel.loglog(x, [row[kind][what] for row in rows], "o-", label=words)
        panel.set(xlabel="million parameters", ylabel=unit)
        panel.grid(alpha=0.3)
    for row, at in zip(rows, x, strict=True):
        panels[1].annotate(
            row["model"], (at, row["compress"]["peak_gib"]), (0, 6), textcoords="offset points", ha="center"
        )
    panels[0].legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, *rest = sys.argv[2:]
        if kind == "write":
            write(rest[0], Path(rest[1]), rest[2])
            print("{}")
        else:
            print(json.dumps(work(kind, Path(rest[0]), len(rest) > 1)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=USUAL, choices=list(SIZES))
    parser.add_argument("--dtype", default="float16", choices=["float16", "float32"], help="on disk")
    parser.add_argument("--as-stored", action="store_true", help="load(dtype=None): leave the weights in their file")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    import torch

    threads = torch.get_num_threads()
    rows = [measure(name, chosen.dtype, chosen.as_stored, chosen.json) for name in chosen.model]
    result = {
        "threads": threads,
        "dtype": chosen.dtype,
        "as_stored": chosen.as_stored,
        "budget": BUDGET,
        "models": rows,
    }
    if len(rows) > 1:
        result["growth"] = growth(rows)
    if chosen.picture:
        draw(rows, chosen.picture)
    if chosen.json:
        print(json.dumps(result))
    elif "growth" in result:
        for kind, exponents in result["growth"].items():
            time_power, memory_power = exponents["seconds"], exponents["peak_gib"]
            print(f"{kind}: seconds grow with parameters to the power {time_power:.2f}, memory {memory_power:.2f}")


if __name__ == "__main__":
    main()
