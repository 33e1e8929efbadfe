"""Take a model away: to runtimes other than transformers."""

from __future__ import annotations

from pathlib import Path

from adaptwin_widgets import ct2_writer, onnx_writer
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.files import carry_over, require_room, whole_folder
from adaptwin_widgets.whisper import Whisper

WRITERS = {"ctranslate2": ct2_writer.write, "onnx": onnx_writer.write}
DTYPES = {  # the first is what one gets who says nothing
    "ctranslate2": ("float16", "float32", "int8", "int8_float16", "int8_float32", "bfloat16"),
    "onnx": ("float32", "int8"),
}
OWN = ("model.bin", "encoder_model.onnx")  # files that tell an export from other folders
# What an export may be made of, whatever its format and whoever converted it: beside a new one it is out of date.
FILES = {
    *OWN, *onnx_writer.FILES, "vocabulary.json", "vocabulary.txt", "config.json", "generation_config.json",
    "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "normalizer.json",
}  # fmt: skip


def export(model: Whisper, folder: str | Path, to: str = "ctranslate2", dtype: str | None = None) -> Path:
    """Write a model, compressed or not, as a folder that another runtime loads, and return the folder.

    to: "ctranslate2" for CTranslate2, faster-whisper and whisper-ctranslate2; "onnx" for onnxruntime, with the files
    and names of the Hugging Face exports. dtype: how weights are stored. ctranslate2: float32, float16 (if nothing is
    said), bfloat16, int8 (what is not quantised keeps the runtime's choice), int8_float16, int8_float32; onnx: float32
    (if nothing is said), int8 (inputs are rounded as they come).

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> aw.export(aw.load("small"), "small-ct2", to="ctranslate2", dtype="int8")          # doctest: +SKIP
    PosixPath('small-ct2')

    The folder appears whole or not at all; an earlier export there is replaced, and what else lies beside it is kept.
    Raises InputError for another format, a folder that holds files and no export, and where the runtime's own package
    is missing.
    """
    if not isinstance(model, Whisper):
        raise InputError(f"{type(model).__name__} is no model to export; give what load or compress returned.")
    folder = Path(folder).expanduser()
    check_export(folder, to, dtype)
    with whole_folder(folder, _keep_other_files) as new:
        WRITERS[to](model, new, dtype or DTYPES[to][0])
    return folder


def check_export(folder: Path, to: str, dtype: str | None) -> None:
    """Raise InputError unless there is such a format and an export can be written there: in a new or empty folder, or
    in place of an earlier export."""
    if to not in WRITERS:
        raise InputError(f"{to!r} is no format to export to; choose {' or '.join(WRITERS)}.")
    if dtype and dtype not in DTYPES[to]:
        raise InputError(f"{dtype!r} is no number format to export to {to} in; choose {', '.join(DTYPES[to])}.")
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder to export to.")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / n).is_file() for n in OWN):
        raise InputError(f"{folder} is not empty and holds no export; give another folder.")
    require_room(folder)


def _keep_other_files(target: Path, new: Path) -> None:
    """Copy to the new folder what a user put beside the old export."""
    for entry in target.iterdir():
        if entry.name not in FILES and not (new / entry.name).exists():
            carry_over(entry, new)
