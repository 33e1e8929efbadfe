"""Room on disk for tensors that would fill the memory."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor


class Scratch:
    """Tensors in mapped files of a temporary folder: the system keeps in memory what it has room for.

    The folder goes when this object does, so what holds the tensors has to hold it as well.

    >>> room = Scratch()
    >>> room.zeros(2, 3).add_(1).sum()
    tensor(6.)
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="adaptwin-"))
        self._count = 0
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def zeros(self, *shape: int) -> Tensor:
        """A float32 tensor of zeros, on disk."""
        self._count += 1
        name = str(self.folder / str(self._count))
        return torch.from_file(name, shared=True, size=math.prod(shape), dtype=torch.float32).view(shape)
