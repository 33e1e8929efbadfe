"""Matrices that do not change, in 16 bits: turned once, where autocast would do it again at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

BYTES = 2**29  # of what is kept; what comes later is turned at every call


class Short:
    """16-bit copies of matrices, as long as these live and are what they were.

    >>> short, matrix = Short(torch.bfloat16), torch.eye(2)
    >>> short.of(matrix) is short.of(matrix)
    True
    >>> _ = matrix.mul_(3)
    >>> short.of(matrix).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.kept: Any = WeakTensorKeyDictionary()

    def of(self, matrix: Tensor) -> Tensor:
        """The matrix in 16 bits."""
        version, found = self.kept.get(matrix, (None, None))
        if version != matrix._version:
            found = matrix.detach().to(self.dtype)
            others = sum(copy.nbytes for key, (_, copy) in list(self.kept.items()) if key is not matrix)
            if others + found.nbytes <= BYTES:
                self.kept[matrix] = matrix._version, found
        return found


class Shortened(TorchFunctionMode):
    """Within it, linear maps whose matrix is not learnt read its copy in `Short`."""

    def __init__(self, short: Short):
        super().__init__()
        self.short = short

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and len(args) > 1 and self._suits(weight := args[1]):
            args = (args[0], self.short.of(weight), *args[2:])
        return func(*args, **(kwargs or {}))

    def _suits(self, weight: Tensor) -> bool:
        learnt = weight.requires_grad and torch.is_grad_enabled()
        return isinstance(weight, torch.nn.Parameter) and weight.dtype == torch.float32 and not learnt
