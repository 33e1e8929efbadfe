"""Read the weights of a Whisper in CTranslate2's binary format, without CTranslate2.

The layout (`ctranslate2.specs.model_spec`, binary versions 4 to 6), little-endian throughout: version, name
of the specification, its revision, number of variables; then for each variable its name, shape, type, size
in bytes and values; then aliases, pairs of names. A name is a 16-bit length, the characters and a zero byte.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from adaptwin_widgets.errors import InputError

# The format's number of each type; 5 would be bfloat16, which numpy does not know.
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
SELF_ATTENTION = (["q_proj", "k_proj", "v_proj"], ["out_proj"])  # what linear_0, linear_1, ... stack
CROSS_ATTENTION = (["q_proj"], ["k_proj", "v_proj"], ["out_proj"])

Buffer = bytes | mmap.mmap


class _Cursor:
    """Walks over the bytes of a file."""

    def __init__(self, data: Buffer) -> None:
        self.data, self.at = memoryview(data), 0

    def bytes(self, count: int) -> memoryview:
        if self.at + count > len(self.data):
            raise ValueError("the file ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.bytes(struct.calcsize(code)))
        return value

    def name(self) -> str:
        return bytes(self.bytes(self.number("H"))[:-1]).decode()


def read_variables(data: Buffer, where: str) -> dict[str, np.ndarray]:
    """Every variable of a ``model.bin``, as read-only arrays that share the memory of `data`.

    where: what to call the file in messages. Raises `InputError` if `data` is no such file.

    >>> read_variables(b"RIFF....", "clip.wav")
    Traceback (most recent call last):
    ...
    adaptwin_widgets.errors.InputError: clip.wav: this is not a whole CTranslate2 Whisper model.bin; ...
    """
    cursor = _Cursor(data)
    variables: dict[str, np.ndarray] = {}
    try:
        if not 4 <= cursor.number("I") <= 6 or cursor.name() != "WhisperSpec":
            raise ValueError("another version or another kind of model")
        cursor.number("I")  # the specification's revision: so far all name a Whisper's variables alike
        for _ in range(cursor.number("I")):
            name = cursor.name()
            shape = [cursor.number("I") for _ in range(cursor.number("B"))]
            dtype = cursor.number("B")
            values = cursor.bytes(cursor.number("I"))
            if dtype not in DTYPES:
                raise InputError(f"{where}: {name} is bfloat16; convert the model to float16 or float32.")
            variables[name] = np.frombuffer(values, np.dtype(DTYPES[dtype]).newbyteorder("<")).reshape(shape)
        for _ in range(cursor.number("I")):
            alias = cursor.name()
            variables[alias] = variables[cursor.name()]
    except InputError:
        raise
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{where}: this is not a whole CTranslate2 Whisper model.bin; copy or convert it again."
        ) from error
    return variables


def architecture(variables: dict[str, np.ndarray], where: str) -> dict[str, int]:
    """The sizes of a `transformers.WhisperConfig`, read off the weights; raises `InputError` if some lack."""
    try:
        tokens, width = variables["decoder/embeddings/weight"].shape
        sizes = {
            "vocab_size": tokens,
            "d_model": width,
            "num_mel_bins": variables["encoder/conv1/weight"].shape[1],
            "max_source_positions": len(variables["encoder/position_encodings/encodings"]),
            "max_target_positions": len(variables["decoder/position_encodings/encodings"]),
        }
        for part in ("encoder", "decoder"):
            layers = {name.split("/")[1] for name in variables if name.startswith(f"{part}/layer_")}
            sizes[f"{part}_layers"] = len(layers - {"layer_norm"})
            sizes[f"{part}_attention_heads"] = int(variables[f"{part}/num_heads"])
            sizes[f"{part}_ffn_dim"] = len(variables[f"{part}/layer_0/ffn/linear_0/weight"])
    except KeyError as error:
        raise InputError(f"{where}: {error} is missing; this is not a whole Whisper model.") from error
    return sizes


def state_dict(variables: dict[str, np.ndarray], where: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The weights under transformers' names, in the file's own precision or in `dtype`.

    Raises `InputError` if a weight is missing or quantised to integers.
    """
    state: dict[str, Tensor] = {}
    for source, kind, modules in _layout(architecture(variables, where)):
        if source not in variables:
            raise InputError(f"{where}: {source} is missing; this is not a whole Whisper model.")
        stacked = variables[source]
        if stacked.dtype.kind != "f":
            raise InputError(
                f"{where}: {source} is quantised to {stacked.dtype}; convert the model to float16 or float32."
            )
        for module, values in zip(modules, np.array_split(stacked, len(modules)), strict=True):
            if not (module.endswith("k_proj") and kind == "bias"):  # Whisper's keys have none; zeros stand for it
                # A copy, because the file's bytes are read-only and tensors are not.
                tensor = torch.from_numpy(values.copy())
                state[f"model.{module}.{kind}"] = tensor if dtype is None else tensor.to(dtype)
    return state


def _layout(sizes: dict[str, int]) -> Iterator[tuple[str, str, list[str]]]:
    """For every weight of the file: its name there, weight or bias, and the modules stacked in it."""
    yield "decoder/embeddings/weight", "weight", ["decoder.embed_tokens"]
    for number in (1, 2):
        yield from _linear(f"encoder/conv{number}", [f"encoder.conv{number}"])
    for part in ("encoder", "decoder"):
        yield f"{part}/position_encodings/encodings", "weight", [f"{part}.embed_positions"]
        yield from _norm(part, f"{part}.layer_norm")
        for layer in range(sizes[f"{part}_layers"]):
            theirs, ours = f"{part}/layer_{layer}", f"{part}.layers.{layer}"
            blocks: list[tuple[str, str, tuple[list[str], ...]]] = [("self_attention", "self_attn", SELF_ATTENTION)]
            if part == "decoder":
                blocks.append(("attention", "encoder_attn", CROSS_ATTENTION))
            for source, target, stacks in blocks:
                yield from _norm(f"{theirs}/{source}", f"{ours}.{target}_layer_norm")
                for number, stack in enumerate(stacks):
                    yield from _linear(f"{theirs}/{source}/linear_{number}", [f"{ours}.{target}.{m}" for m in stack])
            yield from _norm(f"{theirs}/ffn", f"{ours}.final_layer_norm")
            for number in (0, 1):
                yield from _linear(f"{theirs}/ffn/linear_{number}", [f"{ours}.fc{number + 1}"])


def _linear(source: str, modules: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    for kind in ("weight", "bias"):
        yield f"{source}/{kind}", kind, modules


def _norm(source: str, module: str) -> Iterator[tuple[str, str, list[str]]]:
    yield f"{source}/layer_norm/gamma", "weight", [module]
    yield f"{source}/layer_norm/beta", "bias", [module]
