"""Writing so that nothing is ever half there, and reading what others wrote."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptwin_widgets.errors import InputError


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file under a temporary name beside its own, then rename; the old file stays until then.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> write_atomically(target, "hello"); target.read_text()
    'hello'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def require_room(path: Path) -> None:
    """Raise InputError unless something can be made at this path: asked before the work, not after it."""
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise InputError(f"{path} cannot be written, for {place} is a file; give another path.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written, for you may not write to {place}; give another path.")


def require_file(path: Path | None) -> None:
    """The same for a file; None is nothing to write.

    >>> require_file(Path("."))
    Traceback (most recent call last):
    ...
    adaptwin_widgets.errors.InputError: . is a folder; give a file to write to.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file to write to.")
    require_room(path)


def carry_over(entry: Path, folder: Path) -> None:
    """Copy a file, a link or a folder into another folder."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.copytree(entry, folder / entry.name, symlinks=True)
    else:
        shutil.copy2(entry, folder / entry.name, follow_symlinks=False)


@contextmanager
def whole_folder(target: Path, keep: Callable[[Path, Path], None] | None = None) -> Iterator[Path]:
    """A new folder to write into, which takes the target's place when all went well; else the old one stays.

    keep: called with the old and the new folder to carry over what is to stay.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "model"
    >>> with whole_folder(target) as new: _ = (new / "weights").write_text("all of them")
    >>> [path.name for path in target.parent.rglob("*")]
    ['model', 'weights']
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    new, old = staging / "new", staging / "old"
    new.mkdir()
    try:
        yield new
        if target.exists():
            if keep is not None:
                keep(target, new)
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `InputError` naming the file if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    return content
