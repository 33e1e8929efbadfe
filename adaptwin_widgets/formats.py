"""Which layout a model is in, and its reader: transformers', CTranslate2's, OpenAI's, an adapter over any of them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSpeechSeq2Seq, WhisperConfig, WhisperProcessor
from transformers.utils import logging

from adaptwin_widgets import adapter, ct2_reader, hub, openai_reader
from adaptwin_widgets.assemble import complete, from_ct2
from adaptwin_widgets.errors import InputError, reason
from adaptwin_widgets.files import read_json
from adaptwin_widgets.model import TwinWhisperConfig  # and the Auto classes know it
from adaptwin_widgets.offline import OFFLINE, from_packages, known_tokenizer

MODEL_TYPES = (WhisperConfig.model_type, TwinWhisperConfig.model_type)  # as config.json calls them
LARGE = 10**9  # bytes of weights whose loading is worth a progress bar


def read(name: str | Path, dtype: torch.dtype | None) -> tuple[Any, WhisperProcessor, Path | None]:
    """Model, processor and the folder they came from, whatever the layout; see `whisper.load`."""
    where, path = str(name), Path(name).expanduser()
    if where in OFFLINE and isinstance(name, str):
        return *from_packages(where, dtype), None
    if where and path.is_dir():
        return *_from_folder(path, where, dtype), path
    if path.is_file():
        if path.suffix != ".pt":
            raise InputError(
                f"{where} is a file; give a model's folder, an OpenAI checkpoint (.pt) or a hub name ({hub.HINT})."
            )
        return *openai_reader.read(path, where, dtype), None
    if isinstance(name, Path) or hub.impossible(where):
        raise InputError(f"There is no model folder {where!r}; check the path ({hub.HINT}).")
    path = hub.download(where)
    return *_from_folder(path, where, dtype), path


def _from_folder(folder: Path, where: str, dtype: torch.dtype | None) -> tuple[Any, WhisperProcessor]:
    if (folder / adapter.CONFIG).is_file() and not any(folder.glob("model*.safetensors")):
        name = adapter.original(folder, where)
        try:
            model, processor, _ = read(name, dtype)
        except InputError as error:
            raise InputError(f"{where} is an adapter, and the model it belongs to cannot be loaded: {error}") from error
        return adapter.merged(model, folder, where), processor
    if not (folder / "config.json").is_file():
        raise InputError(f"{where} is not a model folder; there is no config.json in it.")
    settings = read_json(folder / "config.json")
    if "model_type" not in settings and (folder / "model.bin").is_file():
        return _from_ct2(folder, settings, where, dtype)
    if (kind := settings.get("model_type")) not in MODEL_TYPES:
        raise InputError(f"{where} holds a model of type {kind!r}; only Whisper models can be loaded.")
    return _from_transformers(folder, where, dtype)


def _from_transformers(folder: Path, where: str, dtype: torch.dtype | None) -> tuple[Any, WhisperProcessor]:
    """One file of weights or several. They are mapped: those stored in `dtype` take memory only while they are read."""
    files = list(folder.glob("model*.safetensors"))
    if not files:
        raise InputError(
            f"{where} has no model.safetensors; save it again with save_pretrained "
            "(pickled weights, pytorch_model.bin, are not read)."
        )
    try:
        with no_bars() if sum(file.stat().st_size for file in files) < LARGE else nullcontext():
            model, report = AutoModelForSpeechSeq2Seq.from_pretrained(
                folder,
                config=AutoConfig.from_pretrained(folder),
                dtype=dtype or "auto",
                use_safetensors=True,
                output_loading_info=True,
            )
            processor = WhisperProcessor.from_pretrained(folder)
        complete(model.generation_config, processor.tokenizer)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{where} cannot be loaded; {reason(error)}.") from error
    start = processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    if start != model.generation_config.decoder_start_token_id:  # transformers makes one up without its file
        raise InputError(f"{where} has no tokenizer that fits the model; copy the original's tokenizer.json there.")
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{where} lacks weights ({missing[0]}, {len(missing)} in all); save the model again.")
    return model, processor


def _from_ct2(
    folder: Path, settings: dict[str, Any], where: str, dtype: torch.dtype | None
) -> tuple[Any, WhisperProcessor]:
    """CTranslate2's folder; older ones have no tokenizer.json."""
    with (folder / "model.bin").open("rb") as file:
        if not file.seek(0, 2):
            raise InputError(f"{where}: model.bin is empty; copy or convert it again.")
        # Mapped, not read: only one copy of the weights is ever in memory. It is unmapped with the last view of it.
        weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if (folder / "tokenizer.json").is_file():
        tokenizer = read_json(folder / "tokenizer.json")
    else:
        sizes = ct2_reader.architecture(ct2_reader.read_variables(weights, where), where)
        tokenizer = known_tokenizer(sizes["vocab_size"], where)
    return from_ct2(weights, settings, tokenizer, where, dtype)


@contextmanager
def no_bars() -> Iterator[None]:
    """Without transformers' progress bars for what takes a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
