"""A small writer of ONNX graphs: nodes by name, weights in one file beside them, in float32 or int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adaptwin_widgets.errors import InputError

OPSET, IR_VERSION = 20, 10  # understood by onnxruntime since 1.17
ALIGNED = 4096  # weights begin at multiples of this, so that a runtime can map the file


class Weights:
    """The weights of several graphs in one file; one that two graphs name is stored once.

    >>> import io
    >>> weights = Weights(io.BytesIO(), "w.data")
    >>> weights.add("a", np.ones(3, np.float32)).external_data[1].value
    '0'
    """

    def __init__(self, file: Any, name: str):
        self.file, self.name = file, name
        self._known: dict[str, Any] = {}

    def add(self, name: str, array: np.ndarray) -> Any:
        """The weight as ONNX's own record of where it is stored."""
        if name not in self._known:
            onnx = package()
            record = onnx.TensorProto(name=name, dims=array.shape, data_location=onnx.TensorProto.EXTERNAL)
            record.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            start = -(-self.file.tell() // ALIGNED) * ALIGNED
            self.file.write(b"\0" * (start - self.file.tell()))
            self.file.write(np.ascontiguousarray(array).tobytes())
            for key, value in (("location", self.name), ("offset", start), ("length", array.nbytes)):
                record.external_data.add(key=key, value=str(value))
            self._known[name] = record
        return self._known[name]


class Graph:
    """One graph under construction. Every method returns the name of what it computes.

    weights: where large arrays go. int8: whether matrices are stored in 8 bits, a scale for every output, and
    multiplied with inputs that are rounded to 8 bits as they come, with a scale for every row: one for all, as
    onnxruntime's own tool has it, is that of the largest value of all frames, and rounds the others three times as
    coarsely.
    """

    def __init__(self, weights: Weights, int8: bool = False):
        self.onnx = package()
        self.weights, self.int8 = weights, int8
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._eight: dict[str, tuple[str, str, str]] = {}  # by its name, what was rounded already

    def op(self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """A node; its output's name, or a list of them. name: what a single output shall be called."""
        names = [name] if name else [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def input(self, name: str, shape: list[int | str], dtype: type = np.float32) -> str:
        self.inputs.append(self._value(name, shape, dtype))
        return name

    def output(self, value: str, name: str, shape: list[int | str]) -> None:
        self.op("Identity", value, name=name)
        self.outputs.append(self._value(name, shape, np.float32))

    def constant(self, *values: int) -> str:
        """A vector of whole numbers, for shapes and positions."""
        name = "ints_" + "_".join(map(str, values))
        self.initializers[name] = self.onnx.numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def scalar(self, value: float, dtype: type = np.float32) -> str:
        name = f"{dtype.__name__}_{value}"
        self.initializers[name] = self.onnx.numpy_helper.from_array(np.array(value, dtype), name)
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        self.initializers[name] = self.weights.add(name, array)
        return name

    def matrix(self, name: str, array: np.ndarray) -> tuple[str, str | None]:
        """A matrix [in, out] as it is stored: its name, and in int8 that of the scales [out]."""
        if not self.int8:
            return self.weight(name, array), None
        scale = np.maximum(np.abs(array).max(0), 1e-12) / 127
        rounded = np.rint(array / scale).astype(np.int8)
        return self.weight(f"{name}.int8", rounded), self.weight(f"{name}.scale", scale.astype(np.float32))

    def linear(self, x: str, name: str, array: np.ndarray, bias: np.ndarray | None = None) -> str:
        """x [..., in] times a matrix [in, out], plus a bias [out]."""
        matrix, scale = self.matrix(name, array)
        if scale is None:
            y = self.op("MatMul", x, matrix)
        else:
            rounded, size, zero = self._rounded(x)
            y = self.op("Cast", self.op("MatMulInteger", rounded, matrix, zero), to=self.onnx.TensorProto.FLOAT)
            y = self.op("Mul", self.op("Mul", y, size), scale)
        return y if bias is None else self.op("Add", y, self.weight(f"{name}.bias", bias))

    def _rounded(self, x: str) -> tuple[str, str, str]:
        """x [..., in] in 8 bits, the scale of each row [..., 1], and what stands for zero."""
        if x not in self._eight:
            largest = self.op("ReduceMax", self.op("Abs", x), self.constant(-1), keepdims=1)
            size = self.op("Max", self.op("Mul", largest, self.scalar(1 / 127)), self.scalar(1e-12))
            middle = self.scalar(128, np.uint8)
            self._eight[x] = self.op("QuantizeLinear", self.op("Div", x, size), self.scalar(1.0), middle), size, middle
        return self._eight[x]

    def save(self, path: Path) -> None:
        """Check the graph and write it; the weights are in their own file."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, path.stem, self.inputs, self.outputs, list(self.initializers.values()))
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="adaptwin_widgets")
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _value(self, name: str, shape: list[int | str], dtype: type) -> Any:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)


def package() -> Any:
    """The onnx package; raises InputError where it is missing."""
    try:
        import onnx
    except ImportError as error:
        raise InputError("ONNX is not installed here; run: pip install 'adaptwin-widgets[onnx]'.") from error
    return onnx
