"""Models by their names on a hub: from its cache, brought up to date where the hub answers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.offline import OFFLINE

HINT = "tiny.en and base need no network"
WEIGHTS = ["model.safetensors", "model-*.safetensors", "adapter_model.safetensors", "model.bin"]  # and no pickles
FILES = ["*.json", "*.txt", *WEIGHTS]
TIMEOUT = 10  # seconds until a hub that does not answer counts as out of reach


def impossible(name: str) -> bool:
    """Whether no hub can have a model of this name: there, names are ``model`` or ``owner/model``.

    >>> impossible("openai/whisper-tiny.en"), impossible("./mine")
    (False, True)
    """
    return (
        not name.strip()
        or name.startswith((".", "~", "/"))
        or name.endswith(("/", ".pt", ".bin", ".safetensors", ".json", ".jsonl"))
        or name.count("/") > 1
        or "\\" in name
    )


def download(name: str) -> Path:
    """The model's folder in the hub's cache, brought up to date if the hub answers.

    Raises `InputError` if it cannot be had.

    >>> download("openai/whisper-tiny.en")  # doctest: +SKIP
    PosixPath('.../models--openai--whisper-tiny.en/snapshots/...')
    """
    folder, reason = None, "has no model.safetensors on the hub, or not yet in the hub's cache"
    try:
        HfApi().model_info(name, timeout=TIMEOUT)  # the download alone would wait for ever
        folder = snapshot_download(name, allow_patterns=FILES)
    except HFValidationError:
        reason = "is no folder here and no possible name on the hub"
    except Exception as error:  # of many kinds: the hub client's own, its network library's, the system's
        reason = _why(error)
        with suppress(LocalEntryNotFoundError):  # whatever keeps the hub from answering, the cache is still good
            folder = snapshot_download(name, local_files_only=True)
            reason = "is in the hub's cache only in part"
    if folder and any(path for pattern in WEIGHTS for path in Path(folder).glob(pattern)):
        return Path(folder)
    short = name.lower().split("/")[-1].removeprefix("whisper-")
    hint = f"use {short}, which needs no network" if short in OFFLINE else HINT
    raise InputError(f"{name} {reason}; {hint}.")


def _why(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        return "is no folder here, and the hub has no model of this name that is open to you"
    if constants.is_offline_mode():
        return "is no folder here, and with HF_HUB_OFFLINE set only models in the hub's cache can be had"
    return "is no folder here, and the hub cannot be reached"
