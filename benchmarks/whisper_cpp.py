"""Eight bits beside eight bits: word errors, seconds and megabytes in whisper.cpp (16 bits too) and in faster-whisper.

    pip install pywhispercpp
    python benchmarks/whisper_cpp.py [--json] [--model base] [--small FOLDER] [--limit N] [--threads 2]

Greedy, without temperature fallback or timestamps, on both dev sets, one clip at a time, filled up to 30 s with silence
for faster-whisper. --small: a small model of it, with the paired difference to the original in the same runtime.
whisper.cpp knows one dimension for all heads, so only models that were not compressed are written for it. The file's
layout is the one its loader reads: magic, eleven numbers, mel filters, vocabulary, then the tensors, each with its
dimensions in reverse.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from _speech import SPEECH, corpora
from runtimes import Texts, bytes_of, faster_whisper, scored
from torch import Tensor, nn
from transformers.convert_slow_tokenizer import bytes_to_unicode

import adaptwin_widgets as aw
from adaptwin_widgets.score import Score

MAGIC = 0x67676D6C
FLOAT32, FLOAT16, EIGHT_BITS = 0, 1, 8  # a tensor's type
FILE_TYPE = {"float16": 1, "int8": 2007}  # 7: eight bits in blocks; 2000: second version of such blocks
BLOCK = 32  # numbers that share a scale
ORIGINAL, SMALL = "original, faster-whisper int8", "small, faster-whisper int8"
ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}


def named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight under OpenAI's name."""

    def both(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", module.weight
        if getattr(module, "bias", None) is not None:
            yield f"{name}.bias", module.bias

    for part, stack in (("encoder", model.model.encoder), ("decoder", model.model.decoder)):
        yield f"{part}.positional_embedding", stack.embed_positions.weight
        for number, layer in enumerate(stack.layers):
            block = f"{part}.blocks.{number}"
            attentions = [("attn", layer.self_attn, layer.self_attn_layer_norm)]
            if part == "decoder":
                attentions.append(("cross_attn", layer.encoder_attn, layer.encoder_attn_layer_norm))
            for name, attention, norm in attentions:
                for theirs, ours in ATTENTION.items():
                    yield from both(f"{block}.{name}.{theirs}", getattr(attention, ours))
                yield from both(f"{block}.{name}_ln", norm)
            for name, module in (("mlp.0", layer.fc1), ("mlp.2", layer.fc2), ("mlp_ln", layer.final_layer_norm)):
                yield from both(f"{block}.{name}", module)
    yield from both("encoder.conv1", model.model.encoder.conv1)
    yield from both("encoder.conv2", model.model.encoder.conv2)
    yield from both("encoder.ln_post", model.model.encoder.layer_norm)
    yield from both("decoder.token_embedding", model.model.decoder.embed_tokens)
    yield from both("decoder.ln", model.model.decoder.layer_norm)


def eight_bits(values: np.ndarray) -> bytes:
    """Blocks of 32: a scale in 16 bits, then the numbers in 8.

    >>> len(eight_bits(np.ones((2, 64), np.float32)))
    136
    """
    blocks = values.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(1, keepdims=True) / 127
    whole = np.round(np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)).astype(np.int8)
    record = np.empty(len(blocks), [("scale", "<f2"), ("whole", "i1", BLOCK)])
    record["scale"], record["whole"] = scale[:, 0], whole
    return record.tobytes()


