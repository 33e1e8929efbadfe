"""Speech from Hugging Face `datasets`, streaming or not, with our own decoding."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import soundfile

from .errors import InputError
from .files import write_atomically
from .jobs import Job, ensure
from .reading import Reader
from .report import Problem
from .sheets import ROLES, Row
from .utterance import FIELDS, Origin, Utterance

PLAIN = (str, int, float, bool)  # what of a row's other columns can stand in a manifest


def read_dataset(
    dataset: Any,
    columns: Mapping[str, str | None],
    *,
    limit: int | None = None,
    name: str | None = None,
    cache: str | Path | None = None,
    job: Job | None = None,
) -> tuple[str, list[Utterance], list[Problem]]:
    """Name, utterances and problems of a data set; see `speech.Corpus.from_dataset`."""
    if isinstance(dataset, Mapping):
        raise InputError(f"the data set is a dict of splits ({', '.join(map(str, dataset))}); give one of them.")
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} leaves no utterances; give 1 or more.")
    name = name or _name_of(dataset)
    home = Path(cache) if cache is not None else platformdirs.user_cache_path("adaptwin_widgets") / "speech"
    features = getattr(dataset, "features", None)
    audio = columns["audio"]
    if features and audio in features and hasattr(features[audio], "decode"):
        # As it was stored: bytes, or the path of a file.
        dataset = dataset.cast_column(audio, type(features[audio])(decode=False))
    total = limit or (len(dataset) if hasattr(dataset, "__len__") else 0)
    roles: dict[str, str] = {}
    reader, job = Reader(Path(name)), ensure(job)
    for number, cells in enumerate(_first(dataset, limit), 1):
        roles = roles or _roles(list(cells), columns)
        origin = Origin(name, number)
        try:
            row = _row(cells, roles, origin, home)
            if row.id in reader.ids:  # some number the sentence (FLEURS), which several people read
                row = replace(row, id=f"{row.id}-{number:06d}")
            reader.add(row)
        except InputError as error:
            reader.add(Problem(*origin, "unreadable audio", str(error)))
        job.update(number, max(total, number), f"Reading {name}")
    return name, *reader.finish()


def _first(rows: Iterable[Mapping[str, Any]], limit: int | None) -> Iterable[Mapping[str, Any]]:
    # Not islice, which would ask a stream for one row more than it needs.
    for number, row in enumerate(rows, 1):
        yield row
        if number == limit:
            return


def _roles(names: list[str], columns: Mapping[str, str | None]) -> dict[str, str]:
    roles = {}
    for role, usual in ROLES.items():
        wanted = columns.get(role)
        if wanted is not None and wanted not in names:
            raise InputError(f"the data set has no column {wanted!r} for the {role}; choose one of {', '.join(names)}.")
        if found := wanted or next((name for name in usual if name in names), None):
            roles[role] = found
    if "text" not in roles:
        raise InputError(f"none of the columns {', '.join(names)} is known to hold the text; name it with text=.")
    return roles


def _row(cells: Mapping[str, Any], roles: Mapping[str, str], origin: Origin, home: Path) -> Row:
    said = {role: cells.get(roles[role]) for role in roles}
    path = _file_of(said["audio"], home)
    more = {
        key: value for key, value in cells.items() if isinstance(value, PLAIN) and key not in (*FIELDS, *roles.values())
    }
    text = said["text"]
    return Row(
        origin, path, text if isinstance(text, str) else None, home, str(said.get("speaker") or ""),
        str(said.get("id") if said.get("id") is not None else "") or f"{origin.line - 1 if origin.line else 0:06d}",
        more={key: value for key, value in more.items() if value == value},  # a NaN is no JSON
    )  # fmt: skip


def _file_of(sound: Any, home: Path) -> Path | None:
    """The file that holds a row's audio: where it lies, or where it was kept under a name made from its content."""
    if isinstance(sound, str | Path):
        return Path(sound)
    if isinstance(sound, Mapping):
        if (data := sound.get("bytes")) is not None:
            return _kept(data, Path(str(sound.get("path") or "")).suffix.lower(), home)
        if sound.get("array") is not None:
            return _encoded(np.asarray(sound["array"]), sound.get("sampling_rate"), home)
        if sound.get("path"):
            return Path(sound["path"])
    if hasattr(sound, "get_all_samples"):  # torchcodec's decoder, where somebody else decodes
        samples = sound.get_all_samples()
        return _encoded(np.asarray(samples.data).T, samples.sample_rate, home)
    if sound is None:
        return None
    raise InputError(
        f"its audio is a {type(sound).__name__}; it must be bytes, a path, or samples with a sampling rate."
    )


def _encoded(samples: np.ndarray, rate: Any, home: Path) -> Path:
    if not isinstance(rate, int | float) or not rate > 0:
        raise InputError("its samples come without a sampling_rate; add it.")
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:  # channels first
        samples = samples.T
    if np.issubdtype(samples.dtype, np.floating):
        samples = samples.astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, samples, int(rate), format="WAV", subtype="FLOAT")
    return _kept(file.getvalue(), ".wav", home)


def _kept(data: bytes, suffix: str, home: Path) -> Path:
    digest = hashlib.sha256(data).hexdigest()[:32]
    path = home / digest[:2] / f"{digest}{suffix}"
    if not path.is_file():
        write_atomically(path, data)
    return path


def _name_of(dataset: Any) -> str:
    info, split = getattr(dataset, "info", None), getattr(dataset, "split", None)
    return " ".join(str(part) for part in (getattr(info, "dataset_name", None), split) if part) or "data set"
