"""Fine-tunes kept as an adapter (LoRA and its kin, as the peft package writes them), merged into their original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptwin_widgets.errors import InputError, reason
from adaptwin_widgets.files import read_json
from adaptwin_widgets.offline import OFFLINE

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as peft names them


def original(folder: Path, where: str) -> str | Path:
    """What an adapter was trained on, as its configuration says: a folder, also beside the adapter, or a hub name.

    OpenAI's own models that are at hand as packages are taken from there: the weights are the same.
    Raises `InputError` if it does not say.
    """
    name = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: {CONFIG} names no base_model_name_or_path; write there what it was trained on.")
    for place in (Path(name).expanduser(), folder / name):
        if place.exists():
            if place.resolve() == folder.resolve():
                raise InputError(f"{where}: {CONFIG} names its own folder; write there what it was trained on.")
            return place
    short = name.removeprefix("openai/whisper-")
    return short if short in OFFLINE else name


def merged(model: Any, folder: Path, where: str) -> Any:
    """The model with the adapter's change added to its weights, as plain as before.

    Raises `InputError` if peft is missing, or the adapter cannot be read or does not fit.
    """
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{where} has no {WEIGHTS}; save the adapter again (pickled weights are not read).")
    try:
        from peft import PeftModel
    except ImportError as error:
        raise InputError(f"{where} is an adapter; to merge it run: pip install 'adaptwin-widgets[peft]'.") from error
    try:
        wrapped = PeftModel.from_pretrained(model, folder, torch_device="cpu")  # the model moves later, whole
        return wrapped.merge_and_unload(safe_merge=True).requires_grad_(True).eval()  # peft froze all but its own
    except Exception as error:  # of many kinds: peft's own checks raise whatever is at hand
        raise InputError(f"{where} cannot be merged; {reason(error)}.") from error