def write(whisper: aw.Whisper, path: Path, dtype: str) -> Path:
    """A file for whisper.cpp; dtype: float16, or int8 for the matrices."""
    c, tokenizer = whisper.config, whisper.processor.tokenizer
    filters = np.ascontiguousarray(whisper.processor.feature_extractor.mel_filters.T, np.float32)
    byte = {letter: number for number, letter in bytes_to_unicode().items()}
    special = min(tokenizer.added_tokens_decoder)  # whisper.cpp names these itself
    words = [bytes(byte[letter] for letter in tokenizer.convert_ids_to_tokens(i)) for i in range(special)]
    with path.open("wb") as file:
        file.write(struct.pack(
            "<12i", MAGIC, c.vocab_size, c.max_source_positions, c.d_model, c.encoder_attention_heads, c.encoder_layers,
            c.max_target_positions, c.d_model, c.decoder_attention_heads, c.decoder_layers, c.num_mel_bins,
            FILE_TYPE[dtype],
        ))  # fmt: skip
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", len(words)))
        for word in words:
            file.write(struct.pack("<i", len(word)) + word)
        for name, tensor in named(whisper.model):
            values = tensor.detach().float().numpy()
            if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                values = values[:, None]
            if values.ndim == 1 or name.endswith("positional_embedding") or values.shape[-1] == 1:
                kind, data = FLOAT32, values.tobytes()
            elif dtype == "int8" and values.ndim == 2:
                kind, data = EIGHT_BITS, eight_bits(values)
            else:
                kind, data = FLOAT16, values.astype(np.float16).tobytes()
            file.write(struct.pack("<3i", values.ndim, len(name), kind))
            file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + name.encode() + data)
    return path


def whisper_cpp(path: Path, threads: int) -> Texts:
    """How whisper.cpp transcribes with a file."""
    from pywhispercpp.model import Model

    model = Model(
        str(path), redirect_whispercpp_logs_to=None, n_threads=threads, language="en", no_context=True,
        no_timestamps=True, single_segment=True, temperature_inc=0.0, print_progress=False, print_realtime=False,
    )  # fmt: skip

    def texts(corpus: aw.Corpus) -> list[str]:
        return ["".join(s.text for s in model.transcribe(clip.samples())).strip() for clip in corpus]

    return texts


def ways(chosen: argparse.Namespace, models: dict[str, aw.Whisper], place: Path) -> Iterator[tuple[str, Texts, int]]:
    """Name, how to transcribe, and the bytes on disk."""
    if find_spec("pywhispercpp") is None:
        print("whisper.cpp is not installed here; run: pip install pywhispercpp", file=sys.stderr)
    else:
        for dtype in FILE_TYPE:
            path = write(models[ORIGINAL], place / f"{dtype}.bin", dtype)
            yield f"{chosen.model}, whisper.cpp {dtype}", whisper_cpp(path, chosen.threads), path.stat().st_size
    for title, whisper in models.items():
        folder = aw.export(whisper, place / title, dtype="int8")
        texts = faster_whisper(folder, "int8", filled=True, threads=chosen.threads)
        yield title, texts, bytes_of(folder, "model.bin")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--small", type=Path, help="the folder of a small model of it")
    parser.add_argument("--limit", type=int, help="only so many clips of each set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    sets = {part: corpus.head(chosen.limit) for part, corpus in corpora("dev", chosen.speech).items()}
    models = {ORIGINAL: aw.load(chosen.model)} | ({SMALL: aw.load(chosen.small)} if chosen.small else {})
    rows: list[dict] = []
    known: dict[str, dict[str, Score]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, texts, size in ways(chosen, models, Path(folder)):
            paired = ("to_original", known[ORIGINAL]) if way == SMALL else ()
            row, known[way] = scored(way, texts, size, sets, *paired)
            rows.append(row)
            if not chosen.json:
                print(f"{way:34} {row['megabytes']:7.1f} MB", *(f"{p} {cell(row[p])}" for p in sets), flush=True)
    if chosen.json:
        print(json.dumps({"model": chosen.model, "rows": rows}))


def cell(found: dict) -> str:
    paired = "({to_original:+.2f}, {low:+.2f} to {high:+.2f})".format(**found) if "to_original" in found else ""
    return f"  {found['wer']:6.2f} {paired} {found['seconds']:6.1f} s"


if __name__ == "__main__":
    main()
