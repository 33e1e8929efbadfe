"""Statistics and spectra on disk: tensors in safetensors, everything else as JSON in its header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from adaptwin_widgets.anatomy import Shape, Twin
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.files import temporary_name
from adaptwin_widgets.observe import AttentionMoments, NeuronMoments, OutputMoments, Statistics
from adaptwin_widgets.spectra import Spectra

ATTENTION = ("query", "key", "mean", "second")


def write_statistics(stats: Statistics, path: Path) -> None:
    """Write statistics; `read_statistics` gives them back bit for bit.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "stats.safetensors"
    >>> stats = Statistics(neurons={("encoder", 0): NeuronMoments(torch.zeros(2), torch.eye(2), 7.5)}, speech="mine")
    >>> write_statistics(stats, path)
    >>> read_statistics(path).neurons["encoder", 0].rows
    7.5
    """
    tensors: dict[str, Tensor] = {}
    for (part, layer), attention in stats.attention.items():
        tensors |= {f"attention.{part}.{layer}.{name}": getattr(attention, name) for name in ATTENTION}
    for (part, layer), neurons in stats.neurons.items():
        tensors |= {f"neurons.{part}.{layer}.{name}": getattr(neurons, name) for name in ("mean", "second")}
    if stats.output is not None:
        tensors |= {"output.second": stats.output.second, "output.chances": stats.output.chances}
    rows = [[part, layer, moments.rows] for (part, layer), moments in stats.neurons.items()]
    about = {"source": stats.source, "speech": stats.speech, "seconds": stats.seconds}
    _write(path, tensors, {"attention": [list(key) for key in stats.attention], "neurons": rows, **about})


def read_statistics(path: Path, device: str = "cpu") -> Statistics:
    """Read what `write_statistics` wrote; raises InputError when it is damaged or missing."""
    about, tensors = _read(path, device)
    stats = Statistics(source=about["source"], speech=about["speech"], seconds=about["seconds"])
    for part, layer in about["attention"]:
        moments = (tensors[f"attention.{part}.{layer}.{name}"] for name in ATTENTION)
        stats.attention[part, layer] = AttentionMoments(*moments)
    for part, layer, rows in about["neurons"]:
        mean, second = (tensors[f"neurons.{part}.{layer}.{name}"] for name in ("mean", "second"))
        stats.neurons[part, layer] = NeuronMoments(mean, second, rows)
    if "output.second" in tensors:
        stats.output = OutputMoments(tensors["output.second"], tensors["output.chances"])
    return stats


def write_spectra(spectra: Spectra, path: Path) -> None:
    """Write spectra; `read_spectra` gives them back bit for bit."""
    tensors: dict[str, Tensor] = {f"order.{twin}": order for twin, order in spectra.order.items()}
    for name in ("values", "weight_only"):
        found: dict[Twin, np.ndarray] = getattr(spectra, name)
        tensors |= {f"{name}.{twin}": torch.from_numpy(np.array(values)) for twin, values in found.items()}
    about = {"source": spectra.source, "aware": spectra.aware, "shape": asdict(Shape.of(spectra.config))}
    _write(path, tensors, {**about, "twins": [str(twin) for twin in spectra.values]})


def read_spectra(path: Path) -> Spectra:
    """Read what `write_spectra` wrote; raises InputError when it is damaged or missing."""
    about, tensors = _read(path, "cpu")
    spectra = Spectra(Shape(**about["shape"]), about["source"], aware=about["aware"])
    for text in about["twins"]:
        twin = Twin.parse(text)
        spectra.values[twin] = tensors[f"values.{text}"].numpy()
        spectra.weight_only[twin] = tensors[f"weight_only.{text}"].numpy()
        if f"order.{text}" in tensors:
            spectra.order[twin] = tensors[f"order.{text}"]
    return spectra


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    temporary = temporary_name(path)
    alone = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(alone, temporary, metadata={"about": json.dumps(about)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, device: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, "pt") as opened:
            # Copies: what is memory-mapped dies with its file, which another machine may delete.
            tensors = {name: opened.get_tensor(name).to(device, copy=True) for name in opened.keys()}  # noqa: SIM118
            return json.loads(opened.metadata()["about"]), tensors
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no statistics or spectra can be read from it ({error}); make it again.") from error
