"""Speech to begin with: the synthetic demonstration corpus that comes with the project."""

from __future__ import annotations

import shutil
from pathlib import Path

from .asterisk import asterisk_speech
from .errors import InputError
from .files import require_room
from .speech import Corpus

__all__ = ["asterisk_speech", "demo_folder", "demo_speech"]


def demo_folder() -> Path:
    """The folder with the demonstration speech: data/demo of a checkout, or the installed copy.

    >>> (demo_folder() / "target" / "train.jsonl").is_file()
    True

    Raises `InputError` if the installation holds none.
    """
    package = Path(__file__).parent
    for folder in (package.parent / "data" / "demo", package / "_demo"):
        if (folder / "target" / "train.jsonl").is_file():
            return folder
    raise InputError(
        f"{package}: the demonstration speech is not installed; install the wheel again or use a checkout."
    )


def notebooks_folder() -> Path:
    """The folder with the notebooks: notebooks/ of a checkout, or the installed copy.

    Raises `InputError` if the installation holds none.
    """
    package = Path(__file__).parent
    for folder in (package.parent / "notebooks", package / "_notebooks"):
        if list(folder.glob("*.ipynb")):
            return folder
    raise InputError(f"{package}: the notebooks are not installed; install the wheel again or use a checkout.")


def copy_demo(folder: Path) -> Path:
    """Copy the demonstration speech and the notebooks to a new folder, and say where in it the speech is.

    Raises `InputError` if there is such a folder already.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already; give the name of a new folder.")
    require_room(folder)
    ignore = shutil.ignore_patterns("runs", ".ipynb_checkpoints")  # a checkout's own results
    shutil.copytree(notebooks_folder(), folder / "notebooks", ignore=ignore)
    return Path(shutil.copytree(demo_folder(), folder / "speech"))


def demo_speech() -> dict[str, Corpus]:
    """Synthetic speech of one target voice and four others, 11 minutes, ready for a first try.

    Keys: "target_train" and "general_train" to observe and tune on, "target_dev" and "general_dev"
    to evaluate on; no two of them share a sentence. Its card is data/README.md in the sources; the
    voices' licences lie beside the speech, in LICENSES.txt.

    >>> {name: len(corpus) for name, corpus in demo_speech().items()}
    {'target_train': 50, 'target_dev': 40, 'general_train': 60, 'general_dev': 60}

    Raises `InputError` if the installation holds no demonstration speech.
    """
    folder = demo_folder()
    return {
        f"{group}_{part}": Corpus.from_manifest(folder / group / f"{part}.jsonl", f"{group} {part}")
        for group in ("target", "general")
        for part in ("train", "dev")
    }
