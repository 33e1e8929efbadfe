"""An ONNX export run by onnxruntime, behind the same few calls as `engine.Engine`, so that `transcribe` drives both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.onnx_writer import FILES


@dataclass
class OnnxMemory:
    """What a batch has heard and written: the encoder's output [rows, 1500, d], and all layers' keys and values."""

    heard: np.ndarray
    past: dict[str, np.ndarray] = field(default_factory=dict)
    rows: int = 0
    length: int = 0

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all other rows. Returns the rows in their new order."""
        self.past = {name: tensor[list(rows)] for name, tensor in self.past.items()}
        self.rows = len(rows)
        return list(rows)


class OnnxEngine:
    """One exported folder, ready to hear and write.

    threads: of every call; None leaves it to onnxruntime.

    >>> engine = OnnxEngine("small-onnx")                                                 # doctest: +SKIP
    >>> transcribe(small, corpus, engine=engine)                                          # doctest: +SKIP

    Raises InputError for a folder that lacks a file, a file that cannot be read (which one), and where onnxruntime is
    missing.
    """

    device = torch.device("cpu")

    def __init__(self, folder: str | Path, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("onnxruntime is not installed here; run: pip install 'adaptwin-widgets[onnx]'.") from error
        folder = Path(folder)
        for name in (*FILES, "generation_config.json"):
            if not (folder / name).is_file():
                raise InputError(f"{folder} is no whole ONNX export: {name} is missing; export the model again.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        sessions = []
        for name in FILES[:3]:
            try:
                session = onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime has many of its own, with one thing to say
                raise InputError(f"{folder / name} cannot be read; export the model again. ({error})") from error
            sessions.append(session)
        self.encoder, self.first, self.next = sessions
        states = self.encoder.get_outputs()[0].shape
        self.frames, self.width = int(states[1]), int(states[2])
        self.vocabulary = int(self.first.get_outputs()[-1].shape[-1])
        settings = GenerationConfig.from_pretrained(folder)
        never, not_first = settings.suppress_tokens or [], settings.begin_suppress_tokens or []
        self.never, self.not_first = self._forbid(never), self._forbid([*never, *not_first])

    def memory(self, rows: int, tokens: int) -> OnnxMemory:
        """Room for `rows` utterances; how many tokens they will have need not be known."""
        return OnnxMemory(np.zeros((rows, self.frames, self.width), np.float32), rows=rows)

    def listen(self, features: Tensor, memory: OnnxMemory, row: int) -> None:
        """Encode windows [B, mels, 3000] and keep them from `row` on."""
        (states,) = self.encoder.run(["last_hidden_state"], {"input_features": features.float().numpy()})
        memory.heard[row : row + len(features)] = states

    def step(self, tokens: Sequence[Sequence[int]], memory: OnnxMemory, first: bool = False) -> Tensor:
        """Write tokens [B][t] (the prompt, or one each) and return the likeliest next ones [B]."""
        forbidden = self.not_first if first else self.never
        return torch.from_numpy((self._scores(tokens, memory) + forbidden).argmax(-1))

    def log_probabilities(self, tokens: Sequence[Sequence[int]], memory: OnnxMemory) -> Tensor:
        """As `step`, but all next tokens' log-probabilities [B, vocabulary], none forbidden."""
        return torch.from_numpy(self._scores(tokens, memory)).log_softmax(-1)

    def _scores(self, tokens: Sequence[Sequence[int]], memory: OnnxMemory) -> np.ndarray:
        given: dict[str, Any] = {"input_ids": np.array(tokens, np.int64)}
        if memory.length == 0:
            session, memory.past = self.first, {}
            given["encoder_hidden_states"] = memory.heard[: memory.rows]
        else:
            session = self.next
            given |= {f"past_key_values.{name}": tensor for name, tensor in memory.past.items()}
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, given), strict=True))
        memory.length += len(tokens[0])
        memory.past |= {name.removeprefix("present."): found[name] for name in names if name != "logits"}
        return found["logits"][:, -1]

    def _forbid(self, tokens: Sequence[int]) -> np.ndarray:
        bias = np.zeros(self.vocabulary, np.float32)
        bias[[token for token in tokens if token < self.vocabulary]] = -np.inf
        return bias
