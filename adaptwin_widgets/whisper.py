"""Load a Whisper: one of the two that need no network, a folder, a checkpoint, or a model from the hub.

>>> from adaptwin_widgets.whisper import load
>>> whisper = load("tiny.en")
>>> whisper.multilingual, whisper.prompt()
(False, [50257, 50362])
"""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.tokenization_whisper import TASK_IDS, TO_LANGUAGE_CODE

from adaptwin_widgets.card import CARD, is_ours, model_card
from adaptwin_widgets.errors import InputError, reason
from adaptwin_widgets.files import carry_over, read_json, require_room, whole_folder
from adaptwin_widgets.formats import MODEL_TYPES, no_bars, read
from adaptwin_widgets.spelling import whole

NOTES = "adaptwin.json"  # how a compressed model was made
STORED = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}


@dataclass
class Whisper:
    """A model and the processor that belongs to it.

    model: the transformers model, in evaluation mode. processor: its tokenizer and feature extractor.
    source: what it was loaded from.

    >>> load("tiny.en").processor.tokenizer.decode([50257, 50362, 18435, 13], skip_special_tokens=True)
    ' Hello.'
    """

    model: WhisperForConditionalGeneration
    processor: WhisperProcessor
    source: str
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A short name to show: ``tiny.en``, a folder's name, the last part of a hub name."""
        path = Path(self.source)
        return path.resolve().name if path.name in ("", "..") else path.name

    @property
    def multilingual(self) -> bool:
        """Whether the model knows languages other than English."""
        return bool(getattr(self.model.generation_config, "is_multilingual", False))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def config(self) -> WhisperConfig:
        """The model's configuration."""
        return self.model.config

    def prompt(self, language: str | None = None, task: str = "transcribe") -> list[int]:
        """The token ids a decoder starts from that is to write text without timestamps.

        language: a code or an English name; ``None`` is the one in the generation configuration, or English.
        task: ``transcribe``, or ``translate`` to English. Raises `InputError` for what the model has not.

        >>> load("tiny.en").prompt()
        [50257, 50362]
        >>> load("base").prompt("german")  # doctest: +SKIP
        [50258, 50261, 50359, 50363]
        """
        settings = self.model.generation_config
        language = language or getattr(settings, "language", None) or "en"
        code = language.lower().strip("<|>")
        code = TO_LANGUAGE_CODE.get(code, code)
        start, no_timestamps = settings.decoder_start_token_id, settings.no_timestamps_token_id
        if task not in TASK_IDS:
            raise InputError(f"{self.name} knows no task {task!r}; give transcribe or translate.")
        if not self.multilingual:
            if code != "en" or task != "transcribe":
                wish = f"language {language!r}" if code != "en" else f"task {task!r}"
                raise InputError(f"{self.name} knows English only, not {wish}; take a multilingual model (base).")
            return [start, no_timestamps]
        if f"<|{code}|>" not in settings.lang_to_id:
            raise InputError(f"{self.name} knows no language {language!r}; give a code such as en, de or zh.")
        return [start, settings.lang_to_id[f"<|{code}|>"], settings.task_to_id[task], no_timestamps]

    def save_pretrained(self, folder: str | Path, dtype: str | None = None) -> Path:
        """Write model and processor in transformers' layout, and return the folder; a small model gets a model card.

        dtype: store the weights as float32, float16 or bfloat16 (default: as they are); `load` gives float32 again.
        All of it is written beside the folder, then renamed. In a folder that holds a Whisper already,
        weights and settings are replaced and other files kept. Raises `InputError` if it holds anything else.

        >>> load("tiny.en").save_pretrained("copy")  # doctest: +SKIP
        PosixPath('copy')
        """
        folder, stored = Path(folder).expanduser(), None if dtype is None else STORED.get(dtype)
        if dtype is not None and stored is None:
            raise InputError(f"dtype={dtype!r} is no format to store weights in; choose {', '.join(STORED)}.")
        require_model_folder(folder)
        with whole_folder(folder, _keep_other_files) as new, no_bars():
            model = self.model if stored is None else copy.deepcopy(self.model).to(stored)
            model.save_pretrained(new)
            self.processor.save_pretrained(new)
            if self.notes:
                (new / NOTES).write_text(json.dumps(self.notes, indent=1) + "\n", encoding="utf-8")
                (new / CARD).write_text(model_card(self.config, self.notes), encoding="utf-8")
        return folder

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Put model, processor and model card on a hub as one commit, and return its address.

        private: whether a repository that is made for it is for you alone. token: instead of the one you logged in
        with. Raises `InputError` when the hub does not take it.

        >>> small.push_to_hub("me/whisper-small-mine")  # doctest: +SKIP
        'https://huggingface.co/me/whisper-small-mine/commit/...'
        """
        with tempfile.TemporaryDirectory() as place:
            folder = self.save_pretrained(Path(place) / "model")
            hub = HfApi(token=token)
            try:
                hub.create_repo(repo_id, private=private, exist_ok=True)
                return str(hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"Add {self.name}"))
            except Exception as error:  # as many kinds as in `hub.download`
                raise InputError(f"{repo_id} cannot be put on the hub; {reason(error)}.") from error


def load(
    name: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = torch.float32
) -> Whisper:
    """A Whisper, ready to transcribe.

    name: ``tiny.en`` or ``base`` (from Python packages, without network); a folder in transformers' or in
    CTranslate2's layout (one that is called ``base`` as ``./base``), or of an adapter (peft's LoRA and its kin), which
    is merged into its original; a checkpoint of OpenAI's (``small.pt``); or a name on the hub.
    device: torch's default device if not given. dtype: of the weights; weights stored in float16 are the same
    bit for bit in float16 and in float32. ``None`` leaves them as they are stored, and on a CPU in their file, mapped
    into memory: spectra of a large model then need little more than the largest layer.
    Raises `InputError` if there is no such model, if it is no Whisper, or if it cannot be read.

    >>> whisper = load("tiny.en")
    >>> whisper.name, whisper.config.d_model, whisper.model.dtype
    ('tiny.en', 384, torch.float32)
    """
    model, processor, folder = read(name, dtype)
    processor.tokenizer._tokenizer = whole(processor.tokenizer.backend_tokenizer)
    # Fixed sinusoids; transformers freezes them when it builds a model and forgets that when it reads one.
    model.model.encoder.embed_positions.requires_grad_(False)
    model.to(device if device is not None else torch.get_default_device()).eval()
    notes = read_json(folder / NOTES) if folder is not None and (folder / NOTES).is_file() else {}
    return Whisper(model, processor, str(name), notes)


def in_float32(model: Whisper) -> Whisper:
    """The model, or a copy of it with weights in float32 where they are in half precision.

    >>> whisper = load("tiny.en")
    >>> in_float32(whisper) is whisper
    True
    """
    if model.model.dtype == torch.float32:
        return model
    return Whisper(copy.deepcopy(model.model).float(), model.processor, model.source, model.notes)


def require_model_folder(folder: Path) -> None:
    """Raise `InputError` unless a model can be saved there: a new or empty folder, or one that holds a Whisper."""
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder to save the model in.")
    if folder.is_dir() and any(folder.iterdir()):
        config = folder / "config.json"
        if not config.is_file() or read_json(config).get("model_type") not in MODEL_TYPES:
            raise InputError(f"{folder} is not empty and holds no Whisper model; give another folder.")
    require_room(folder)


def _keep_other_files(target: Path, new: Path) -> None:
    """Copy to the new folder what a user put beside the old model."""
    for entry in target.iterdir():
        weights = ".safetensors" in entry.name or entry.name.startswith("pytorch_model")
        own_card = entry.name == CARD and entry.is_file() and not is_ours(entry)
        if weights or ((new / entry.name).exists() and not own_card):
            continue
        carry_over(entry, new)
